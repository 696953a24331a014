//! Claim 1: "why not treat kernel as an isolated MM context?"

use crate::region::Region;
use heirloom_abi::layout::CPU_ENTRY_AREA;
use heirloom_abi::options::Strategy;
use heirloom_inspect::paging::level::Half;
use heirloom_inspect::{Depth, Level, Mapping, PageSize, Root, RootLabel, VirtRange};

use super::Claim;
use super::proof::{ClaimError, Proof, missing};
use super::runner::{Experiment, Runner};
use super::trace::{Observation, Trace, grown};

pub(crate) const CLAIM: Claim = Claim {
    number: 1,
    statement: "An isolated kernel requires MM context switches between user and kernel, and a small \
            part of it can not be isolated",
    experiment: "batches of getpid under isolated and prealloc",
    prove,
};

const BATCHES: usize = 4;

/// System calls that do next to nothing, under `strategy`.
pub(crate) fn experiment(strategy: Strategy) -> Experiment {
    Experiment::new(strategy, &["calls", "4", "50"])
}

fn prove(runner: &mut Runner, proof: &mut Proof) -> Result<(), ClaimError> {
    let isolated = runner.trace(&experiment(Strategy::Isolated))?;
    let shared = runner.trace(&experiment(Strategy::Prealloc))?;
    judge_cost(&isolated, &shared, proof)?;
    judge_mapped(&isolated, &shared, proof)
}

/// System calls that follow each other, the timer interrupts of ring 3 and the loads of CR3 meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    calls: u64,
    interrupts: u64,
    loads: u64,
}

impl Batch {
    /// Whether that is two for each entry into the kernel.
    fn is_two_for_each(&self) -> bool {
        let entries = self.calls.checked_add(self.interrupts);
        self.calls > 0 && entries.and_then(|entries| entries.checked_mul(2)) == Some(self.loads)
    }
}

fn batches(trace: &Trace) -> Result<Vec<Batch>, ClaimError> {
    let moments = trace.observations();
    let start = trace.checkpoint("calls")?;
    let ends = moments
        .iter()
        .filter(|moment| moment.is_checkpoint("called"));
    let starts = [start].into_iter().chain(ends.clone());
    let batches: Vec<Batch> = starts
        .zip(ends)
        .map(|(start, end)| Batch {
            calls: grown(start, end, |counters| counters.system_calls),
            interrupts: grown(start, end, |counters| counters.timer_interrupts),
            loads: grown(start, end, |counters| counters.cr3_loads),
        })
        .collect();
    if batches.len() == BATCHES {
        Ok(batches)
    } else {
        Err(missing(format!("{} of {BATCHES} batches", batches.len())))
    }
}

/// Two loads for each system call, and none where the kernel shares the process's context.
fn judge_cost(isolated: &Trace, shared: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let isolated = batches(isolated)?;
    let shared = batches(shared)?;
    for batch in &isolated {
        proof.require(batch.is_two_for_each(), || {
            format!("isolated: two CR3 loads for each entry into the kernel, found {batch:?}")
        });
    }
    for batch in &shared {
        proof.require(batch.calls > 0 && batch.loads == 0, || {
            format!("prealloc: no CR3 load in any system call, found {batch:?}")
        });
    }
    proof.cpu(format!(
        "isolated: {} CR3 loads, 2 for each of {} system calls and {} timer interrupts; prealloc: {} \
         in {} system calls",
        isolated.iter().map(|batch| batch.loads).sum::<u64>(),
        isolated.iter().map(|batch| batch.calls).sum::<u64>(),
        isolated.iter().map(|batch| batch.interrupts).sum::<u64>(),
        shared.iter().map(|batch| batch.loads).sum::<u64>(),
        shared.iter().map(|batch| batch.calls).sum::<u64>(),
    ));
    Ok(())
}

/// What of the kernel a process's own root translates.
fn judge_mapped(isolated: &Trace, shared: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let moment = isolated.checkpoint("calls")?;
    let depth = moment.depth();
    let process = moment.process(1)?;
    let kernel = moment.root(RootLabel::Kernel)?;
    proof.require_equal("isolated: CR3 in the kernel", &moment.cr3, &kernel.address);
    proof.cpu(format!(
        "isolated: in the kernel CR3 is {}, process 1's root {}",
        moment.cr3, process.address
    ));
    let found = pages(moment, process, VirtRange::half(Half::Kernel));
    let area = pages(
        moment,
        kernel,
        crate::region::range_of_region(Region::CpuEntryArea, moment.depth()),
    );
    proof.require(!area.is_empty(), || "the CPU entry area is empty".into());
    let places = |pages: &[Mapping]| -> Vec<_> {
        pages
            .iter()
            .map(|page| (page.va, page.entry.as_written()))
            .collect()
    };
    proof.require(places(&found) == places(&area), || {
        format!(
            "isolated: of the kernel, process 1's root has the pages {}, the CPU entry area is {}",
            listed(&found, depth),
            listed(&area, depth)
        )
    });
    for page in &found {
        proof.require(!page.rights.user, || {
            format!("{} of the kernel is ring 3's, too", page.va)
        });
    }
    proof.tables(format!(
        "isolated: of the kernel, a user root has {} pages, at {:#x}: {}",
        found.len(),
        CPU_ENTRY_AREA,
        listed(&found, depth)
    ));

    let moment = shared.checkpoint("calls")?;
    let process = moment.process(1)?;
    proof.require_equal("prealloc: CR3 in the kernel", &moment.cr3, &process.address);
    proof.cpu(format!(
        "prealloc: in the kernel CR3 is {}, process 1's root {}",
        moment.cr3, process.address
    ));
    let whole = pages(moment, process, VirtRange::half(Half::Kernel));
    let bytes: u64 = whole.iter().map(|page| page.size.bytes()).sum();
    proof.require(whole.len() > found.len(), || {
        "prealloc: a process's root has no more of the kernel than an isolated one".into()
    });
    proof.tables(format!(
        "prealloc: {} pages of 4 KiB",
        bytes / PageSize::Size4KiB.bytes()
    ));
    Ok(())
}

fn pages(moment: &Observation, root: &Root, range: VirtRange) -> Vec<Mapping> {
    moment.snapshot.leaves(root.id, range).collect()
}

/// Addresses within the area, and rights; of many pages the first.
fn listed(pages: &[Mapping], depth: Depth) -> String {
    const MAX: usize = 8;
    let mut shown: Vec<String> = pages
        .iter()
        .take(MAX)
        .map(|page| match crate::region::region_of(page.va, depth) {
            Some(Region::CpuEntryArea) => {
                let offset = page.va.offset_in(Level::Pml4);
                format!("+{offset:#x} {}", page.rights)
            }
            _ => format!("{} {}", page.va, page.rights),
        })
        .collect();
    if pages.len() > MAX {
        shown.push(format!("and {} more", pages.len() - MAX));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_that_neither_system_calls_nor_the_timer_explain_break_the_claim() {
        for (calls, interrupts, loads, is) in [
            (50, 0, 100, true),
            (50, 3, 106, true),
            (50, 3, 104, false),
            (50, 0, 102, false),
            (50, 0, 99, false),
            (0, 0, 0, false),
            (0, 1, 2, false),
            (u64::MAX, 1, 0, false),
        ] {
            let batch = Batch {
                calls,
                interrupts,
                loads,
            };
            assert_eq!(batch.is_two_for_each(), is, "{batch:?}");
        }
    }
}
