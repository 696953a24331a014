//! Claim 1: "why not treat kernel as an isolated MM context?"

use std::time::Duration;

use crate::region::Region;
use heirloom_abi::options::Strategy;
use heirloom_inspect::paging::level::Half;
use heirloom_inspect::{Level, Mapping, PageSize, Root, RootLabel, VirtRange};

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

/// How often the kernel has the timer interrupt it.
const TIME_SLICE: Duration = Duration::from_millis(10);

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

/// System calls that follow each other, the loads of CR3 meanwhile, and the host's time from one
/// checkpoint to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    calls: u64,
    loads: u64,
    time: Duration,
}

impl Batch {
    /// Entries into the kernel that were no system calls, if each entry is two loads.
    fn other_entries(&self) -> Option<u64> {
        let loads = self.loads.checked_sub(self.calls.checked_mul(2)?)?;
        loads.is_multiple_of(2).then_some(loads / 2)
    }

    /// Whether that is two for each system call, and two for each timer interrupt: which come at most
    /// as often as the kernel asks for them, and one may have waited while the host looked.
    fn is_two_for_each(&self) -> bool {
        let interrupts = self.time.as_nanos() / TIME_SLICE.as_nanos() + 1;
        self.calls > 0
            && self
                .other_entries()
                .is_some_and(|entries| u128::from(entries) <= interrupts)
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
            loads: grown(start, end, |counters| counters.cr3_loads),
            time: end.at - start.at,
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
        isolated.iter().filter_map(Batch::other_entries).sum::<u64>(),
        shared.iter().map(|batch| batch.loads).sum::<u64>(),
        shared.iter().map(|batch| batch.calls).sum::<u64>(),
    ));
    Ok(())
}

/// What of the kernel a process's own root translates.
fn judge_mapped(isolated: &Trace, shared: &Trace, proof: &mut Proof) -> Result<(), ClaimError> {
    let moment = isolated.checkpoint("calls")?;
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
        crate::region::range_of_region(Region::CpuEntryArea),
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
            listed(&found),
            listed(&area)
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
        Region::CpuEntryArea.start(),
        listed(&found)
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
fn listed(pages: &[Mapping]) -> String {
    const MAX: usize = 8;
    let mut shown: Vec<String> = pages
        .iter()
        .take(MAX)
        .map(|page| match crate::region::region_of(page.va) {
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
        let batch = |loads, milliseconds| Batch {
            calls: 50,
            loads,
            time: Duration::from_millis(milliseconds),
        };
        for (batch, is) in [
            (batch(100, 0), true),
            (batch(102, 0), true),
            (batch(104, 0), false),
            (batch(106, 29), true),
            (batch(108, 29), false),
            (batch(101, 29), false),
            (batch(99, 0), false),
            (batch(150, 29), false),
            (batch(0, 0), false),
        ] {
            assert_eq!(batch.is_two_for_each(), is, "{batch:?}");
        }
    }
}
