//! The results for people: the laws first, then the counts that they come from.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use heirloom_harness::lab::cell::{Cell, Phase};
use heirloom_harness::lab::figure::{Figure, Growth};
use heirloom_harness::lab::results::Results;

/// The results as tables.
pub(super) struct Text<'a>(pub(super) &'a Results);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text(results) = *self;
        let plan = &results.plan;
        writeln!(
            f,
            "What a kernel mapping costs with N processes, as a function of N\n\
             (from {} runs of {} mappings each)",
            results.cells.len(),
            plan.allocations
        )?;
        writeln!(f, "{}", growth_table(&results.growth()))?;
        writeln!(
            f,
            "  below:      a page is mapped below a PGD entry that every process has,\n\
             \x20             and each of the N reads it once\n\
             \x20 new:        the same for a page that needs a new PGD entry\n\
             \x20 unmap:      one of the pages below an entry is unmapped\n\
             \x20 PTEs, PGDs: entries written in page tables, and in PGDs\n\
             \x20 faults:     of all N together; lost: processes that could not read it\n\
             \x20 CR3:        loads per system call\n\
             \x20 tables:     page-table frames below kernel halves, PGDs not counted\n\
             \x20 A number alone is O(1), a formula with N is O(N); both hold exactly at\n\
             \x20 every size that was run. `neither`: no such law holds; `?`: fewer than\n\
             \x20 three sizes were run.\n"
        )?;
        writeln!(
            f,
            "The counts, each the guest's own and checked against its tables"
        )?;
        writeln!(f, "{}\n", count_table(results))?;
        writeln!(f, "The times")?;
        writeln!(f, "{}", time_table(results))?;
        writeln!(
            f,
            "  cycles: of the guest's time-stamp counter, in the fastest of the mappings\n\
             \x20         below an entry\n\
             \x20 µs:     the host's wall clock while the guest ran: the fastest of those, and\n\
             \x20         the one mapping with a new entry together with N reads; long where a\n\
             \x20         KVM emulates kernel code"
        )?;
        let complaints = results.complaints().len();
        let cells = results.cells.len();
        if complaints == 0 {
            write!(
                f,
                "\nHOLDS: guest and tables agree on all counts in {cells} cells, and every process read what \
                 its strategy owes it."
            )
        } else {
            write!(
                f,
                "\nBROKEN: {complaints} counts or readings in {cells} cells are not as they must be."
            )
        }
    }
}

/// Head lines of the figures, in the order of [`Figure::ALL`].
const HEADS: [&str; Figure::ALL.len()] = [
    "below\nPTEs",
    "\nPGDs",
    "\nfaults",
    "new\nPTEs",
    "\nPGDs",
    "\nfaults",
    "\nlost",
    "unmap\nPTEs",
    "\nflushes",
    "\nCR3",
    "\ntables",
];

fn growth_table(growth: &[Growth]) -> Table {
    let mut table = bare(["\nstrategy"].iter().chain(&HEADS));
    for Growth { strategy, laws } in growth {
        let mut row = vec![strategy.to_string()];
        row.extend(laws.iter().map(|(_, law)| law.to_string()));
        table.add_row(row);
    }
    close(&mut table);
    table
}

fn count_table(results: &Results) -> Table {
    let mut table = bare(["\nstrategy", "\nN"].iter().chain(&HEADS));
    for (strategy, cell) in cells(results) {
        let mut row = vec![strategy, cell.name.processes.to_string()];
        row.extend(Figure::ALL.iter().map(|figure| {
            figure
                .of(cell, results.plan.allocations)
                .map_or_else(|| "uneven".into(), |count| count.to_string())
        }));
        table.add_row(row);
    }
    close(&mut table);
    table
}

fn time_table(results: &Results) -> Table {
    let heads = [
        "strategy",
        "N",
        "cycles",
        "µs",
        "µs of a new entry and N reads",
    ];
    let mut table = bare(heads.iter());
    for (strategy, cell) in cells(results) {
        let read = microseconds(cell.map_new).saturating_add(microseconds(cell.read_new));
        table.add_row([
            strategy,
            cell.name.processes.to_string(),
            cell.fastest_mapping_cycles.to_string(),
            (cell.fastest_mapping_nanoseconds / 1000).to_string(),
            read.to_string(),
        ]);
    }
    align(&mut table, 1);
    table
}

/// The cells, strategy by strategy.
fn cells(results: &Results) -> impl Iterator<Item = (String, &Cell)> {
    let strategies = results.plan.strategies.iter();
    strategies.flat_map(|strategy| {
        let all = results.cells.iter();
        let own = all.filter(move |cell| cell.name.strategy == *strategy);
        own.map(|cell| (strategy.to_string(), cell))
    })
}

const fn microseconds(phase: Phase) -> u64 {
    phase.nanoseconds / 1000
}

/// A table without lines.
pub(super) fn bare<'a>(heads: impl Iterator<Item = &'a &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(heads);
    table
}

/// Numbers to the right, and close together: there are many.
fn close(table: &mut Table) {
    align(table, 1);
    for column in table.column_iter_mut() {
        column.set_padding((1, 0));
    }
}

/// Numbers to the right.
pub(super) fn align(table: &mut Table, from: usize) {
    for column in table.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heirloom_harness::lab::plan::Shard;
    use heirloom_harness::lab::testing::sweep;

    #[test]
    fn the_text_fits_eighty_columns_and_states_the_laws() {
        let text = Text(&sweep(Shard::WHOLE)).to_string();
        // The verdict is one line, which a terminal folds.
        let (above, _verdict) = text.rsplit_once('\n').unwrap();
        for line in above.lines() {
            assert!(line.trim_end().chars().count() <= 80, "{line}");
        }
        assert!(text.contains("1 + N"), "{text}");
    }
}
