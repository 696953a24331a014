//! QEMU in the place of our own VMM: the same kernel in the same memory, with QEMU's CPUs.
//!
//! - `program`: its command line;
//! - `process`: QEMU is a child that ends when this program does;
//! - `firmware`: what its CPU runs first. The guest is loaded by us, into memory that both map;
//! - `monitor`: QMP, by which it is started, stopped and asked for `registers`.
//!
//! Under TCG, QEMU's own emulated CPU, no KVM is needed, and the guest finds what KVM on this host may not
//! have: SMEP and SMAP, 1 GiB pages, 57-bit addresses, and a TLB that keeps what nobody flushes.
//!
//! QEMU is as hostile as its guest: all that it says is bounded, and waited for until a deadline.

mod error;
mod firmware;
mod monitor;
mod process;
mod program;
mod registers;
mod version;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{GuestAddress, GuestMemoryMmap};

pub use error::QemuError;
pub use program::{Accelerator, PROGRAM, Qemu};

use self::monitor::{Monitor, Unanswered};
use self::process::{Process, memory_file, wait};
use self::program::Shared;
use self::registers::CpuStanding;
use crate::address::GuestVirtual;
use crate::boot::{self, BootError};
use crate::cpus::MAX_CPUS;
use crate::devices::Console;
use crate::image::KernelImage;
use crate::kvm::Host;
use crate::machine::{Config, Machine};
use crate::memory::{Ram, RamRange};
use crate::registers::Registers;
use crate::run::{RunError, Stop};
use crate::virtual_machine::{Doorbell, Platform, VirtualMachine};
use crate::watchdog::{Cause, Interrupter, Watchdog};

/// Physical addresses of QEMU's emulated CPU unless it is told otherwise, in bits.
const PHYSICAL_BITS: u8 = 40;
/// How long the loop sleeps at most; a signal or a byte wakes it before.
const NAP: Duration = Duration::from_millis(500);

impl Platform for Qemu {
    fn machine(
        &self,
        config: Config,
        deadline: Instant,
    ) -> Result<Box<dyn VirtualMachine>, BootError> {
        Ok(Box::new(QemuMachine::start(self, config, deadline)?))
    }

    fn doorbell(&self) -> Doorbell {
        Doorbell::Serial
    }

    fn name(&self) -> &'static str {
        "QEMU"
    }

    fn translator(&self) -> &'static str {
        "QEMU's gva2gpa"
    }
}

/// A machine in a QEMU process.
pub struct QemuMachine {
    monitor: RefCell<Monitor>,
    /// `None` once QEMU has closed it.
    console_input: Option<UnixStream>,
    /// `None` where there is none, or QEMU has closed it.
    doorbell: Option<UnixStream>,
    process: RefCell<Process>,
    binary: String,
    console: Console,
    watchdog: Arc<Watchdog>,
    ram: Ram,
    kernel: KernelImage,
    cpus: Vec<CpuStanding>,
    /// Bytes of the word that the guest rings with.
    ringing: Vec<u8>,
    /// The guest rang and waits.
    awaits_answer: bool,
    max_phys_addr: u8,
    gigabyte_pages: bool,
}

impl QemuMachine {
    fn start(qemu: &Qemu, config: Config, deadline: Instant) -> Result<QemuMachine, BootError> {
        let host = |what| move |source| QemuError::Host { what, source };
        let bytes = config.memory.bytes();
        let memory = memory_file(c"guest memory", bytes).map_err(host("make guest memory"))?;
        let shared_memory = memory.try_clone().map_err(host("share guest memory"))?;
        let ram = Ram::in_file(config.memory, PHYSICAL_BITS, memory)?;
        let unusable = match qemu.accelerator {
            Accelerator::Tcg => Vec::new(),
            Accelerator::Kvm => Machine::unusable_on(&Host::open()?, &config.kernel)?,
        };
        let command_line = boot::without_features(&config.command_line, &unusable);
        let entry = boot::load(&ram, &config.kernel, &command_line, &config.modules)?;
        let firmware = firmware::firmware(&entry).ok_or_else(|| QemuError::Protocol {
            name: config.kernel.name().into(),
        })?;
        let mut file = memory_file(c"firmware", 0).map_err(host("make firmware"))?;
        file.write_all(&firmware).map_err(host("make firmware"))?;

        let pair = || UnixStream::pair().map_err(host("make sockets"));
        let (monitor, far_monitor) = pair()?;
        let (console_input, far_console) = pair()?;
        let (doorbell, far_doorbell) = pair()?;
        for socket in [&console_input, &doorbell] {
            socket.set_nonblocking(true).map_err(host("make sockets"))?;
        }
        let shared = Shared {
            memory: shared_memory.into(),
            firmware: file.into(),
            monitor: far_monitor.into(),
            console: far_console.into(),
            doorbell: far_doorbell.into(),
        };
        let command = qemu.command(bytes, config.cpus, &shared, config.doorbell);
        let Shared {
            memory,
            firmware,
            monitor: far_monitor,
            console,
            doorbell: far_doorbell,
        } = shared;
        let files = vec![memory, firmware, far_monitor, console, far_doorbell];
        let binary = qemu.binary.display().to_string();
        let process = Process::start(command, files).map_err(|source| QemuError::Start {
            binary: binary.clone(),
            source,
        })?;
        let watchdog = Arc::new(Watchdog::new().map_err(BootError::Watchdog)?);
        let mut machine = QemuMachine {
            monitor: RefCell::new(Monitor::new(monitor, deadline).map_err(host("make a monitor"))?),
            console_input: Some(console_input),
            doorbell: config.doorbell.map(|_| doorbell),
            process: RefCell::new(process),
            binary,
            console: Console::new(config.console, watchdog.bell()),
            watchdog,
            ram,
            kernel: config.kernel,
            cpus: Vec::new(),
            ringing: Vec::new(),
            awaits_answer: false,
            max_phys_addr: PHYSICAL_BITS,
            gigabyte_pages: false,
        };
        machine.ask(|monitor| monitor.ask("qmp_capabilities", serde_json::Value::Null))?;
        (machine.max_phys_addr, machine.gigabyte_pages) = machine.ask(Monitor::cpu_model)?;
        machine.cpus = machine.ask(Monitor::cpus)?;
        Ok(machine)
    }

    /// Asks the monitor; a failure is told with what became of the process.
    fn ask<T>(
        &self,
        question: impl FnOnce(&mut Monitor) -> Result<T, Unanswered>,
    ) -> Result<T, QemuError> {
        question(&mut self.monitor.borrow_mut()).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: Unanswered) -> QemuError {
        let mut process = self.process.borrow_mut();
        match error {
            Unanswered::Closed => match process.ended() {
                Some(status) => QemuError::Ended {
                    binary: self.binary.clone(),
                    status,
                    said: process.said(),
                },
                None => QemuError::Closed {
                    said: process.said(),
                },
            },
            Unanswered::Silent(question) => QemuError::Silent {
                question,
                said: process.said(),
            },
            Unanswered::Other(error) => error,
        }
    }

    /// Lets it run on; false if it can not, having reset itself while it was being stopped.
    fn resume(&mut self) -> Result<bool, QemuError> {
        if std::mem::take(&mut self.awaits_answer) {
            // It is one byte, and the guest has taken the last one.
            let answered = self.doorbell.as_mut().map(|socket| socket.write_all(&[1]));
            if !matches!(answered, Some(Ok(()))) {
                return Err(self.explain(Unanswered::Closed));
            }
        }
        // That it was stopped before is no news.
        if self.monitor.get_mut().take_news().reset {
            return Ok(false);
        }
        match self.ask(|monitor| monitor.ask("cont", serde_json::Value::Null)) {
            // The event comes before the refusal.
            Err(QemuError::Refused { .. }) if self.monitor.get_mut().take_news().reset => Ok(false),
            answer => answer.map(|_| true),
        }
    }

    /// All CPUs stand still from here on.
    fn pause(&mut self) -> Result<(), QemuError> {
        self.ask(|monitor| monitor.ask("stop", serde_json::Value::Null))?;
        self.cpus = self.ask(Monitor::cpus)?;
        Ok(())
    }

    /// Runs until something happens that somebody must decide about.
    fn follow(&mut self, deadline: Instant) -> Result<Stop, RunError> {
        let bell = self.watchdog.bell();
        loop {
            match bell.cause() {
                Some(Cause::TimeLimit) => return Ok(Stop::TimeLimit),
                Some(Cause::Interrupted) => return Ok(Stop::Interrupted),
                None => {}
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            let files = [
                self.doorbell.as_ref().map(AsFd::as_fd),
                self.console_input.as_ref().map(AsFd::as_fd),
                Some(self.monitor.get_mut().socket().as_fd()),
            ];
            let ready = wait(files, rest.min(NAP)).map_err(|source| QemuError::Host {
                what: "wait",
                source,
            })?;
            let [rings, prints, speaks] = ready;
            if prints {
                self.print()?;
            }
            if rings && let Some(value) = self.ring() {
                return Ok(Stop::Doorbell { value });
            }
            if speaks {
                let news = self.ask(|monitor| {
                    monitor.listen()?;
                    Ok(monitor.take_news())
                })?;
                if news.reset {
                    return Ok(Stop::ResetOrTripleFault);
                }
                if news.stopped {
                    let said = self.process.borrow().said();
                    return Ok(Stop::Paused { said });
                }
            }
        }
    }

    /// Takes in what the guest rings with; the word once it is whole.
    fn ring(&mut self) -> Option<u32> {
        let mut bytes = [0; 4];
        let room = 4 - self.ringing.len().min(3);
        let count = match self.doorbell.as_mut()?.read(&mut bytes[..room]) {
            Ok(0) => {
                self.doorbell = None;
                return None;
            }
            Ok(count) => count,
            Err(_) => return None,
        };
        self.ringing.extend_from_slice(&bytes[..count]);
        let word = <[u8; 4]>::try_from(self.ringing.as_slice()).ok()?;
        self.ringing.clear();
        self.awaits_answer = true;
        Some(u32::from_le_bytes(word))
    }

    /// Hands on what the guest printed, a piece of it. Whether there was any.
    fn print(&mut self) -> Result<bool, RunError> {
        let Some(input) = &mut self.console_input else {
            return Ok(false);
        };
        let mut bytes = [0; 4096];
        match input.read(&mut bytes) {
            Ok(0) => {
                self.console_input = None;
                Ok(false)
            }
            Ok(count) => {
                let written = self.console.write_all(&bytes[..count]);
                written.map_err(RunError::Console)?;
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// Hands on what the guest has printed so far.
    fn print_all(&mut self) -> Result<(), RunError> {
        /// Pieces, so that a flood has an end.
        const PIECES: usize = 256;
        for _ in 0..PIECES {
            if !self.print()? {
                break;
            }
        }
        self.console.drain().map_err(RunError::Console)
    }

    fn first_cpu(&self) -> Result<&CpuStanding, QemuError> {
        self.cpus.first().ok_or_else(|| QemuError::Form {
            question: "info registers -a".into(),
            problem: "no CPU".into(),
        })
    }
}

impl VirtualMachine for QemuMachine {
    fn run(&mut self, deadline: Instant) -> Result<Stop, RunError> {
        // A deadline that has passed is said without waking the guest.
        if Instant::now() >= deadline {
            return Ok(Stop::TimeLimit);
        }
        if !self.resume()? {
            self.print_all()?;
            return Ok(Stop::ResetOrTripleFault);
        }
        let watchdog = Arc::clone(&self.watchdog);
        let guard = watchdog.arm(deadline);
        let stop = self.follow(deadline)?;
        self.pause()?;
        // Still under the watchdog: the sink may block.
        self.print_all()?;
        drop(guard);
        Ok(stop)
    }

    fn memory(&self) -> &GuestMemoryMmap {
        self.ram.memory()
    }

    fn ram(&self) -> &[RamRange] {
        self.ram.memory_map()
    }

    fn kernel(&self) -> &KernelImage {
        &self.kernel
    }

    fn cpus(&self) -> Result<Vec<Registers>, RunError> {
        // QEMU may say what it likes; the guest was given so many.
        let cpus = self.cpus.iter().take(MAX_CPUS.into());
        Ok(cpus.map(|cpu| cpu.registers).collect())
    }

    fn registers(&self) -> Result<Registers, RunError> {
        Ok(self.first_cpu()?.registers)
    }

    fn halted_for_good(&self) -> Result<bool, RunError> {
        Ok(self.cpus.iter().all(CpuStanding::is_halted_for_good))
    }

    fn translate(&self, address: GuestVirtual) -> Result<Option<GuestAddress>, RunError> {
        Ok(self.ask(|monitor| monitor.translate(address))?)
    }

    fn max_phys_addr(&self) -> u8 {
        self.max_phys_addr
    }

    fn gigabyte_pages(&self) -> bool {
        self.gigabyte_pages
    }

    fn interrupter(&self) -> Interrupter {
        self.watchdog.interrupter()
    }
}
