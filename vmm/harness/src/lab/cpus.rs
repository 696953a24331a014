//! What a kernel mapping costs with several CPUs: one cell for each strategy and number of CPUs. One CPU maps and
//! unmaps; all others are busy in ring 3, and must be interrupted to drop what is unmapped.

use std::fmt;

use heirloom_abi::options::{BELOW_SECOND_ENTRY, Strategy, VMALLOC_START};
use heirloom_machine::{CpuCount, Cpus};
use serde::Serialize;

use super::console::Console;
use super::law::Law;
use super::measure::{CellError, CellRunner, Problem, vmalloc_below};
use super::plan::StrategyName;
use crate::error::RunError;
use crate::event::{Counters, Event, EventKind};
use crate::run::{Run, default_time_limit};

/// The ring-3 program that makes the mappings (guest/user/src/bin/beside.rs).
const PROGRAM: &str = "beside";
/// Version of the JSON.
const SCHEMA: u64 = 1;

/// What one of the system calls that map, or unmap, a page costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CallCosts {
    /// Interrupts that were sent to other CPUs.
    pub interrupts: u64,
    /// TLB flushes, on all CPUs together.
    pub flushes: u64,
    /// Cycles of the guest's time-stamp counter from one call to the next: the fewest.
    pub cycles: u64,
}

/// One experiment: a machine of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CpuCell {
    /// How a kernel mapping reaches every process.
    pub strategy: StrategyName,
    /// CPUs, each with a process of its own.
    pub cpus: u8,
    /// To map a page below a PGD entry that exists.
    pub map: CallCosts,
    /// To unmap it.
    pub unmap: CallCosts,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct CpuResults {
    schema: u64,
    /// The numbers of CPUs, ascending.
    pub cpus: Vec<u8>,
    /// The strategies, each once.
    pub strategies: Vec<StrategyName>,
    /// Mappings made in each cell, one page each.
    pub allocations: u64,
    /// What came of it.
    pub cells: Vec<CpuCell>,
    /// The law of each strategy's counts.
    pub growth: Vec<CpuGrowth>,
}

/// How the counts of one strategy grow with the number of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuGrowth {
    /// Which strategy.
    pub strategy: StrategyName,
    /// Interrupts to map a page.
    pub map_interrupts: Law,
    /// Flushes to map it.
    pub map_flushes: Law,
    /// Interrupts to unmap it.
    pub unmap_interrupts: Law,
    /// Flushes to unmap it.
    pub unmap_flushes: Law,
}

impl CpuGrowth {
    fn of(strategy: StrategyName, cells: &[CpuCell]) -> CpuGrowth {
        let law = |count: fn(&CpuCell) -> u64| {
            let own = cells.iter().filter(|cell| cell.strategy == strategy);
            let points: Vec<(u64, u64)> = own.map(|cell| (cell.cpus.into(), count(cell))).collect();
            Law::of(&points)
        };
        CpuGrowth {
            strategy,
            map_interrupts: law(|cell| cell.map.interrupts),
            map_flushes: law(|cell| cell.map.flushes),
            unmap_interrupts: law(|cell| cell.unmap.interrupts),
            unmap_flushes: law(|cell| cell.unmap.flushes),
        }
    }
}

impl CpuResults {
    /// Every strategy with every number of CPUs, in order, nothing twice: what is to be measured.
    pub fn cells(
        strategies: &[StrategyName],
        cpus: &[CpuCount],
    ) -> impl Iterator<Item = (StrategyName, CpuCount)> {
        let mut cpus = cpus.to_vec();
        cpus.sort_unstable();
        cpus.dedup();
        let strategies = Strategy::ALL
            .map(StrategyName)
            .into_iter()
            .filter(|strategy| strategies.contains(strategy))
            .collect::<Vec<_>>();
        cpus.into_iter().flat_map(move |cpus| {
            let strategies = strategies.clone().into_iter();
            strategies.map(move |strategy| (strategy, cpus))
        })
    }

    /// What follows from all cells.
    pub fn new(allocations: u64, cells: Vec<CpuCell>) -> CpuResults {
        let (mut strategies, mut cpus) = (Vec::new(), Vec::new());
        for cell in &cells {
            if !strategies.contains(&cell.strategy) {
                strategies.push(cell.strategy);
            }
            if !cpus.contains(&cell.cpus) {
                cpus.push(cell.cpus);
            }
        }
        let growth = strategies.iter();
        let growth = growth.map(|strategy| CpuGrowth::of(*strategy, &cells));
        CpuResults {
            schema: SCHEMA,
            growth: growth.collect(),
            cpus,
            strategies,
            allocations,
            cells,
        }
    }
}

/// For messages.
struct Name(StrategyName, u8);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Name(strategy, cpus) = self;
        let plural = if *cpus == 1 { "" } else { "s" };
        write!(f, "{strategy} with {cpus} CPU{plural}")
    }
}

impl CellRunner<'_> {
    /// Runs one cell with several CPUs, and judges it.
    ///
    /// # Errors
    /// The machine cannot be made, the guest fails or breaks a rule, or it does not do what its program does.
    pub fn measure_cpus(
        &self,
        strategy: StrategyName,
        cpus: CpuCount,
    ) -> Result<CpuCell, CellError> {
        let console = Console::default();
        let in_cell = |problem: Problem| CellError {
            cell: Name(strategy, cpus.get()).to_string().into(),
            problem,
            console: console.text(),
        };
        let below = vmalloc_below(self.allocations);
        let words = format!(
            "{VMALLOC_START}={BELOW_SECOND_ENTRY}{below} {}",
            self.more_words
        );
        let arguments = [
            "busy".into(),
            cpus.to_string(),
            self.allocations.to_string(),
        ];
        let mut builder = Run::builder(self.host);
        if let Some(kernel) = self.kernel {
            builder = builder.kernel(kernel.clone());
        }
        let limit = self.time_limit;
        let run = builder
            .memory(self.memory)
            .embedded(PROGRAM, arguments.into())
            .cpus(Cpus::new(cpus))
            .strategy(strategy.0)
            .kernel_words(&words)
            .console(Box::new(console.clone()))
            .time_limit(limit.unwrap_or_else(|| default_time_limit(cpus.get().into())))
            .start();
        let mut run = run.map_err(|error| in_cell(error.into()))?;
        self.cancel.watch(run.interrupter());
        if let Some(recordings) = self.recordings {
            recordings.record(&mut run, &format!("{strategy}-{cpus}-cpus"));
        }
        let (mut map, mut unmap) = (Calls::default(), Calls::default());
        let mut before = Counters::default();
        let ended = run.to_end(|seen| {
            let Event {
                counters, claim, ..
            } = seen.event;
            match claim {
                EventKind::KernelMapped { .. } => map.take(&before, counters),
                EventKind::KernelUnmapped { .. } => unmap.take(&before, counters),
                // What was before is not measured.
                EventKind::Checkpoint { text } if text == "settled" => map = Calls::default(),
                _ => {}
            }
            before = *counters;
        });
        if let Some(recordings) = self.recordings {
            recordings.note(run.recorded());
        }
        let status = ended.map_err(|error| in_cell(error.into()))?;
        if !status.is_success() {
            return Err(in_cell(Problem::Program(status)));
        }
        let broken = run.judge().verdicts().iter();
        let mut broken = broken.filter(|verdict| verdict.violations > 0);
        if let Some(verdict) = broken.next() {
            let what = format!("the guest breaks the rule {}", verdict.rule.name);
            return Err(in_cell(RunError::Unexpected(what).into()));
        }
        let costs = map
            .costs(self.allocations)
            .zip(unmap.costs(self.allocations));
        let Some((map, unmap)) = costs else {
            let what = "the lab's program does not map and unmap what it must".to_owned();
            return Err(in_cell(RunError::Unexpected(what).into()));
        };
        Ok(CpuCell {
            strategy,
            cpus: cpus.get(),
            map,
            unmap,
        })
    }
}

/// System calls of one kind.
#[derive(Default)]
struct Calls {
    count: u64,
    costs: Option<CallCosts>,
}

impl Calls {
    /// One more, between two events. A CPU that is in the kernel for its timer needs no interrupt, and drops what it
    /// must later: so what a call costs is what the one with the most interrupts did, and the fewest flushes.
    fn take(&mut self, before: &Counters, after: &Counters) {
        let grown = |of: fn(&Counters) -> u64| of(after).saturating_sub(of(before));
        let flushes = grown(|counters| counters.page_flushes)
            .saturating_add(grown(|counters| counters.remote_flushes));
        let call = CallCosts {
            interrupts: grown(|counters| counters.shootdown_interrupts),
            flushes,
            cycles: grown(|counters| counters.cycles),
        };
        self.count += 1;
        self.costs = Some(self.costs.map_or(call, |known| CallCosts {
            cycles: known.cycles.min(call.cycles),
            ..if (call.interrupts, known.flushes) > (known.interrupts, call.flushes) {
                call
            } else {
                known
            }
        }));
    }

    /// What one costs, if there were so many.
    fn costs(&self, count: u64) -> Option<CallCosts> {
        self.costs.filter(|_| self.count == count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(interrupts: u64, own: u64, others: u64, cycles: u64) -> Counters {
        Counters {
            shootdown_interrupts: interrupts,
            page_flushes: own,
            remote_flushes: others,
            cycles,
            ..Counters::default()
        }
    }

    #[test]
    fn a_call_costs_what_it_does_when_every_cpu_is_interrupted_and_nobody_is_late() {
        let mut calls = Calls::default();
        let mut at = Counters::default();
        // One CPU is in the kernel, and late; it drops its translations beside those of the next; then all is quiet.
        for (interrupts, own, others, cycles) in [
            (2, 1, 2, 900),
            (5, 2, 6, 1900),
            (8, 3, 9, 2700),
            (11, 4, 12, 3700),
        ] {
            let next = counters(interrupts, own, others, cycles);
            calls.take(&at, &next);
            at = next;
        }
        let costs = CallCosts {
            interrupts: 3,
            flushes: 4,
            cycles: 800,
        };
        assert_eq!(calls.costs(4), Some(costs));
        assert_eq!(calls.costs(5), None);
    }

    #[test]
    fn the_law_is_that_of_the_strategys_own_cells_and_no_cell_is_measured_twice() {
        let strategies = [Strategy::Sync, Strategy::Prealloc, Strategy::Sync].map(StrategyName);
        let cpus = [4, 1, 2, 1].map(|cpus| CpuCount::new(cpus).unwrap());
        let cells: Vec<CpuCell> = CpuResults::cells(&strategies, &cpus)
            .map(|(strategy, cpus)| {
                let others = u64::from(cpus.get()) - 1;
                let costs = |factor: u64| CallCosts {
                    interrupts: factor * others,
                    flushes: factor * (1 + others),
                    cycles: 1000,
                };
                CpuCell {
                    strategy,
                    cpus: cpus.get(),
                    map: costs(0),
                    unmap: costs(1),
                }
            })
            .collect();
        assert_eq!(cells.len(), 6);
        let results = CpuResults::new(16, cells);
        assert_eq!(results.cpus, [1, 2, 4]);
        for growth in &results.growth {
            assert_eq!(growth.map_interrupts, Law::Constant(0));
            assert_eq!(growth.unmap_interrupts.to_string(), "N − 1");
            assert_eq!(growth.unmap_flushes.to_string(), "N");
        }
        assert_eq!(
            Name(StrategyName(Strategy::Sync), 1).to_string(),
            "sync with 1 CPU"
        );
    }
}
