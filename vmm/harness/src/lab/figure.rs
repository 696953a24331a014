//! What a mapping costs, in the figures that people compare: each a count per kernel mapping.

use heirloom_abi::options::Strategy;
use serde::Serialize;

use super::cell::{Cell, Phase, Step};
use super::law::Law;
use super::plan::StrategyName;

/// A count. "Read by all" is one read by each of the N processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Entries written below the PGDs for a mapping that is made below a PGD entry that exists.
    EntryWrites,
    /// PGD entries written for it.
    PgdWrites,
    /// Kernel page faults when it is read by all.
    Faults,
    /// Entries written below the PGDs for a mapping that needs a new PGD entry, made and read by all.
    NewEntryWrites,
    /// PGD entries written for it.
    NewPgdWrites,
    /// Kernel page faults for it.
    NewFaults,
    /// Processes that cannot read it.
    NewReadsLost,
    /// Entries written to unmap one page.
    UnmapEntryWrites,
    /// Single-page TLB flushes to unmap one page.
    UnmapFlushes,
    /// CR3 loads per system call.
    Cr3Loads,
    /// Table frames below kernel halves, when everything is mapped.
    KernelTables,
}

impl Figure {
    /// All, in the order in which they are shown.
    pub const ALL: [Figure; 11] = [
        Figure::EntryWrites,
        Figure::PgdWrites,
        Figure::Faults,
        Figure::NewEntryWrites,
        Figure::NewPgdWrites,
        Figure::NewFaults,
        Figure::NewReadsLost,
        Figure::UnmapEntryWrites,
        Figure::UnmapFlushes,
        Figure::Cr3Loads,
        Figure::KernelTables,
    ];

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Figure::EntryWrites => "pte-writes",
            Figure::PgdWrites => "pgd-writes",
            Figure::Faults => "kernel-faults",
            Figure::NewEntryWrites => "new-entry-pte-writes",
            Figure::NewPgdWrites => "new-entry-pgd-writes",
            Figure::NewFaults => "new-entry-kernel-faults",
            Figure::NewReadsLost => "new-entry-reads-lost",
            Figure::UnmapEntryWrites => "unmap-pte-writes",
            Figure::UnmapFlushes => "unmap-page-flushes",
            Figure::Cr3Loads => "cr3-loads-per-system-call",
            Figure::KernelTables => "kernel-table-frames",
        }
    }

    /// The figure of one cell; `None` if its mappings did not all cost the same.
    pub fn of(self, cell: &Cell, allocations: u64) -> Option<u64> {
        let each = |total: u64| {
            let whole = total.checked_rem(allocations)? == 0;
            whole.then_some(total / allocations)
        };
        let for_new = |count: fn(&Phase) -> u64| {
            count(cell.phase(Step::MapNew)).checked_add(count(cell.phase(Step::ReadNew)))
        };
        let read = &cell.phase(Step::Read).guest;
        match self {
            Figure::EntryWrites => each(cell.map.guest.written.entries),
            Figure::PgdWrites => {
                each(cell.map.guest.written.pgd_entries)?.checked_add(read.written.pgd_entries)
            }
            Figure::Faults => Some(read.kernel_faults),
            Figure::NewEntryWrites => for_new(|phase| phase.guest.written.entries),
            Figure::NewPgdWrites => for_new(|phase| phase.guest.written.pgd_entries),
            Figure::NewFaults => for_new(|phase| phase.guest.kernel_faults),
            Figure::NewReadsLost => Some(cell.reads_lost_below_new_entry),
            Figure::UnmapEntryWrites => each(cell.unmap.guest.written.entries),
            Figure::UnmapFlushes => each(cell.unmap.guest.page_flushes),
            Figure::Cr3Loads => Some(cell.cr3_loads_per_system_call),
            Figure::KernelTables => Some(cell.table_frames.kernel_half),
        }
    }
}

/// How the figures of one strategy grow with the number of processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// Which strategy.
    pub strategy: StrategyName,
    /// The law of each figure.
    #[serde(serialize_with = "by_name")]
    pub laws: Vec<(Figure, Law)>,
}

impl Growth {
    /// Fits the cells of `strategy`.
    pub fn of(strategy: Strategy, cells: &[Cell], allocations: u64) -> Growth {
        let strategy = StrategyName(strategy);
        let law = |figure: Figure| {
            let points: Option<Vec<(u64, u64)>> = cells
                .iter()
                .filter(|cell| cell.name.strategy == strategy)
                .map(|cell| Some((cell.name.processes, figure.of(cell, allocations)?)))
                .collect();
            points.map_or(Law::Neither, |points| Law::of(&points))
        };
        Growth {
            strategy,
            laws: Figure::ALL
                .map(|figure| (figure, law(figure)))
                .into_iter()
                .collect(),
        }
    }
}

// serde passes fields by reference.
#[allow(clippy::ptr_arg)]
fn by_name<S: serde::Serializer>(
    laws: &Vec<(Figure, Law)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(laws.iter().map(|(figure, law)| (figure.name(), law)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::testing::cell;

    #[test]
    fn costs_are_per_mapping_and_uneven_ones_are_none() {
        let cell = cell(Strategy::Sync, 4, 48);
        assert_eq!(Figure::EntryWrites.of(&cell, 16), Some(3));
        assert_eq!(Figure::NewEntryWrites.of(&cell, 16), Some(96));
        assert_eq!(Figure::EntryWrites.of(&cell, 7), None);
        assert_eq!(Figure::EntryWrites.of(&cell, 0), None);
    }

    #[test]
    fn the_law_is_that_of_the_strategys_own_cells() {
        let cells: Vec<Cell> = [1, 2, 4]
            .into_iter()
            .flat_map(|n| {
                [
                    cell(Strategy::CopyAll, n, 1 + n),
                    cell(Strategy::Sync, n, 1),
                ]
            })
            .collect();
        let law = |strategy| Growth::of(strategy, &cells, 1).laws[0];
        assert_eq!(
            law(Strategy::CopyAll),
            (Figure::EntryWrites, Law::Linear { start: 1, slope: 1 })
        );
        assert_eq!(law(Strategy::Sync), (Figure::EntryWrites, Law::Constant(1)));
        assert_eq!(law(Strategy::None).1, Law::TooFewSizes);
    }
}
