//! The first serial port, the kernel's console.

use core::fmt;
use x86_64::instructions::port::PortWriteOnly;

const COM1: u16 = 0x3f8;

/// Writes text to COM1. There is no waiting for the transmitter: it is always a virtual one, which
/// takes a byte at once, and each look at its status would cost another exit to the VMM.
pub struct Serial;

impl Serial {
    /// Bytes as they are, but for line ends.
    pub fn write_bytes(bytes: &[u8]) {
        let mut port = PortWriteOnly::<u8>::new(COM1);
        for byte in bytes {
            if *byte == b'\n' {
                // SAFETY: COM1's data register prints and does nothing else.
                unsafe { port.write(b'\r') };
            }
            // SAFETY: as above.
            unsafe { port.write(*byte) };
        }
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        Serial::write_bytes(text.as_bytes());
        Ok(())
    }
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($words:tt)*) => {{
        use core::fmt::Write;
        // The console takes everything.
        let _ = writeln!($crate::arch::serial::Serial, $($words)*);
    }};
}
