//! A live QEMU, paused over QMP while it is looked at: `qemu:SOCKET[,memory=WAY]`.
//!
//! All that is special to QEMU lies here:
//!
//! - `connection`: QMP; `monitor`: the questions asked, with `flat_view` for an answer that comes as text;
//! - `pause`: the guest stands still, and runs on whatever happens, with `resumer` for when this process is
//!   killed;
//! - `breakpoint`: the guest runs until a CPU comes to an address;
//! - `memory`: the ways to its memory, with `process` for what /proc tells;
//! - `note`: the CPU registers in cores that QEMU wrote.

mod breakpoint;
mod connection;
mod flat_view;
mod memory;
mod monitor;
pub(crate) mod note;
mod pause;
mod process;
mod resumer;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use heirloom_inspect::memory::Account;
use heirloom_inspect::{Entry, MemoryError, Pfn, PhysAddr, PhysRange, PhysicalMemory};

pub use self::breakpoint::{Reached, WaitError};
use self::connection::Connection;
pub use self::connection::QmpError;
pub use self::memory::WayError;
use self::memory::{Reach, Way};
pub use self::monitor::AnswerError;
use self::monitor::Monitor;
use self::pause::Pause;
pub use self::pause::{left_paused, resume_all};
use crate::Target;
use crate::memory::Memory;
use crate::pc;
use crate::spec::{Fields, SpecError};

const USAGE: &str =
    "qemu:SOCKET[,memory=file|process|pmemsave], SOCKET being the path of its QMP socket";

/// Which QEMU, and how to read its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuSpec {
    socket: PathBuf,
    /// `None`: the first that works.
    way: Option<Way>,
}

/// Why a live QEMU cannot be inspected. In each case the guest runs on, if it ran.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum QemuError {
    #[error("the QMP socket {socket} {source}")]
    Connection { socket: String, source: QmpError },
    #[error("QEMU at {socket} {source}")]
    Question { socket: String, source: AnswerError },
    #[error("the guest memory at {start:#x}–{end:#x} of QEMU at {socket} cannot be read:{}", list(.failures))]
    Memory {
        socket: String,
        start: PhysAddr,
        end: PhysAddr,
        /// By each way.
        failures: Vec<WayError>,
    },
}

impl QemuSpec {
    pub(crate) fn parse(fields: &Fields) -> Result<QemuSpec, SpecError> {
        let mut spec = QemuSpec {
            socket: fields.file().into(),
            way: None,
        };
        for option in fields.options(USAGE)? {
            if option.name != "memory" {
                return Err(fields.unknown(option.whole, USAGE));
            }
            let way = Way::ALL.into_iter().find(|way| way.name() == option.value);
            let problem = "is no way to its memory";
            let usage = "memory=file, memory=process or memory=pmemsave";
            spec.way = Some(way.ok_or_else(|| fields.bad_value(option.whole, problem, usage))?);
        }
        Ok(spec)
    }

    /// The QEMU that listens at `socket`.
    pub(crate) fn of(socket: PathBuf) -> QemuSpec {
        QemuSpec { socket, way: None }
    }

    pub(crate) fn open(&self, name: String) -> Result<Target, QemuError> {
        let socket = || self.socket.display().to_string();
        let unreachable = |source| QemuError::Connection {
            socket: socket(),
            source,
        };
        let unanswered = |source| QemuError::Question {
            socket: socket(),
            source,
        };
        let connection = Arc::new(Connection::open(&self.socket).map_err(unreachable)?);
        // From here on every return lets the guest run on.
        let pause = Pause::begin(Arc::clone(&connection)).map_err(unreachable)?;
        let monitor = Monitor(&connection);
        let vcpus = monitor.cpus().map_err(unanswered)?;
        let cpus = monitor.registers(vcpus.len()).map_err(unanswered)?;
        // They are all of one kind.
        let model = vcpus
            .first()
            .map(|(_, object)| monitor.cpu_model(object))
            .unwrap_or_default();
        let mut ranges = monitor.flat_view().map_err(unanswered)?;
        flat_view::set_devices_apart(&mut ranges, &monitor.backends());

        let threads: Vec<_> = vcpus.iter().map(|(thread, _)| *thread).collect();
        let mut reach = Reach::new(&connection, &threads, self.way);
        let mut ram: Vec<PhysRange> = Vec::new();
        for range in &ranges {
            match reach.add(range) {
                Ok(()) if range.is_ram() => match ram.last_mut() {
                    Some(last) if last.end() == range.range.start => {
                        last.bytes += range.range.bytes;
                    }
                    _ => ram.push(range.range),
                },
                Ok(()) => {}
                Err(failures) if range.is_ram() => {
                    return Err(QemuError::Memory {
                        socket: socket(),
                        start: range.range.start,
                        end: range.range.end(),
                        failures,
                    });
                }
                // There are hardly ever page tables in ROM or on a graphics card.
                Err(_) => log::debug!("memory at {:#x} is left out", range.range.start),
            }
        }
        // As a core of it has its RAM.
        if ranges
            .iter()
            .any(|range| !range.is_ram() && pc::is_legacy(&range.range))
        {
            ram = pc::without_legacy(&ram);
        }
        let notes = vec![reach.summary()];
        Ok(Target {
            name,
            memory: Box::new(PausedMemory {
                memory: reach.finish(),
                _pause: pause,
            }),
            ram,
            cpus,
            phys_bits: model.phys_bits,
            gigabyte_pages: model.gigabyte_pages,
            depth: None,
            encryption: heirloom_inspect::Entry::ABSENT,
            roots: Vec::new(),
            is_recorded: false,
            notes,
        })
    }
}

/// The failures, a line each.
fn list(failures: &[WayError]) -> String {
    let lines: Vec<String> = failures.iter().map(ToString::to_string).collect();
    format!("\n  {}", lines.join("\n  "))
}

/// Memory of a guest that stands still as long as this lives.
struct PausedMemory {
    memory: Memory,
    _pause: Pause,
}

impl PhysicalMemory for PausedMemory {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_bytes(at, buffer)
    }

    fn data_in(&self, range: PhysRange) -> Vec<PhysRange> {
        self.memory.data_in(range)
    }

    fn read_column(&self, first: Pfn, index: u16, entries: &mut [Entry]) {
        self.memory.read_column(first, index, entries);
    }

    fn read_links(&self, first: Pfn, index: u16, entries: &mut [Entry]) {
        self.memory.read_links(first, index, entries);
    }

    fn account(&self) -> Account {
        self.memory.account()
    }
}
