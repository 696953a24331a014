//! Serial ports (16550): the first is the kernel's console, and a host may listen at another.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use x86_64::instructions::port::{Port, PortReadOnly, PortWriteOnly};

pub const COM1: u16 = 0x3f8;
/// The line status register, counted from the data register, and its bits.
const LINE_STATUS: u16 = 5;
const DATA_READY: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// The port sends bit by bit: it is a real one, or an emulator's that takes its time.
static TAKES_TIME: AtomicBool = AtomicBool::new(false);

/// Writes text to COM1. There is no waiting for the transmitter of a VMM's port, which takes a byte at once: each
/// look at its status would cost another exit.
pub struct Serial;

impl Serial {
    /// Bytes as they are, but for line ends.
    pub fn write_bytes(bytes: &[u8]) {
        let takes_time = TAKES_TIME.load(Relaxed);
        let put = |byte| {
            if takes_time {
                await_status(COM1, TRANSMITTER_EMPTY);
            }
            // SAFETY: COM1's data register prints and does nothing else.
            unsafe { PortWriteOnly::<u8>::new(COM1).write(byte) };
        };
        for byte in bytes {
            if *byte == b'\n' {
                put(b'\r');
            }
            put(*byte);
        }
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        Serial::write_bytes(text.as_bytes());
        Ok(())
    }
}

/// Sets the port at `data` up, which nobody has: 115200 baud, 8 bits (16550 data sheet, table 2). It sends bit by
/// bit: from now on each byte to the console waits until the one before has left.
pub fn set_up(data: u16) {
    const INTERRUPTS: u16 = 1;
    const LINE_CONTROL: u16 = 3;
    const DIVISOR: u8 = 0x80;
    const EIGHT_BITS: u8 = 3;
    let set = |register: u16, value: u8| {
        // SAFETY: the registers of a serial port say how it sends, and do nothing else.
        unsafe { PortWriteOnly::<u8>::new(data + register).write(value) };
    };
    set(INTERRUPTS, 0);
    set(LINE_CONTROL, DIVISOR);
    // The divisor, where data and interrupts are otherwise.
    set(0, 1);
    set(INTERRUPTS, 0);
    set(LINE_CONTROL, EIGHT_BITS);
    TAKES_TIME.store(true, Relaxed);
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
