//! A judged run of the guest: the machine runs from event to event, and at each one, while the guest is
//! paused, the page tables of every address space are captured, judged and, if wanted, recorded, each once.

mod builder;
mod failure;
mod looks;
mod seen;
mod status;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::event::ProbePage;
use heirloom_abi::options::Strategy;
use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{Budget, Capturer, CpuState, Mode, Snapshot, Written};
use heirloom_machine::{
    Cpus, GuestAddress, Interrupter, MemorySize, Platform, Stop, VirtualMachine,
};
use heirloom_source::recording::{Header, ReadLog, RecordError};
use vm_memory::Bytes;
use zerocopy::{FromZeros, IntoBytes};

use crate::error::RunError;
use crate::event::{Event, EventKind};
use crate::judge::Judge;
use crate::machine_target::cpu_state;
use crate::recorder::RunRecorder;
use crate::report::Report;

pub use builder::{DEFAULT_PROCESSES, DEFAULT_PROGRAM, RunBuilder, default_time_limit};
pub use looks::Looks;
use seen::judge;
pub use seen::{Captured, Seen};
pub use status::ExitStatus;

/// How long the guest runs before the host looks whether it can still go on.
const SLICE: Duration = Duration::from_millis(100);

/// A run of the guest under judgement.
///
/// ```
/// use heirloom_harness::event::EventKind;
/// use heirloom_harness::{Host, Run, Strategy};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Host::open()?;
/// let mut run = Run::builder(&host)
///     .strategy(Strategy::Sync)
///     .processes(8)
///     .start()?;
/// let mut mapped = 0;
/// while let Some(seen) = run.next_event()? {
///     // The guest is paused: `seen` has its event, its page tables and the verdicts so far.
///     if let EventKind::KernelMapped { pages, .. } = seen.event.claim {
///         mapped += pages;
///     }
/// }
/// assert!(mapped > 0);
/// assert!(run.judge().all_hold());
/// # Ok(())
/// # }
/// ```
pub struct Run {
    machine: Box<dyn VirtualMachine>,
    judge: Judge,
    judged: bool,
    capturer: Capturer,
    recorder: Option<RunRecorder>,
    bug: Option<Bug>,
    command_line: String,
    deadline: Instant,
    /// Capturing and judging end when the guest's time is over, too.
    budget: Budget,
    time_limit: Duration,
    guest_time: Duration,
    /// What the guest reported last.
    event: Option<Event>,
    /// What was captured while the guest is paused.
    captured: Option<Captured>,
    /// The CPU that reported the last event.
    reporting: usize,
    looks: Option<Looks>,
    state: State,
}

/// How far a run is.
enum State {
    Running,
    /// The kernel reported that it crashed; this is what the next call says.
    Crashed(RunError),
    /// The first program has ended.
    Done(ExitStatus),
    /// It cannot go on, and has said why.
    Failed,
}

impl Run {
    /// A run on `host`, which is a KVM or a QEMU, of the embedded guest with 8 processes unless said otherwise.
    pub fn builder(host: &dyn Platform) -> RunBuilder<'_> {
        RunBuilder {
            host,
            memory: MemorySize::MINIMUM,
            kernel: None,
            program: None,
            first: DEFAULT_PROGRAM.into(),
            arguments: vec![DEFAULT_PROCESSES.to_string()],
            processes: DEFAULT_PROCESSES,
            strategy: Strategy::DEFAULT,
            bug: None,
            kernel_words: String::new(),
            console: Box::new(io::sink()),
            time_limit: None,
            judged: true,
            looks: false,
            cpus: Cpus::default(),
        }
    }

    /// Runs the guest to its next event and judges it. `None` once the guest has ended by itself.
    ///
    /// # Errors
    /// [`RunError`]: the guest or its machine cannot go on.
    pub fn next_event(&mut self) -> Result<Option<Seen<'_>>, RunError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Running => {}
            State::Crashed(error) => return Err(error),
            ended @ (State::Done(_) | State::Failed) => {
                self.state = ended;
                return Ok(None);
            }
        }
        let (page, mut event) = match self.advance() {
            Ok(reported) => reported,
            Err(error) => return Err(self.fail(error)),
        };
        let taken = self
            .take(&page, &mut event)
            .and_then(|()| self.within_budget());
        if let Err(error) = taken.and_then(|()| self.may_be_tried(&event)) {
            return Err(self.fail(error));
        }
        self.state = match event.claim {
            EventKind::Done { status } => {
                let status = ExitStatus(status);
                self.end_recording(Ok(status));
                self.machine.ended(status.of_shell());
                State::Done(status)
            }
            EventKind::Crash { .. } => {
                let error = self.crashed(&event);
                self.end_recording(Err(&error));
                // A debugger that is lost now changes nothing of what is said.
                let _ = self.machine.hold("the guest kernel crashed");
                State::Crashed(error)
            }
            _ => State::Running,
        };
        let event = self.event.insert(event);
        Ok(Some(Seen {
            event,
            judge: &self.judge,
            machine: &*self.machine,
            captured: self.captured.as_ref(),
        }))
    }

    /// Runs the guest to its end; `visit` sees each event, judged.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn to_end(&mut self, mut visit: impl FnMut(&Seen<'_>)) -> Result<ExitStatus, RunError> {
        while let Some(seen) = self.next_event()? {
            visit(&seen);
        }
        self.status().ok_or_else(|| RunError::Guest {
            report: "the run has failed before".into(),
        })
    }

    /// Ends a run that does not do what it should. The error is what its recording says, too.
    pub fn fail(&mut self, error: RunError) -> RunError {
        self.state = State::Failed;
        self.end_recording(Err(&error));
        error
    }

    /// How the first program ended, once it has.
    pub fn status(&self) -> Option<ExitStatus> {
        match self.state {
            State::Done(status) => Some(status),
            _ => None,
        }
    }

    /// The judge, with its verdicts so far.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// What the run showed; `None` if nothing was judged.
    pub fn report(&self) -> Option<Report> {
        self.judge.report()
    }

    /// Stops the run from another thread.
    pub fn interrupter(&self) -> Interrupter {
        self.machine.interrupter()
    }

    /// Ends capturing and judging from another thread.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How long the guest has run: without the time that it was paused for the host.
    pub fn guest_time(&self) -> Duration {
        self.guest_time
    }

    /// The CPU that reported last, and the page tables of every address space that the guest reported, as they are
    /// now.
    ///
    /// # Errors
    /// [`RunError`]: KVM does not return the registers, or the guest uses no paging mode that can be judged.
    pub fn capture(&mut self) -> Result<(CpuState, Snapshot), RunError> {
        let captured = self.captured()?;
        Ok((captured.cpu(), captured.snapshot))
    }

    /// All that is captured of the guest as it stands.
    fn captured(&mut self) -> Result<Captured, RunError> {
        if let Some(captured) = &self.captured {
            return Ok(captured.clone());
        }
        let cpus = self.machine.cpus()?;
        let cpus: Vec<CpuState> = cpus.iter().map(cpu_state).collect();
        let reporting = self.reporting.min(cpus.len().saturating_sub(1));
        let cpu = cpus.get(reporting).copied().unwrap_or_default();
        let phys_bits = PhysBits::new(self.machine.max_phys_addr().into()).unwrap_or(PhysBits::MAX);
        let mode = Mode::of_cpu(&cpu, phys_bits, self.machine.gigabyte_pages())?;
        let roots = self.judge.roots();
        let written = self.machine.take_written_frames();
        let written = written
            .as_deref()
            .map_or(Written::Anything, Written::Frames);
        let memory = self.machine.memory();
        let snapshot = self.capturer.capture_written(memory, mode, roots, written);
        self.within_budget()?;
        let captured = Captured {
            cpus,
            reporting,
            snapshot,
        };
        Ok(self.captured.insert(captured).clone())
    }

    /// From now on, records every event with the page tables of that moment to `file`, which must not exist.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn record(&mut self, file: &Path) -> Result<(), RecordError> {
        let world = self.judge.model();
        let header = Header {
            command: std::env::args().collect(),
            kernel_command_line: self.command_line.clone(),
            strategy: Some(world.expectation().strategy.name().to_owned()),
            bug: self.bug.map(|bug| bug.info().name.to_owned()),
            ..Header::new(world.truth().clone())
        };
        self.recorder = Some(RunRecorder::begin(file, &header)?);
        Ok(())
    }

    /// Whether everything so far was recorded that should be. A recording that cannot go on does not stop
    /// its run.
    ///
    /// # Errors
    /// The first [`RecordError`], once.
    pub fn recorded(&mut self) -> Result<(), RecordError> {
        self.recorder.as_mut().map_or(Ok(()), RunRecorder::result)
    }

    /// Runs the guest until it rings the doorbell, and reads the event behind that.
    fn advance(&mut self) -> Result<(Box<ProbePage>, Event), RunError> {
        self.captured = None;
        let frame = match self.run_machine()? {
            Stop::Doorbell { value } => value,
            stop => return Err(self.stopped(&stop)),
        };
        // Never on the stack, which may be small.
        let mut page = ProbePage::new_box_zeroed().map_err(|_| RunError::Frame { frame })?;
        let address = GuestAddress(u64::from(frame) * PAGE_SIZE);
        let memory = self.machine.memory();
        let read = memory.read_slice(page.as_mut_bytes(), address);
        read.map_err(|_| RunError::Frame { frame })?;
        let event = Event::decode(&page).map_err(|error| RunError::Event { frame, error })?;
        Ok((page, event))
    }

    /// Runs the guest until it wants something, ends or halts for good, or its time is over.
    fn run_machine(&mut self) -> Result<Stop, RunError> {
        loop {
            let (resumed, held) = (Instant::now(), self.machine.held());
            let slice = if self.looks.is_some() {
                looks::SLICE
            } else {
                SLICE
            };
            let stop = self.machine.run(self.deadline().min(resumed + slice))?;
            // What a debugger took is not the guest's.
            let held = self.machine.held().saturating_sub(held);
            self.guest_time += resumed.elapsed().saturating_sub(held);
            self.budget.postpone(self.machine.held());
            if stop != Stop::TimeLimit || Instant::now() >= self.deadline() {
                return Ok(stop);
            }
            self.look()?;
            if self.machine.halted_for_good()? {
                return Err(self.halted());
            }
        }
    }

    /// When the run's time is over.
    fn deadline(&self) -> Instant {
        self.deadline + self.machine.held()
    }

    /// The one way of every event: applied, captured, judged, recorded.
    fn take(&mut self, page: &ProbePage, event: &mut Event) -> Result<(), RunError> {
        self.judge.apply(event);
        event.sequence = self.judge.model().number();
        log::info!(
            "event {} pid {}: {:?}",
            event.sequence,
            event.pid,
            event.claim
        );
        let event = &*event;
        self.reporting = match self.machine.stopped_by() {
            Some(cpu) => cpu,
            None => usize::try_from(event.cpu).unwrap_or(usize::MAX),
        };
        let is_recorded = self
            .recorder
            .as_ref()
            .is_some_and(RunRecorder::is_recording);
        let captured = if self.is_stillborn(event) || !(self.judged || is_recorded) {
            None
        } else {
            Some(self.captured())
        };
        let memory = self.machine.memory();
        match (&mut self.recorder, captured) {
            (None, None) => Ok(()),
            (None, Some(captured)) => {
                judge(&mut self.judge, event, &captured?, memory);
                Ok(())
            }
            (Some(recorder), None) => {
                recorder.event(page, None, &[]);
                Ok(())
            }
            (Some(recorder), Some(Err(error))) => {
                recorder.event(page, None, &[]);
                Err(error)
            }
            (Some(recorder), Some(Ok(captured))) => {
                // What judging reads beside page tables must be in the recording.
                let log = ReadLog::new(memory);
                if self.judged {
                    judge(&mut self.judge, event, &captured, &log);
                } else {
                    let cpus = captured.cpus.len();
                    self.judge.pass_over(cpus, &captured.snapshot, &log);
                }
                recorder.event(page, Some(&captured), &log.into_pieces());
                Ok(())
            }
        }
    }

    fn end_recording(&mut self, ended: Result<ExitStatus, &RunError>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end(ended);
        }
    }

    /// Whether the kernel crashed before it came up: there is nothing yet that a rule is about.
    fn is_stillborn(&self, event: &Event) -> bool {
        self.judge.roots().is_empty() && matches!(event.claim, EventKind::Crash { .. })
    }
}
