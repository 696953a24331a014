//! The results for people: the laws first, then the counts that they come from.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use heirloom_harness::lab::cell::Phase;
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
            "What a kernel mapping costs with N processes, as a function of N \
             (from {} runs of {} mappings each)",
            results.cells.len(),
            plan.allocations
        )?;
        writeln!(f, "{}", growth_table(&results.growth()))?;
        writeln!(
            f,
            "  below an entry: a page is mapped below a PGD entry that every process has, and each of the N reads it once\n\
             \x20 new entry:      the same for a page that needs a new PGD entry\n\
             \x20 faults:         of all N together; lost: processes that could not read it\n\
             \x20 tables:         page-table frames below kernel halves, PGDs not counted\n\
             \x20 A number alone is O(1), a formula with N is O(N); both hold exactly at every size that was run.\n\
             \x20 `neither`: no such law holds; `?`: fewer than three sizes were run.\n"
        )?;
        writeln!(
            f,
            "The counts, each the guest's own and checked against its tables"
        )?;
        writeln!(f, "{}", count_table(results))?;
        writeln!(
            f,
            "  cycles: of the guest's time-stamp counter, in the fastest of the mappings below an entry\n\
             \x20 µs: the host's wall clock while the guest ran: the fastest of the mappings below an entry, and the\n\
             \x20 one mapping with a new entry together with N reads; long where a KVM emulates kernel code"
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
    "below an entry\nPTE writes",
    "\nPGD writes",
    "\nfaults",
    "new entry\nPTE writes",
    "\nPGD writes",
    "\nfaults",
    "\nlost",
    "unmap\nPTE writes",
    "\nflushes",
    "CR3 loads\nper call",
    "kernel\ntables",
];

fn growth_table(growth: &[Growth]) -> Table {
    let mut table = table(&["\nstrategy"], &[]);
    for Growth { strategy, laws } in growth {
        let mut row = vec![strategy.to_string()];
        row.extend(laws.iter().map(|(_, law)| law.to_string()));
        table.add_row(row);
    }
    align(&mut table, 1);
    table
}

fn count_table(results: &Results) -> Table {
    let mut table = table(
        &["\nstrategy", "\nN"],
        &[
            "cycles:\nmapping",
            "µs: fastest\nmapping",
            "new entry\n+ N reads",
        ],
    );
    for strategy in &results.plan.strategies {
        let cells = results
            .cells
            .iter()
            .filter(|cell| cell.name.strategy == *strategy);
        for cell in cells {
            let mut row = vec![strategy.to_string(), cell.name.processes.to_string()];
            row.extend(Figure::ALL.iter().map(|figure| {
                figure
                    .of(cell, results.plan.allocations)
                    .map_or_else(|| "uneven".into(), |count| count.to_string())
            }));
            let read = microseconds(cell.map_new).saturating_add(microseconds(cell.read_new));
            row.push(cell.fastest_mapping_cycles.to_string());
            row.push((cell.fastest_mapping_nanoseconds / 1000).to_string());
            row.push(read.to_string());
            table.add_row(row);
        }
    }
    align(&mut table, 1);
    table
}

const fn microseconds(phase: Phase) -> u64 {
    phase.nanoseconds / 1000
}

fn table(first: &[&str], last: &[&str]) -> Table {
    bare(first.iter().chain(&HEADS).chain(last))
}

/// A table without lines.
pub(super) fn bare<'a>(heads: impl Iterator<Item = &'a &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(heads);
    table
}

/// Numbers to the right.
pub(super) fn align(table: &mut Table, from: usize) {
    for column in table.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
