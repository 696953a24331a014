//! Runs cells, each on a machine of its own.

use std::time::Duration;

use heirloom_abi::options::{BELOW_SECOND_ENTRY, VMALLOC_START};
use heirloom_machine::{KernelImage, MemorySize, Platform};

use super::cell::Cell;
use super::console::Console;
use super::observer::Observer;
use super::plan::CellName;
use crate::cancel::CancelToken;
use crate::error::{Cause, RunError};
use crate::recorder::RecordingDirectory;
use crate::run::{ExitStatus, Run, default_time_limit};

/// The ring-3 program that makes the mappings (guest/user/src/bin/lab.rs).
const PROGRAM: &str = "lab";
/// Pages of address space that an allocation of one page takes: the second is its guard.
const PAGES_PER_ALLOCATION: u64 = 2;
/// Runs cells, each on a machine of its own.
pub struct CellRunner<'a> {
    /// Where.
    pub host: &'a dyn Platform,
    /// Another kernel than the embedded one; it must have a PVH note.
    pub kernel: Option<&'a KernelImage>,
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
            cell: name.to_string().into(),
            problem,
            console: console.text(),
        };
        let words = format!(
            "{VMALLOC_START}={BELOW_SECOND_ENTRY}{} {}",
            vmalloc_below(self.allocations),
            self.more_words
        );
        let arguments = vec![name.processes.to_string(), self.allocations.to_string()];
        let mut builder = Run::builder(self.host);
        if let Some(kernel) = self.kernel {
            builder = builder.kernel(kernel.clone());
        }
        let run = builder
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

/// How many pages below a PGD entry's boundary kernel mappings must start so that the one before and the
/// measured ones end at it.
pub(super) fn vmalloc_below(allocations: u64) -> u64 {
    (1 + allocations) * PAGES_PER_ALLOCATION
}

/// A cell that could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("{cell}: {problem}{console}")]
pub struct CellError {
    /// Which one.
    pub cell: Box<str>,
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

#[cfg(test)]
mod tests {
    use heirloom_abi::PAGE_SIZE;
    use heirloom_abi::layout::{Depth, Region};

    use super::*;

    #[test]
    fn the_measured_mappings_end_where_a_new_pgd_entry_begins() {
        for depth in [Depth::Four, Depth::Five] {
            let second_entry = Region::Vmalloc.start(depth) + depth.top().entry_span();
            for allocations in [1, 16, 255] {
                let start = second_entry - vmalloc_below(allocations) * PAGE_SIZE;
                let measured = 1 + allocations;
                let next = start + measured * PAGES_PER_ALLOCATION * PAGE_SIZE;
                assert_eq!(next, second_entry);
                // All in one page table, which the first one made.
                assert_eq!(start >> 21, (next - 1) >> 21);
            }
        }
    }
}
