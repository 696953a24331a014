//! The guest that is built into this crate: the kernel and every ring-3 program, put there by
//! `build.rs`.

use heirloom_machine::{ImageError, KernelImage, Module};

/// A ring-3 program: an ELF file.
pub struct Program {
    /// Its name as a boot module.
    pub name: &'static str,
    /// The file.
    pub bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/guest.rs"));

/// The embedded kernel, checked like any other.
///
/// # Errors
/// As for a kernel file.
pub fn kernel() -> Result<KernelImage, ImageError> {
    KernelImage::from_bytes("the embedded guest kernel", KERNEL)
}

/// The embedded programs as boot modules.
pub fn modules() -> Vec<Module> {
    PROGRAMS
        .iter()
        .map(|program| Module {
            name: program.name.into(),
            bytes: program.bytes.into(),
        })
        .collect()
}
