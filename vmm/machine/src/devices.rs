//! The devices that the host plays: a serial port, and what of a PC's ports resets it. Interrupt
//! controllers and timers are KVM's.

use std::io::{self, Write};

use vm_superio::Trigger;
use vm_superio::serial::{Error, NoEvents, Serial};
use vmm_sys_util::eventfd::EventFd;

use crate::watchdog::Bell;

/// First port of COM1; it has 8.
const SERIAL_PORTS: std::ops::Range<u16> = 0x3f8..0x400;
/// The interrupt line of COM1.
pub(crate) const SERIAL_IRQ: u32 = 4;
/// The keyboard controller's command port, and its command to pulse the CPU's reset line.
const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;
/// The chip set's reset control register (Intel's PCH data sheets, RST_CNT), and its bit that resets the CPU.
const RESET_CONTROL: u16 = 0xcf9;
const RESET_CPU: u8 = 1 << 2;
/// Console bytes that wait at most for the end of their line.
const LINE_LIMIT: usize = 4096;

/// What a write to a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that the run loop must know of.
    None,
    /// The guest resets its machine.
    Reset,
}

/// Everything on the port bus.
pub(crate) struct Devices {
    serial: Serial<InterruptLine, NoEvents, Console>,
}

impl Devices {
    /// A serial port that writes to `console` and raises `interrupt`.
    pub(crate) fn new(console: Box<dyn Write + Send>, interrupt: EventFd, bell: Bell) -> Devices {
        Devices {
            serial: Serial::new(InterruptLine(interrupt), Console::new(console, bell)),
        }
    }

    /// The guest wrote `data` to `port`. A string of several writes comes as one. Ports that nobody
    /// owns swallow it.
    ///
    /// # Errors
    /// The console or the interrupt line failed.
    pub(crate) fn write(&mut self, port: u16, data: &[u8]) -> io::Result<Effect> {
        let Some(register) = serial_register(port) else {
            return Ok(reset(port, data));
        };
        for byte in data {
            match self.serial.write(register, *byte) {
                // The guest filled its own loop-back FIFO: bytes are lost, as on hardware.
                Ok(()) | Err(Error::FullFifo) => {}
                Err(Error::Trigger(error) | Error::IOError(error)) => return Err(error),
            }
        }
        Ok(Effect::None)
    }

    /// The guest reads `port`. Ports that nobody owns float: all ones.
    pub(crate) fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(register) = serial_register(port) {
            data.fill_with(|| self.serial.read(register));
        }
    }

    /// Writes out what the guest printed without ending the line.
    ///
    /// # Errors
    /// The console failed.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        self.serial.writer_mut().drain()
    }
}

/// The register of the serial port behind `port`.
fn serial_register(port: u16) -> Option<u8> {
    if !SERIAL_PORTS.contains(&port) {
        return None;
    }
    u8::try_from(port - SERIAL_PORTS.start).ok()
}

/// What a write to a port that is not the serial one's leads to.
fn reset(port: u16, data: &[u8]) -> Effect {
    let resets = match port {
        KEYBOARD_COMMAND => data.contains(&PULSE_RESET),
        RESET_CONTROL => data.iter().any(|byte| byte & RESET_CPU != 0),
        _ => false,
    };
    if resets { Effect::Reset } else { Effect::None }
}

/// An interrupt line as vm-superio wants it.
struct InterruptLine(EventFd);

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Collects lines, so that a console byte costs no system call.
pub(crate) struct Console {
    out: Box<dyn Write + Send>,
    line: Vec<u8>,
    bell: Bell,
}

impl Console {
    /// Writes to `out`, until `bell` says that the time is over.
    pub(crate) fn new(out: Box<dyn Write + Send>, bell: Bell) -> Console {
        Console {
            out,
            line: Vec::new(),
            bell,
        }
    }

    /// Writes out the collected bytes. A sink that blocks gives up, and loses them, when the watchdog
    /// rings: a stuck reader of the console must not outlast the time limit.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        let mut rest = self.line.as_slice();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count.min(rest.len())..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if self.bell.cause().is_some() {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.line.clear();
        self.out.flush()
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if bytes.contains(&b'\n') || self.line.len() >= LINE_LIMIT {
            self.drain()?;
        }
        Ok(bytes.len())
    }

    /// The serial port flushes after every byte; only [`Console::drain`] writes unfinished lines.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
