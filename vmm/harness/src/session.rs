//! A judged run: the machine runs from event to event, and at each one, while the guest stands still,
//! the tables of every address space are captured and judged.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use heirloom_abi::bugs::Bug;
use heirloom_abi::event::{DOORBELL_PORT, ProbePage};
use heirloom_abi::options::{self as words, Strategy};
use heirloom_abi::{PAGE_SIZE, layout};
use heirloom_inspect::judge::{Claim, Expectation, GroundTruth, Image, Told};
use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{Capturer, CpuState, Mode, PhysAddr, Snapshot, VirtAddr, Written};
use heirloom_machine::{
    Config, GuestAddress, Host, KernelImage, Machine, MemorySize, Module, Stop,
};
use heirloom_source::recording::{Header, RecordError};
use vm_memory::Bytes;
use zerocopy::FromBytes;

use crate::backtrace::{self, Place};
use crate::error::RunError;
use crate::guest;
use crate::judge::Judge;
use crate::loss;
use crate::machine_target::{cpu_state, ram};
use crate::report::Report;
use crate::tape::Tape;

/// What a run is made from.
pub struct Setup {
    pub memory: MemorySize,
    pub kernel: KernelImage,
    /// A program in front of the embedded ones.
    pub program: Option<Module>,
    /// The boot module that becomes process 1, and its arguments.
    pub first: String,
    pub arguments: Vec<String>,
    pub strategy: Strategy,
    /// More words for the kernel's command line.
    pub more_words: String,
    /// Where the guest's console goes.
    pub console: Box<dyn Write + Send>,
    pub time_limit: Duration,
}

/// The embedded program that runs first unless another is named.
pub const FIRST_PROGRAM: &str = "family";

/// Where vmalloc starts unless said otherwise: eight pages below the second PGD entry of its area, so
/// that small allocations lie below the first entry, and a larger one needs a new entry.
const VMALLOC_START: u64 = layout::Region::Vmalloc.start() + layout::PGD_ENTRY_SPAN - 8 * PAGE_SIZE;

/// A machine and its judge.
pub struct Session {
    machine: Machine,
    judge: Judge,
    capturer: Capturer,
    /// What was captured since the guest stands still.
    captured: Option<(CpuState, Snapshot)>,
    /// The recording, if one is made.
    tape: Option<Tape>,
    command_line: String,
    deadline: Instant,
    time_limit: Duration,
    /// How long the guest has run, without the time that it stood still for the host to look.
    guest_time: Duration,
}

/// The guest at an event: it stands still, and has been judged.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub told: &'a Told,
    /// With the tables of this moment.
    pub judge: &'a Judge,
    pub machine: &'a Machine,
}

/// How a guest's run ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The first program's status, as `wait4` would report it.
    pub status: u64,
}

impl Session {
    /// Makes the machine. It runs at the first [`Session::run`].
    pub fn new(host: &Host, setup: Setup) -> Result<Session, RunError> {
        let Setup {
            memory,
            kernel,
            program,
            first,
            arguments,
            strategy,
            more_words,
            console,
            time_limit,
        } = setup;
        let mut modules = guest::modules();
        if let Some(program) = program {
            // In front, so that it wins over an embedded program of the same name.
            modules.insert(0, program);
        }
        // Guest memory is a fresh mapping: the kernel need not zero it again.
        let command_line = format!(
            "{}={first} {}={} {}={VMALLOC_START:#x} {} {}=zero {more_words} -- {}",
            words::INIT,
            words::PROPAGATION,
            strategy.name(),
            words::VMALLOC_START,
            words::PROBE,
            words::FRESH_MEMORY,
            arguments.join(" "),
        );
        let config = Config {
            memory,
            kernel,
            command_line: command_line.clone(),
            modules,
            console,
            doorbell: Some(DOORBELL_PORT),
        };
        let mut machine = Machine::on(host, config)?;
        machine.log_writes();
        let judge = Judge::new(ground_truth(&machine), Expectation { strategy });
        Ok(Session {
            machine,
            judge,
            capturer: Capturer::new(),
            captured: None,
            tape: None,
            command_line,
            deadline: Instant::now() + time_limit,
            time_limit,
            guest_time: Duration::ZERO,
        })
    }

    /// Stops the run from another thread.
    pub fn interrupter(&self) -> heirloom_machine::Interrupter {
        self.machine.interrupter()
    }

    /// Runs the guest to its end, judging at every event; `watch` sees each one after that.
    pub fn run(&mut self, mut watch: impl FnMut(&Seen<'_>)) -> Result<Ended, RunError> {
        self.follow(|session, told| {
            session.observe(told)?;
            watch(&Seen {
                told,
                judge: &session.judge,
                machine: &session.machine,
            });
            Ok(())
        })
    }

    /// Runs the guest to its end and judges nothing: `watch` is called at each event, while the guest
    /// stands still, and captures where it wants to.
    pub fn follow(
        &mut self,
        watch: impl FnMut(&mut Session, &Told) -> Result<(), RunError>,
    ) -> Result<Ended, RunError> {
        let ended = self.follow_events(watch);
        if let Some(tape) = &mut self.tape {
            tape.end(&ended);
        }
        ended
    }

    fn follow_events(
        &mut self,
        mut watch: impl FnMut(&mut Session, &Told) -> Result<(), RunError>,
    ) -> Result<Ended, RunError> {
        loop {
            self.captured = None;
            let resumed = Instant::now();
            let stop = self.machine.run(self.deadline)?;
            self.guest_time += resumed.elapsed();
            let frame = match stop {
                Stop::Doorbell { value } => value,
                stop => return Err(self.lost(&stop)),
            };
            let (page, told) = self.hear(frame)?;
            log::info!("event {} pid {}: {:?}", told.sequence, told.pid, told.claim);
            self.judge.apply(&told);
            if self.tape.is_some() {
                self.record_event(&page, &told);
            }
            watch(self, &told)?;
            match told.claim {
                Claim::Done { status } => return Ok(Ended { status }),
                Claim::Crash { .. } => return Err(self.crashed(&told)),
                _ => {}
            }
        }
    }

    /// The judge, with its verdicts so far.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// What the run showed; `None` if the guest told nothing.
    pub fn report(&self) -> Option<Report> {
        self.judge.report()
    }

    /// Reads the event behind a ring of the doorbell.
    fn hear(&self, frame: u32) -> Result<(ProbePage, Told), RunError> {
        let mut bytes = [0; size_of::<ProbePage>()];
        let address = GuestAddress(u64::from(frame) * PAGE_SIZE);
        self.machine
            .memory()
            .read_slice(&mut bytes, address)
            .map_err(|_| RunError::Frame { frame })?;
        let page = ProbePage::read_from_bytes(&bytes).map_err(|_| RunError::Frame { frame })?;
        match Told::decode(&page) {
            Ok(told) => Ok((page, told)),
            Err(error) => Err(RunError::Event { frame, error }),
        }
    }

    /// How long the guest has run: without the time that it stood still for the host to look.
    pub fn guest_time(&self) -> Duration {
        self.guest_time
    }

    /// The CPU, and the tables of every address space that the guest told of, as they are now.
    pub fn capture(&mut self) -> Result<(CpuState, Snapshot), RunError> {
        if let Some(captured) = &self.captured {
            return Ok(captured.clone());
        }
        let cpu = cpu_state(&self.machine.registers()?);
        let phys_bits = PhysBits::new(self.machine.max_phys_addr().into()).unwrap_or(PhysBits::MAX);
        let mode = Mode::of_cpu(&cpu, phys_bits, self.machine.gigabyte_pages())?;
        let roots = self.judge.roots();
        let written = self.machine.take_written_frames();
        let written = written
            .as_deref()
            .map_or(Written::Anything, Written::Frames);
        let memory = self.machine.memory();
        let snapshot = self.capturer.capture_written(memory, mode, &roots, written);
        self.captured = Some((cpu, snapshot.clone()));
        Ok((cpu, snapshot))
    }

    /// Captures every address space and judges.
    fn observe(&mut self, told: &Told) -> Result<(), RunError> {
        if self.is_stillborn(told) {
            return Ok(());
        }
        let (cpu, snapshot) = self.capture()?;
        self.judge
            .observe(told, &cpu, &snapshot, self.machine.memory());
        Ok(())
    }

    /// Whether the kernel never came up: there is nothing yet that a rule is about.
    fn is_stillborn(&self, told: &Told) -> bool {
        self.judge.roots().is_empty() && matches!(told.claim, Claim::Crash { .. })
    }

    /// From now on, records every event with the tables of that moment to `file`, which must not exist.
    pub fn record(&mut self, file: &Path, bug: Option<Bug>) -> Result<(), RecordError> {
        let world = self.judge.world();
        let header = Header {
            command: std::env::args().collect(),
            kernel_command_line: self.command_line.clone(),
            strategy: Some(world.expectation().strategy.name().to_owned()),
            bug: bug.map(|bug| bug.info().name.to_owned()),
            ..Header::new(world.truth().clone())
        };
        self.tape = Some(Tape::begin(file, &header)?);
        Ok(())
    }

    /// How the recording went, if one was made.
    pub fn recorded(&mut self) -> Result<(), RecordError> {
        self.tape.as_mut().map_or(Ok(()), Tape::result)
    }

    /// Records an event. Where there are no tables to capture, what the guest told is all there is.
    fn record_event(&mut self, page: &ProbePage, told: &Told) {
        let captured = if self.is_stillborn(told) {
            None
        } else {
            self.capture().ok()
        };
        if let Some(tape) = &mut self.tape {
            tape.event(
                page,
                told,
                captured.as_ref(),
                &self.judge,
                self.machine.memory(),
            );
        }
    }

    /// The guest kernel says that it cannot go on; it has printed its own account.
    fn crashed(&self, told: &Told) -> RunError {
        let Claim::Crash {
            vector,
            error_code,
            rip,
            rbp,
            address,
        } = told.claim
        else {
            return RunError::Guest {
                report: "the guest kernel crashed".into(),
            };
        };
        let what = match vector {
            None => "the guest kernel panicked".to_owned(),
            Some(vector) => format!(
                "the guest kernel took exception {vector} (error code {error_code:#x}, address {address})"
            ),
        };
        let place = Place {
            rip: rip.get(),
            rbp: rbp.get(),
        };
        RunError::Guest {
            report: what + &backtrace::told(&self.machine, place),
        }
    }

    /// The guest is gone, or was stopped from outside.
    fn lost(&self, stop: &Stop) -> RunError {
        match stop {
            Stop::TimeLimit => RunError::TimeLimit {
                limit: self.time_limit,
                place: loss::place(&self.machine),
            },
            stop => RunError::Guest {
                report: loss::told(&self.machine, stop),
            },
        }
    }
}

/// What the host knows of the guest because it built it.
fn ground_truth(machine: &Machine) -> GroundTruth {
    let image = machine
        .kernel()
        .segments()
        .iter()
        .map(|segment| Image {
            va: VirtAddr::new(segment.virtual_address.0),
            pa: PhysAddr::new(segment.physical_address.0),
            bytes: segment.memory_bytes.next_multiple_of(PAGE_SIZE),
            writable: segment.writable,
            executable: segment.executable,
        })
        .collect();
    GroundTruth {
        ram: ram(machine),
        image,
    }
}
