//! What one cell measured, and where the guest's counters and the host's view of its tables differ.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::plan::CellName;
use super::written::Written;
use crate::event::Counters;

/// The phases of a cell, each from one checkpoint of the guest's program to the next. No process is created
/// and none ends in any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first process makes mappings of one page below a PGD entry that everybody has.
    Map,
    /// It writes to the last of them, and every process reads it once.
    Read,
    /// It makes one more, which needs a new PGD entry.
    MapNew,
    /// The same for that one.
    ReadNew,
    /// It unmaps those of the first phase.
    Unmap,
}

impl Step {
    /// In the order of time.
    pub const ALL: [Step; 5] = [
        Step::Map,
        Step::Read,
        Step::MapNew,
        Step::ReadNew,
        Step::Unmap,
    ];

    /// For messages.
    const fn name(self) -> &'static str {
        match self {
            Step::Map => "mapping below a PGD entry that exists",
            Step::Read => "reading there in every process",
            Step::MapNew => "mapping with a new PGD entry",
            Step::ReadNew => "reading there in every process, below the new PGD entry",
            Step::Unmap => "unmapping",
        }
    }
}

/// The guest's own counts over a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Entries written.
    #[serde(flatten)]
    pub written: Written,
    /// Page faults that brought a kernel mapping into an address space.
    pub kernel_faults: u64,
    /// Loads of CR3.
    pub cr3_loads: u64,
    /// Single pages dropped from the TLB.
    pub page_flushes: u64,
    /// System calls.
    pub system_calls: u64,
}

impl Counted {
    /// Between two events. Counters that run backwards count nothing; the tables will show it.
    pub fn between(before: &Counters, after: &Counters) -> Counted {
        let grown = |of: fn(&Counters) -> u64| of(after).saturating_sub(of(before));
        Counted {
            written: Written {
                entries: grown(|counters| counters.kernel_entry_writes),
                pgd_entries: grown(|counters| counters.kernel_pgd_writes),
            },
            kernel_faults: grown(|counters| counters.kernel_faults),
            cr3_loads: grown(|counters| counters.cr3_loads),
            page_flushes: grown(|counters| counters.page_flushes),
            system_calls: grown(|counters| counters.system_calls),
        }
    }
}

/// A phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What the guest counted.
    pub guest: Counted,
    /// What the tables showed to have been written.
    pub tables: Written,
    /// How long the guest ran, by the host's clock; all mappings, readings or unmappings together.
    pub nanoseconds: u64,
}

/// Frames in use as page tables, when everything is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFrames {
    /// All, as the guest counts them.
    pub guest: u64,
    /// All, as the host finds them from the roots.
    pub tables: u64,
    /// Those below kernel halves, as the host finds them: without the PGDs.
    pub kernel_half: u64,
}

/// What one cell measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Which cell.
    #[serde(flatten)]
    pub name: CellName,
    /// See [`Step::Map`].
    pub map: Phase,
    /// See [`Step::Read`].
    pub read: Phase,
    /// See [`Step::MapNew`].
    pub map_new: Phase,
    /// See [`Step::ReadNew`].
    pub read_new: Phase,
    /// See [`Step::Unmap`].
    pub unmap: Phase,
    /// The least of the system calls that map and unmap, one by one: the timer's interrupts add theirs
    /// to others.
    pub cr3_loads_per_system_call: u64,
    /// The least guest time of one of the mappings of the first phase, its system call and event
    /// included: what else the host does makes others longer.
    pub fastest_mapping_nanoseconds: u64,
    /// The same by the guest's time-stamp counter, in its cycles.
    pub fastest_mapping_cycles: u64,
    /// Page-table frames in use.
    pub table_frames: TableFrames,
    /// Processes that faulted, or saw another value than the first one wrote, when all read.
    pub reads_lost: u64,
    /// The same below the new PGD entry.
    pub reads_lost_below_new_entry: u64,
}

impl Cell {
    /// One of its phases.
    pub const fn phase(&self, step: Step) -> &Phase {
        match step {
            Step::Map => &self.map,
            Step::Read => &self.read,
            Step::MapNew => &self.map_new,
            Step::ReadNew => &self.read_new,
            Step::Unmap => &self.unmap,
        }
    }

    /// Everything that does not hold.
    pub fn disagreements(&self) -> Vec<Disagreement> {
        let mut found = Vec::new();
        let mut compare = |step: Option<Step>, counter: &'static str, guest: u64, tables: u64| {
            if guest != tables {
                found.push(Disagreement {
                    cell: self.name,
                    step,
                    counter,
                    guest,
                    tables,
                });
            }
        };
        for step in Step::ALL {
            let Phase { guest, tables, .. } = self.phase(step);
            let guest = guest.written;
            compare(
                Some(step),
                "kernel entry writes",
                guest.entries,
                tables.entries,
            );
            compare(
                Some(step),
                "kernel PGD writes",
                guest.pgd_entries,
                tables.pgd_entries,
            );
        }
        let frames = &self.table_frames;
        compare(None, "page-table frames", frames.guest, frames.tables);
        found
    }

    /// Whether a process missed a mapping that its strategy owes to it: one that does not propagate new
    /// PGD entries owes nothing below them.
    pub const fn has_lost_reads(&self) -> bool {
        self.reads_lost > 0
            || (self.reads_lost_below_new_entry > 0 && self.name.strategy.0.propagates())
    }
}

/// The guest counted one thing, its tables show another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Where.
    pub cell: CellName,
    /// `None` for what is in use when everything is mapped.
    step: Option<Step>,
    counter: &'static str,
    guest: u64,
    tables: u64,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Disagreement {
            cell,
            step,
            counter,
            guest,
            tables,
        } = self;
        let when = step.map_or("when everything is mapped", Step::name);
        write!(
            f,
            "{cell}, {when}: the guest counts {guest} {counter}, its tables show {tables}"
        )
    }
}

#[cfg(test)]
mod tests {
    use heirloom_abi::options::Strategy;

    use super::*;
    use crate::lab::testing::cell;

    #[test]
    fn a_cell_whose_counts_agree_has_no_disagreement() {
        assert_eq!(cell(Strategy::Sync, 4, 3).disagreements(), []);
    }

    #[test]
    fn every_count_that_differs_is_named_with_its_cell_and_both_numbers() {
        let mut wrong = cell(Strategy::Sync, 4, 3);
        wrong.map.guest.written.entries = 5;
        wrong.map_new.tables.pgd_entries = 6;
        wrong.table_frames.guest = 8;
        let said: Vec<String> = wrong
            .disagreements()
            .iter()
            .map(Disagreement::to_string)
            .collect();
        assert_eq!(
            said,
            [
                "sync with 4 processes, mapping below a PGD entry that exists: the guest counts 5 \
                 kernel entry writes, its tables show 3",
                "sync with 4 processes, mapping with a new PGD entry: the guest counts 0 kernel PGD \
                 writes, its tables show 6",
                "sync with 4 processes, when everything is mapped: the guest counts 8 page-table \
                 frames, its tables show 9",
            ]
        );
    }

    #[test]
    fn only_none_may_lose_reads_and_only_below_a_new_entry() {
        for strategy in Strategy::ALL {
            let mut lost = cell(strategy, 4, 3);
            assert!(!lost.has_lost_reads());
            lost.reads_lost_below_new_entry = 3;
            assert_eq!(lost.has_lost_reads(), strategy.propagates());
            lost.reads_lost = 1;
            assert!(lost.has_lost_reads());
        }
    }
}
