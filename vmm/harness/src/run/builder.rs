//! What a run is made from.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::model::Expectation;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::event::DOORBELL_PORT;
use heirloom_abi::options::{self, Strategy};
use heirloom_inspect::history::{GroundTruth, Image};
use heirloom_inspect::{Budget, Capturer, PhysAddr, VirtAddr};
use heirloom_machine::{
    Config, Cpus, Doorbell, KernelImage, MemorySize, Module, Platform, VirtualMachine,
};

use super::looks::Looks;
use super::{Run, State};
use crate::bugs;
use crate::error::RunError;
use crate::guest;
use crate::judge::Judge;
use crate::machine_target::ram;

/// The embedded program that runs first unless another is named: it makes a family of processes, of which
/// the first maps kernel memory that all of them access.
pub const DEFAULT_PROGRAM: &str = "family";
/// Processes of [`DEFAULT_PROGRAM`] unless another number is asked for.
pub const DEFAULT_PROCESSES: u64 = 8;

/// The time limit of a run with up to [`PROCESSES_WITHIN_TIME_LIMIT`] processes.
const TIME_LIMIT: Duration = Duration::from_secs(60);
const PROCESSES_WITHIN_TIME_LIMIT: u64 = 200;

/// The time limit of a run with so many processes, unless another is set: a minute, and with more than
/// 200 processes in proportion more.
pub fn default_time_limit(processes: u64) -> Duration {
    let seconds = TIME_LIMIT.as_secs() * processes / PROCESSES_WITHIN_TIME_LIMIT;
    Duration::from_secs(seconds).max(TIME_LIMIT)
}

/// Where vmalloc starts unless said otherwise: so many pages below the second PGD entry of its area, so
/// that small allocations lie below the first entry, and a larger one needs a new entry.
const VMALLOC_BELOW: u64 = 8;

/// What a run is made from; see [`Run::builder`].
pub struct RunBuilder<'h> {
    pub(super) host: &'h dyn Platform,
    pub(super) memory: MemorySize,
    pub(super) kernel: Option<KernelImage>,
    pub(super) program: Option<Module>,
    pub(super) first: String,
    pub(super) arguments: Vec<String>,
    pub(super) processes: u64,
    pub(super) strategy: Strategy,
    pub(super) bug: Option<Bug>,
    pub(super) kernel_words: String,
    pub(super) console: Box<dyn Write + Send>,
    pub(super) time_limit: Option<Duration>,
    pub(super) judged: bool,
    pub(super) looks: bool,
    pub(super) cpus: Cpus,
}

impl RunBuilder<'_> {
    /// How a kernel mapping reaches every process; `prealloc` unless set.
    #[must_use]
    pub fn strategy(self, strategy: Strategy) -> Self {
        RunBuilder { strategy, ..self }
    }

    /// A deliberate bug for the kernel to make.
    #[must_use]
    pub fn bug(self, bug: Option<Bug>) -> Self {
        RunBuilder { bug, ..self }
    }

    /// A deliberate bug, made where it shows: under its strategy, on as many CPUs and in the program that it takes.
    #[must_use]
    pub fn showing(self, bug: Bug) -> Self {
        let run = self.bug(Some(bug)).strategy(bug.info().strategy);
        let run = run.cpus(Cpus::new(bugs::cpus(bug)));
        match bug.program() {
            Some((program, arguments)) => {
                let arguments = arguments.iter().map(ToString::to_string);
                run.embedded(program, arguments.collect())
            }
            None => run,
        }
    }

    /// Runs the default program, with so many processes at one time.
    #[must_use]
    pub fn processes(self, processes: u64) -> Self {
        RunBuilder {
            processes,
            ..self.embedded(DEFAULT_PROGRAM, vec![processes.to_string()])
        }
    }

    /// Runs an embedded program first, such as `lecture`.
    #[must_use]
    pub fn embedded(self, name: &str, arguments: Vec<String>) -> Self {
        RunBuilder {
            first: name.to_owned(),
            arguments,
            ..self
        }
    }

    /// Runs a program of one's own first; see [`program::read`](crate::program::read).
    #[must_use]
    pub fn program(self, program: Module, arguments: Vec<String>) -> Self {
        RunBuilder {
            first: program.name.clone(),
            arguments,
            program: Some(program),
            ..self
        }
    }

    /// The guest's memory; 64 MiB unless set.
    #[must_use]
    pub fn memory(self, memory: MemorySize) -> Self {
        RunBuilder { memory, ..self }
    }

    /// Boots this kernel, which must have a PVH note, instead of the embedded one.
    #[must_use]
    pub fn kernel(self, kernel: KernelImage) -> Self {
        RunBuilder {
            kernel: Some(kernel),
            ..self
        }
    }

    /// How many CPUs the guest has; one unless set.
    #[must_use]
    pub fn cpus(self, cpus: Cpus) -> Self {
        RunBuilder { cpus, ..self }
    }

    /// More words for the kernel's command line.
    #[must_use]
    pub fn kernel_words(self, words: &str) -> Self {
        RunBuilder {
            kernel_words: words.to_owned(),
            ..self
        }
    }

    /// Where the guest's console goes; nowhere unless set.
    #[must_use]
    pub fn console(self, console: Box<dyn Write + Send>) -> Self {
        RunBuilder { console, ..self }
    }

    /// How long the run may take, the host's judging included; [`default_time_limit`] unless set.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        RunBuilder {
            time_limit: Some(limit),
            ..self
        }
    }

    /// Captures and judges nothing by itself: see [`Run::capture`].
    #[must_use]
    pub fn unjudged(self) -> Self {
        RunBuilder {
            judged: false,
            ..self
        }
    }

    /// Judges the tables between events, too, at moments that the kernel cannot know of: see
    /// [`Run::looks`].
    #[must_use]
    pub fn looked_at(self) -> Self {
        RunBuilder {
            looks: true,
            ..self
        }
    }

    /// Makes the machine. The guest runs from the first [`Run::next_event`] on, but its time begins now.
    ///
    /// # Errors
    /// [`RunError`]: the kernel or the host cannot be used.
    pub fn start(self) -> Result<Run, RunError> {
        let time_limit = self
            .time_limit
            .unwrap_or_else(|| default_time_limit(self.processes));
        let bug = self.bug.map_or_else(String::new, |bug| {
            format!("{}={}", options::BUG, bug.info().name)
        });
        let kernel = match self.kernel {
            Some(kernel) => kernel,
            None => guest::kernel()?,
        };
        let mut modules = guest::modules();
        if let Some(program) = self.program {
            // In front, so that it wins over an embedded program of the same name.
            modules.insert(0, program);
        }
        let cpus = match self.cpus.count() {
            1 => String::new(),
            count => format!("{}={count} ", options::CPUS),
        };
        let probe = match self.host.doorbell() {
            Doorbell::Word => options::PROBE.to_owned(),
            Doorbell::Serial => format!("{}={}", options::PROBE, options::PROBE_SERIAL),
        };
        // Guest memory is a fresh mapping: the kernel need not zero it again.
        let command_line = format!(
            "{}={} {}={} {}={}{VMALLOC_BELOW} {probe} {}=zero {cpus}{bug} {} -- {}",
            options::INIT,
            self.first,
            options::PROPAGATION,
            self.strategy.name(),
            options::VMALLOC_START,
            options::BELOW_SECOND_ENTRY,
            options::FRESH_MEMORY,
            self.kernel_words,
            self.arguments.join(" "),
        );
        let config = Config {
            memory: self.memory,
            kernel,
            command_line: command_line.clone(),
            modules,
            console: self.console,
            cpus: self.cpus,
            doorbell: Some(DOORBELL_PORT),
        };
        // Loading the kernel is part of the run.
        let deadline = Instant::now() + time_limit;
        let budget = Budget::until(deadline);
        let mut machine = self.host.machine(config, deadline)?;
        machine.log_writes();
        let expectation = Expectation {
            strategy: self.strategy,
        };
        Ok(Run {
            judge: Judge::new(ground_truth(&*machine), expectation),
            machine,
            judged: self.judged,
            capturer: Capturer::new().with_budget(budget.clone()),
            budget,
            recorder: None,
            bug: self.bug,
            command_line,
            deadline,
            time_limit,
            guest_time: Duration::ZERO,
            event: None,
            captured: None,
            reporting: 0,
            looks: self.looks.then(Looks::default),
            state: State::Running,
        })
    }
}

/// What the host knows of the guest because it built it.
fn ground_truth(machine: &dyn VirtualMachine) -> GroundTruth {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_a_minute_and_with_many_processes_as_much_more_as_they_are_more() {
        for (processes, seconds) in [(1, 60), (8, 60), (200, 60), (400, 120), (1000, 300)] {
            assert_eq!(default_time_limit(processes).as_secs(), seconds);
        }
    }
}
