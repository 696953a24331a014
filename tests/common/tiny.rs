//! Kernels of a few instructions, those of the machine's own tests, and what they print.

#[path = "../../vmm/machine/tests/common/mod.rs"]
mod machine;

pub(crate) use machine::{BzImage, Elf, HALT, SPIN, code};

/// Prints on the serial port: `mov al, byte; mov dx, 0x3f8; out dx, al` for each byte, in 32- and in 64-bit
/// code.
pub(crate) fn print(text: &[u8]) -> Vec<u8> {
    text.iter()
        .flat_map(|byte| [0xb0, *byte, 0x66, 0xba, 0xf8, 0x03, 0xee])
        .collect()
}
