//! Runs one cell: a machine of its own, whose tables are captured only where a phase begins or ends.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::{PGD_ENTRY_SPAN, Region};
use heirloom_abi::options::VMALLOC_START;
use heirloom_inspect::Snapshot;
use heirloom_machine::{Host, MemorySize};

use super::cell::{Cell, Counted, Phase, Step, TableFrames};
use super::plan::CellName;
use super::written::Written;
use crate::cancel::CancelToken;
use crate::error::{Cause, RunError};
use crate::event::{Counters, Event, EventKind};
use crate::recorder::RecordingDirectory;
use crate::run::{ExitStatus, Run, default_time_limit};

/// The ring-3 program that makes the mappings (guest/user/src/bin/lab.rs).
const PROGRAM: &str = "lab";
/// What it says at its checkpoints: the first begins the first step, each other one ends a step.
const CHECKPOINTS: [&str; Step::ALL.len() + 1] = [
    "settled",
    "mapped",
    "read",
    "mapped with a new PGD entry",
    "read below the new PGD entry",
    "freed",
];
/// Pages of address space that an allocation of one page takes: the second is its guard.
const PAGES_PER_ALLOCATION: u64 = 2;
/// Bytes of the guest's console that are kept for a failure's message.
const MAX_CONSOLE: usize = 1 << 14;

/// Runs cells, each on a machine of its own.
pub struct CellRunner<'a> {
    /// Where.
    pub host: &'a Host,
    /// The guest's memory.
    pub memory: MemorySize,
    /// Kernel mappings made in each cell, below a PGD entry that every process has.
    pub allocations: u64,
    /// More words for the guest kernel's command line.
    pub more_words: &'a str,
    /// How long a cell may take; [`default_time_limit`] unless set.
    pub time_limit: Option<Duration>,
    /// Stops the running cell and all later ones.
    pub cancel: &'a CancelToken,
    /// Where the cells are recorded, if they are.
    pub recordings: Option<&'a RecordingDirectory>,
}

impl CellRunner<'_> {
    /// Runs one cell.
    ///
    /// # Errors
    /// The machine cannot be made, the guest fails, or it does not do what its program does.
    pub fn measure(&self, name: CellName) -> Result<Cell, CellError> {
        let console = Console::default();
        let in_cell = |problem: Problem| CellError {
            cell: name,
            problem,
            console: console.text(),
        };
        let words = format!(
            "{VMALLOC_START}={:#x} {}",
            vmalloc_start(self.allocations),
            self.more_words
        );
        let arguments = vec![name.processes.to_string(), self.allocations.to_string()];
        let run = Run::builder(self.host)
            .memory(self.memory)
            .embedded(PROGRAM, arguments)
            .strategy(name.strategy.0)
            .kernel_words(&words)
            .console(Box::new(console.clone()))
            .time_limit(
                self.time_limit
                    .unwrap_or_else(|| default_time_limit(name.processes)),
            )
            .unjudged()
            .start();
        let mut run = run.map_err(|error| in_cell(error.into()))?;
        self.cancel.watch(run.interrupter());
        if let Some(recordings) = self.recordings {
            recordings.record(&mut run, &format!("{}-{}", name.strategy, name.processes));
        }
        let mut observer = Observer::new(name.processes, self.allocations);
        let ended = observer.follow(&mut run);
        if let Some(recordings) = self.recordings {
            recordings.note(run.recorded());
        }
        let status = ended.map_err(|error| in_cell(error.into()))?;
        if !status.is_success() {
            return Err(in_cell(Problem::Program(status)));
        }
        observer.finish(name).map_err(|error| in_cell(error.into()))
    }
}

/// Where kernel mappings must start so that the one before and the measured ones end at a PGD entry's
/// boundary.
fn vmalloc_start(allocations: u64) -> u64 {
    let pages = (1 + allocations) * PAGES_PER_ALLOCATION;
    Region::Vmalloc.start() + PGD_ENTRY_SPAN - pages * PAGE_SIZE
}

/// A cell that could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("{cell}: {problem}{console}")]
pub struct CellError {
    /// Which one.
    pub cell: CellName,
    /// Why.
    pub problem: Problem,
    /// What the guest had printed, behind a line break.
    pub console: String,
}

/// Why a cell could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The guest did not come to its end.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The program that makes the mappings ended with this status.
    #[error("the lab's program {}", complaint(*_0))]
    Program(ExitStatus),
}

impl Problem {
    /// Where the cause lies.
    pub fn cause(&self) -> Cause {
        match self {
            Problem::Run(error) => error.cause(),
            Problem::Program(_) => Cause::Guest,
        }
    }

    /// Whether more memory would help.
    pub fn needs_memory(&self) -> bool {
        matches!(self, Problem::Program(status)
            if matches!(status.code(), Some(NO_PROCESS | NO_KERNEL_MEMORY)))
    }
}

/// Exit codes of the program.
const NO_PROCESS: u64 = 3;
const NO_KERNEL_MEMORY: u64 = 4;

/// What the program's status means.
fn complaint(status: ExitStatus) -> String {
    match status.code() {
        Some(NO_PROCESS) => "could not make all processes: the guest needs more memory".into(),
        Some(NO_KERNEL_MEMORY) => "could not get kernel memory: the guest needs more memory".into(),
        _ => format!("failed with {status}"),
    }
}

/// A moment between two phases.
struct Boundary {
    counters: Counters,
    snapshot: Snapshot,
    guest_time: Duration,
}

/// Follows a guest through the phases.
struct Observer {
    processes: u64,
    allocations: u64,
    /// The checkpoint passed last.
    boundary: Option<Boundary>,
    phases: Vec<Phase>,
    /// The counters of the event before, and the guest time then.
    previous: (Counters, Duration),
    /// The fewest CR3 loads of a system call that mapped or unmapped …
    least_cr3_loads: Option<u64>,
    /// … and the least guest time, and guest cycles, of one that mapped.
    least_time: Option<Duration>,
    least_cycles: Option<u64>,
    /// Mappings made and ended, and reads, in the running phase, and those that went wrong …
    mappings: u64,
    reads: u64,
    lost: u64,
    /// … in each that has ended.
    lost_in: Vec<u64>,
    table_frames: Option<TableFrames>,
}

impl Observer {
    fn new(processes: u64, allocations: u64) -> Observer {
        Observer {
            processes,
            allocations,
            boundary: None,
            phases: Vec::new(),
            previous: (Counters::default(), Duration::ZERO),
            least_cr3_loads: None,
            least_time: None,
            least_cycles: None,
            mappings: 0,
            reads: 0,
            lost: 0,
            lost_in: Vec::new(),
            table_frames: None,
        }
    }

    /// Follows the guest to its end.
    fn follow(&mut self, run: &mut Run) -> Result<ExitStatus, RunError> {
        while let Some(event) = run.next_event()?.map(|seen| seen.event.clone()) {
            if let Err(error) = self.see(run, &event) {
                return Err(run.fail(error));
            }
        }
        run.status()
            .ok_or_else(|| astray("it ended without a status"))
    }

    fn see(&mut self, run: &mut Run, event: &Event) -> Result<(), RunError> {
        match &event.claim {
            EventKind::Checkpoint { text } => self.pass(run, event, text)?,
            EventKind::KernelMapped { .. } | EventKind::KernelUnmapped { .. } => {
                self.mappings += 1;
                self.sample_call(event, run.guest_time());
            }
            EventKind::KernelAccess {
                address,
                value,
                write: false,
                fault,
            } => {
                self.reads += 1;
                self.lost += u64::from(fault.is_some() || value != address);
            }
            _ => {}
        }
        self.previous = (event.counters, run.guest_time());
        Ok(())
    }

    /// The step that is being carried out, once the first checkpoint is passed.
    fn step(&self) -> Option<Step> {
        self.boundary.as_ref()?;
        Step::ALL.get(self.phases.len()).copied()
    }

    /// Looks at one system call: between two mappings, or two that end, there is one.
    fn sample_call(&mut self, event: &Event, guest_time: Duration) {
        let (counters, before) = &self.previous;
        let since = Counted::between(counters, &event.counters);
        if since.system_calls != 1 {
            return;
        }
        let step = self.step();
        if matches!(step, Some(Step::Map | Step::Unmap)) {
            let least = self.least_cr3_loads.unwrap_or(u64::MAX);
            self.least_cr3_loads = Some(least.min(since.cr3_loads));
        }
        if step == Some(Step::Map) {
            let least = self.least_time.unwrap_or(Duration::MAX);
            self.least_time = Some(least.min(guest_time.saturating_sub(*before)));
            let cycles = event.counters.cycles.saturating_sub(counters.cycles);
            self.least_cycles = Some(self.least_cycles.unwrap_or(u64::MAX).min(cycles));
        }
    }

    /// The guest says that a phase is over.
    fn pass(&mut self, run: &mut Run, event: &Event, text: &str) -> Result<(), RunError> {
        let expected = match self.boundary {
            None => CHECKPOINTS.first(),
            Some(_) => CHECKPOINTS.get(self.phases.len() + 1),
        };
        if expected != Some(&text) {
            return Err(astray(&format!(
                "it says `{text}` where `{}` was expected",
                expected.unwrap_or(&"its end")
            )));
        }
        // Taken before the host looks around.
        let guest_time = run.guest_time();
        let (_, snapshot) = run.capture()?;
        let address_spaces = snapshot.roots().len() as u64;
        if address_spaces != 1 + self.processes {
            return Err(astray(&format!(
                "it event of {address_spaces} address spaces, where there must be the kernel's and \
                 {} more",
                self.processes
            )));
        }
        let boundary = Boundary {
            counters: event.counters,
            snapshot,
            guest_time,
        };
        if let Some(step) = self.step() {
            self.end(step, &boundary)?;
        }
        // What came before the first checkpoint is not measured.
        (self.mappings, self.reads, self.lost) = (0, 0, 0);
        self.boundary = Some(boundary);
        Ok(())
    }

    fn end(&mut self, step: Step, now: &Boundary) -> Result<(), RunError> {
        let Some(before) = self.boundary.take() else {
            return Ok(());
        };
        self.phases.push(Phase {
            guest: Counted::between(&before.counters, &now.counters),
            tables: Written::between(&before.snapshot, &now.snapshot),
            nanoseconds: nanoseconds(now.guest_time.saturating_sub(before.guest_time)),
        });
        self.lost_in.push(self.lost);
        let (expected, happened, what) = match step {
            Step::Map | Step::Unmap => (self.allocations, self.mappings, "mappings made or ended"),
            Step::MapNew => (1, self.mappings, "mappings made or ended"),
            Step::Read | Step::ReadNew => (self.processes, self.reads, "reads"),
        };
        if happened != expected {
            return Err(astray(&format!(
                "it event of {happened} {what}, where there must be {expected}"
            )));
        }
        if step == Step::ReadNew {
            let found = now.snapshot.table_frames();
            self.table_frames = Some(TableFrames {
                guest: now.counters.frames_table,
                tables: found.total as u64,
                kernel_half: found.kernel_half as u64,
            });
        }
        Ok(())
    }

    fn finish(self, name: CellName) -> Result<Cell, RunError> {
        let (
            &[map, read, map_new, read_new, unmap],
            &[_, reads_lost, _, reads_lost_below_new_entry, _],
            Some(table_frames),
            Some(cr3_loads_per_system_call),
            Some(fastest),
            Some(fastest_mapping_cycles),
        ) = (
            self.phases.as_slice(),
            self.lost_in.as_slice(),
            self.table_frames,
            self.least_cr3_loads,
            self.least_time,
            self.least_cycles,
        )
        else {
            return Err(astray("it ended before it had passed all checkpoints"));
        };
        Ok(Cell {
            name,
            map,
            read,
            map_new,
            read_new,
            unmap,
            cr3_loads_per_system_call,
            fastest_mapping_nanoseconds: nanoseconds(fastest),
            fastest_mapping_cycles,
            table_frames,
            reads_lost,
            reads_lost_below_new_entry,
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The guest does not do what its program does.
fn astray(what: &str) -> RunError {
    RunError::Unexpected(format!("the lab's program went astray: {what}"))
}

/// The start of what the guest prints: nothing, if all is well, but the kernel's greeting.
#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Console {
    /// For a failure's message.
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_empty() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        // What a guest prints is no terminal's business.
        let lines = text
            .lines()
            .map(|line| line.chars().filter(|c| !c.is_control()).collect());
        let lines: Vec<String> = std::iter::once("\n  its console:".into())
            .chain(lines)
            .collect();
        lines.join("\n  | ")
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_CONSOLE - kept.len();
        kept.extend(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_mappings_end_where_a_new_pgd_entry_begins() {
        for allocations in [1, 16, 255] {
            let start = vmalloc_start(allocations);
            let measured = 1 + allocations;
            let next = start + measured * PAGES_PER_ALLOCATION * PAGE_SIZE;
            assert_eq!(next % PGD_ENTRY_SPAN, 0);
            assert_eq!(next, Region::Vmalloc.start() + PGD_ENTRY_SPAN);
            // All in one page table, which the first one made.
            assert_eq!(start >> 21, (next - 1) >> 21);
        }
    }

    #[test]
    fn a_console_keeps_its_start_and_nothing_that_moves_a_terminal() {
        let mut console = Console::default();
        assert_eq!(console.text(), "");
        console.write_all(b"a\x1b[2Jb\nc\n").unwrap();
        assert_eq!(console.text(), "\n  its console:\n  | a[2Jb\n  | c");
        console.write_all(&vec![b'x'; 1 << 20]).unwrap();
        assert!(console.text().len() < 2 * MAX_CONSOLE);
    }
}
