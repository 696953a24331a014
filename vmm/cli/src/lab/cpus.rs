//! `heirloom lab --cpus LIST`: what mapping and unmapping cost with several CPUs.

use std::fmt;

use comfy_table::Table;
use heirloom_harness::lab::cpus::{CallCosts, CpuCell, CpuResults};
use heirloom_harness::lab::measure::CellRunner;
use heirloom_harness::lab::plan::StrategyName;
use heirloom_machine::CpuCount;
use heirloom_source::OutputFile;

use super::chart::{self, Axes, ChartError};
use super::line::Line;
use super::terminal;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::progress::Progress;

/// Measures all cells.
pub(super) fn sweep(
    runner: &CellRunner<'_>,
    strategies: &[StrategyName],
    cpus: &[CpuCount],
) -> Result<CpuResults, Failure> {
    let names: Vec<_> = CpuResults::cells(strategies, cpus).collect();
    let progress = Progress::bar(names.iter().map(|(_, cpus)| u64::from(cpus.get())).sum());
    let mut cells = Vec::with_capacity(names.len());
    for (strategy, cpus) in names {
        progress.tell(|| format!("{strategy}, CPUs: {cpus}"));
        cells.push(runner.measure_cpus(strategy, cpus)?);
        progress.advance(cpus.get().into());
    }
    Ok(CpuResults::new(runner.allocations, cells))
}

/// Shows them.
pub(super) fn show(
    results: &CpuResults,
    json: bool,
    svg: Option<&OutputFile>,
) -> Result<Exit, Failure> {
    let mut output = Output::new()?;
    if json {
        output.line(&output::json(results)?)?;
    } else {
        output.report(&Text(results))?;
    }
    if let Some(file) = svg {
        let chart = chart(results).map_err(|error| chart::failure(file, &error))?;
        file.write(chart.as_bytes())?;
    }
    Ok(Exit::Good)
}

/// The results as tables.
struct Text<'a>(&'a CpuResults);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text(results) = *self;
        writeln!(
            f,
            "What a page of kernel memory costs with N CPUs, as a function of N\n\
             (from {} runs of {} mappings each)",
            results.cells.len(),
            results.allocations
        )?;
        writeln!(f, "{}", growth_table(results))?;
        writeln!(
            f,
            "  One CPU maps and unmaps, all others are busy in ring 3.\n\
             \x20 interrupts: that it sends to others; flushes: of all N together\n\
             \x20 A number alone is O(1), a formula with N is O(N); both hold exactly at every\n\
             \x20 size that was run. `neither`: no such law holds; `?`: fewer than three sizes\n"
        )?;
        writeln!(f, "{}", count_table(&results.cells))?;
        write!(
            f,
            "  cycles: of the guest's time-stamp counter, from one call to the next with the\n\
             \x20 event in between: the fewest\n\n\
             HOLDS: no rule is broken in {} cells.",
            results.cells.len()
        )
    }
}

fn growth_table(results: &CpuResults) -> Table {
    let heads = [
        "map\ninterrupts",
        "\nflushes",
        "unmap\ninterrupts",
        "\nflushes",
    ];
    let mut table = terminal::bare(["\nstrategy"].iter().chain(&heads));
    for growth in &results.growth {
        let laws = [
            growth.map_interrupts,
            growth.map_flushes,
            growth.unmap_interrupts,
            growth.unmap_flushes,
        ];
        let mut row = vec![growth.strategy.to_string()];
        row.extend(laws.iter().map(ToString::to_string));
        table.add_row(row);
    }
    terminal::align(&mut table, 1);
    table
}

fn count_table(cells: &[CpuCell]) -> Table {
    let heads = [
        "\nstrategy",
        "\nN",
        "map\ninterrupts",
        "\nflushes",
        "\ncycles",
        "unmap\ninterrupts",
        "\nflushes",
        "\ncycles",
    ];
    let mut table = terminal::bare(heads.iter());
    let mut cells: Vec<&CpuCell> = cells.iter().collect();
    cells.sort_by_key(|cell| (cell.strategy.0 as usize, cell.cpus));
    for cell in cells {
        let mut row = vec![cell.strategy.to_string(), cell.cpus.to_string()];
        for CallCosts {
            interrupts,
            flushes,
            cycles,
        } in [cell.map, cell.unmap]
        {
            row.extend([interrupts, flushes, cycles].map(|count| count.to_string()));
        }
        table.add_row(row);
    }
    terminal::align(&mut table, 1);
    table
}

/// What a panel shows, and of each cell the value.
type Panel = (Axes, fn(&CpuCell) -> u64);

const PANELS: [Panel; 4] = [
    (
        Axes {
            title: "Interrupts to unmap a page",
            unit: "interrupts sent to other CPUs",
            across: "N, CPUs",
            exact: true,
        },
        |cell| cell.unmap.interrupts,
    ),
    (
        Axes {
            title: "Flushes to unmap a page",
            unit: "TLB flushes, on all CPUs",
            across: "N, CPUs",
            exact: true,
        },
        |cell| cell.unmap.flushes,
    ),
    (
        Axes {
            title: "Time of a mapping",
            unit: "cycles, the fewest",
            across: "N, CPUs",
            exact: false,
        },
        |cell| cell.map.cycles,
    ),
    (
        Axes {
            title: "Time of an unmapping",
            unit: "cycles, the fewest",
            across: "N, CPUs",
            exact: false,
        },
        |cell| cell.unmap.cycles,
    ),
];

fn chart(results: &CpuResults) -> Result<String, ChartError> {
    let panels = PANELS.map(|(axes, value)| {
        let lines = results.strategies.iter().map(|strategy| {
            let own = results.cells.iter();
            let own = own.filter(|cell| cell.strategy == *strategy);
            let points = own.map(|cell| (cell.cpus.into(), value(cell)));
            (*strategy, points.collect())
        });
        (axes, Line::together(lines))
    });
    chart::draw(
        "What a page of kernel memory costs with N CPUs, all but one busy in ring 3",
        [
            "Counts are the guest kernel's own, and its flushes are held against its page tables. \
             Where a KVM emulates kernel code, times are long.",
            "",
        ],
        &panels,
    )
}

#[cfg(test)]
mod tests {
    use heirloom_abi::options::Strategy;

    use super::*;

    fn results() -> CpuResults {
        let cells = [1, 2, 4, 8].into_iter().flat_map(|cpus: u8| {
            [Strategy::Prealloc, Strategy::CopyAll].map(|strategy| {
                let costs = |interrupts, flushes| CallCosts {
                    interrupts,
                    flushes,
                    cycles: 1_000_000_000,
                };
                CpuCell {
                    strategy: StrategyName(strategy),
                    cpus,
                    map: costs(0, 0),
                    unmap: costs(u64::from(cpus) - 1, cpus.into()),
                }
            })
        });
        CpuResults::new(16, cells.collect())
    }

    #[test]
    fn the_text_fits_eighty_columns_and_states_the_laws() {
        let text = Text(&results()).to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(text.contains("N − 1"), "{text}");
    }

    #[test]
    fn the_chart_is_well_formed_and_names_panels_strategies_and_laws() {
        let text = chart(&results()).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let words: String = document
            .descendants()
            .filter_map(|node| node.text())
            .collect();
        for word in ["copy-all", "prealloc", "N − 1", "N, CPUs"] {
            assert!(words.contains(word), "no {word}");
        }
        for (axes, _) in &PANELS {
            assert!(words.contains(axes.title), "no {}", axes.title);
        }
    }
}
