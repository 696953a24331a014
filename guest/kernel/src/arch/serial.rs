//! Serial ports (16550): the first is the kernel's console, and a host may listen at another.

use core::fmt;
use x86_64::instructions::port::{Port, PortReadOnly, PortWriteOnly};

const COM1: u16 = 0x3f8;
/// The line status register, counted from the data register, and its bits.
const LINE_STATUS: u16 = 5;
const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

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

/// Sends the 4 bytes of `word`, least significant first, through the port at `data`.
pub fn send_word(data: u16, word: u32) {
    for byte in word.to_le_bytes() {
        await_status(data, TRANSMITTER_EMPTY);
        // SAFETY: a serial port's data register sends and does nothing else.
        unsafe { PortWriteOnly::<u8>::new(data).write(byte) };
    }
}

/// Waits for a byte at the port at `data`.
pub fn receive(data: u16) -> u8 {
    await_status(data, DATA_READY);
    // SAFETY: takes the byte that is there.
    unsafe { Port::<u8>::new(data).read() }
}

fn await_status(data: u16, bit: u8) {
    let mut status = PortReadOnly::<u8>::new(data + LINE_STATUS);
    // SAFETY: reading the status clears error bits, of which nobody makes use.
    while unsafe { status.read() } & bit == 0 {
        core::hint::spin_loop();
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
