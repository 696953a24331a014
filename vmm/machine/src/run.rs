//! The run loop: drives the vCPUs until something happens that somebody must decide about.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuExit;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::PAGE_SIZE;
use crate::address::GuestVirtual;
use crate::devices::{Devices, Effect};
use crate::kvm::KvmError;
use crate::machine::Machine;
use crate::qemu::QemuError;
use crate::vcpu::Vcpu;
use crate::watchdog::{Bell, Cause};

/// Longest x86 instruction, in bytes (Intel SDM vol. 2A, 2.3.11).
const INSTRUCTION_LIMIT: usize = 15;

/// How often KVM may refuse to run the vCPU for now before it is given up, and the time in between.
const MAX_REFUSALS: u32 = 100;
const REFUSED: Duration = Duration::from_millis(2);
/// So often it is asked again at once.
const REFUSALS_AT_START: u32 = 2;

/// Why [`Machine::run`] returned. After [`Stop::Doorbell`], [`Stop::TimeLimit`] and
/// [`Stop::Interrupted`] the guest can be run on; after the others it is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest wrote this word to the doorbell port and waits.
    Doorbell {
        /// The word.
        value: u32,
    },
    /// The deadline has passed.
    TimeLimit,
    /// Somebody called [`Interrupter::interrupt`](crate::Interrupter::interrupt).
    Interrupted,
    /// The guest reset its machine, as a kernel does that restarts.
    Reset,
    /// A triple fault: an exception whose handlers cannot be reached.
    Shutdown,
    /// KVM could not go on; suberror 1 is an instruction that it cannot emulate.
    InternalError {
        /// KVM's own number for it.
        suberror: u32,
        /// The instruction at RIP, at most 15 bytes; empty if it cannot be read.
        instruction: Vec<u8>,
    },
    /// The CPU refused the guest's state (`hardware_entry_failure_reason` of KVM).
    FailEntry {
        /// The CPU's own code for it.
        reason: u64,
    },
    /// The guest reset its machine, or a triple fault did: QEMU does not tell which.
    ResetOrTripleFault,
    /// QEMU paused the guest unasked.
    Paused {
        /// What QEMU had written to standard error, behind a colon.
        said: String,
    },
    /// A CPU came to a breakpoint, or has made a step, of a debugger's.
    Debug,
    /// The debugger ended the guest.
    Killed,
    /// An exit of KVM that no guest here has a use for, by its name.
    Unexpected {
        /// The name.
        exit: String,
    },
}

/// Why a machine could not be run.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant's message says what it is and what its fields are"
)]
pub enum RunError {
    #[error("could not run the vCPU (KVM_RUN): {0}; `sudo dmesg | tail` may say more")]
    Vcpu(io::Error),
    #[error(
        "could not run the vCPU: the system gives KVM no thread for it; raise the limit of processes \
         (`ulimit -u`), or that of the control group (`pids.max`)"
    )]
    NoThread,
    #[error("could not write the guest's console: {0}")]
    Console(io::Error),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Qemu(#[from] QemuError),
}

/// What all CPUs of a machine have in common: devices, and where the doorbell is.
#[derive(Clone)]
pub(crate) struct Bus {
    pub(crate) devices: Arc<Mutex<Devices>>,
    pub(crate) doorbell: Option<u16>,
    pub(crate) memory: GuestMemoryMmap,
}

impl Bus {
    /// The devices; no code panics while it has them.
    pub(crate) fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one CPU until it needs the host, and does what it needs; what somebody must decide about, if it is
    /// that. `refusals` counts how often KVM has refused to run it.
    pub(crate) fn step(
        &self,
        vcpu: &mut Vcpu,
        refusals: &mut u32,
    ) -> Result<Option<Stop>, RunError> {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                if Some(port) == self.doorbell
                    && let Ok(word) = <[u8; 4]>::try_from(data)
                {
                    let value = u32::from_le_bytes(word);
                    return Ok(Some(Stop::Doorbell { value }));
                }
                let effect = self.devices().write(port, data);
                if effect.map_err(RunError::Console)? == Effect::Reset {
                    return Ok(Some(Stop::Reset));
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => self.devices().read(port, data),
            // Nobody is there: the bus floats.
            Ok(VcpuExit::MmioRead(_, data)) => data.fill(0xff),
            Ok(VcpuExit::MmioWrite(..) | VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
            Ok(VcpuExit::Shutdown) => return Ok(Some(Stop::Shutdown)),
            Ok(VcpuExit::Debug(_)) => return Ok(Some(Stop::Debug)),
            Ok(VcpuExit::FailEntry(reason, _)) => return Ok(Some(Stop::FailEntry { reason })),
            Ok(VcpuExit::InternalError) => {
                let error = vcpu.internal_error();
                let instruction = if error.instruction.is_empty() {
                    self.instruction(vcpu)?
                } else {
                    error.instruction
                };
                return Ok(Some(Stop::InternalError {
                    suberror: error.suberror,
                    instruction,
                }));
            }
            Ok(exit) => {
                let exit = format!("{exit:?}");
                return Ok(Some(Stop::Unexpected { exit }));
            }
            Err(error) => match error.errno() {
                libc::EINTR => {}
                // KVM makes a thread when a guest first runs, and says no more if that fails. A CPU that has
                // just been started says so, too.
                libc::EAGAIN if *refusals < MAX_REFUSALS => {
                    *refusals += 1;
                    if *refusals > REFUSALS_AT_START {
                        std::thread::sleep(REFUSED);
                    }
                }
                libc::EAGAIN => return Err(RunError::NoThread),
                errno => return Err(RunError::Vcpu(io::Error::from_raw_os_error(errno))),
            },
        }
        Ok(None)
    }

    /// The bytes at RIP, as far as they are mapped.
    fn instruction(&self, vcpu: &Vcpu) -> Result<Vec<u8>, KvmError> {
        let mut bytes = Vec::with_capacity(INSTRUCTION_LIMIT);
        let mut at = vcpu.registers()?.rip;
        while bytes.len() < INSTRUCTION_LIMIT {
            let Some(GuestAddress(physical)) = vcpu.translate(GuestVirtual(at))? else {
                break;
            };
            let in_page = PAGE_SIZE - at % PAGE_SIZE;
            let count =
                (INSTRUCTION_LIMIT - bytes.len()).min(usize::try_from(in_page).unwrap_or(0));
            let mut part = vec![0; count];
            if self
                .memory
                .read_slice(&mut part, GuestAddress(physical))
                .is_err()
            {
                break;
            }
            bytes.append(&mut part);
            at = at.wrapping_add(in_page);
        }
        Ok(bytes)
    }
}

impl Machine {
    /// Runs the guest until it rings the doorbell, ends, or `deadline` passes. Call it again to go on. When it
    /// returns, all CPUs stand still.
    ///
    /// The deadline holds whatever the guest does, a loop with interrupts off or a stuck console
    /// included; it is kept to within a few milliseconds.
    ///
    /// # Errors
    /// [`RunError`]: KVM or the console's sink failed; the guest's own mishaps are a [`Stop`].
    pub fn run(&mut self, deadline: Instant) -> Result<Stop, RunError> {
        if let Some(mut session) = self.gdb.take()
            && let Some(stop) = session.run(self, deadline)?
        {
            if stop != Stop::Killed {
                self.gdb = Some(session);
            }
            return Ok(stop);
        }
        self.run_cpus(None, deadline)
    }

    /// As [`Machine::run`], without a debugger; only CPU `only`, if one is named.
    pub(crate) fn run_cpus(
        &mut self,
        only: Option<usize>,
        deadline: Instant,
    ) -> Result<Stop, RunError> {
        // What came while all were being stopped comes before anybody runs on.
        if let Some((cpu, stop)) = self.other_cpus.take_news() {
            self.stopped_by = cpu;
            return stop;
        }
        let bell = self.watchdog.bell();
        let guard = self.watchdog.arm(deadline);
        self.stopped_by = 0;
        let stop = match only {
            Some(cpu) => {
                self.stopped_by = cpu;
                self.other_cpus.let_enter(cpu);
                let mut others = self.other_cpus.vcpus();
                match cpu.checked_sub(1).and_then(|at| others.nth(at)) {
                    Some(mut vcpu) => run_on_this_thread(&mut vcpu, &self.bus, &bell, || false),
                    None => run_on_this_thread(&mut self.vcpu, &self.bus, &bell, || false),
                }
            }
            None if self.other_cpus.is_empty() => {
                run_on_this_thread(&mut self.vcpu, &self.bus, &bell, || false)
            }
            None => {
                let others = &self.other_cpus;
                others.start();
                let stop =
                    run_on_this_thread(&mut self.vcpu, &self.bus, &bell, || others.is_stopping());
                others.stop();
                stop
            }
        };
        let stop = match stop.transpose() {
            Some(stop) => stop,
            // Another one has stopped all; that is what it has said first.
            None => match self.other_cpus.take_news() {
                Some((cpu, stop)) => {
                    self.stopped_by = cpu;
                    stop
                }
                None => Ok(Stop::Interrupted),
            },
        };
        // Still under the watchdog: the sink may block.
        self.bus.devices().drain().map_err(RunError::Console)?;
        drop(guard);
        stop
    }
}

/// Runs a CPU until something happens that somebody must decide about; `None` if that is to another CPU, which
/// `is_stopping` says.
fn run_on_this_thread(
    vcpu: &mut Vcpu,
    bus: &Bus,
    bell: &Bell,
    is_stopping: impl Fn() -> bool,
) -> Result<Option<Stop>, RunError> {
    let mut refusals = 0;
    loop {
        match bell.cause() {
            Some(Cause::TimeLimit) => return Ok(Some(Stop::TimeLimit)),
            Some(Cause::Interrupted) => return Ok(Some(Stop::Interrupted)),
            None => {}
        }
        if is_stopping() {
            return Ok(None);
        }
        if let Some(stop) = bus.step(vcpu, &mut refusals)? {
            return Ok(Some(stop));
        }
    }
}
