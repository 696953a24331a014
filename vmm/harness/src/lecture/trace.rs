//! What was seen of a run: every event with the page tables of that moment.

use heirloom_inspect::changes::EntryChange;
use heirloom_inspect::history::GroundTruth;
use heirloom_inspect::{
    Budget, Depth, Level, Pfn, PhysAddr, Root, RootLabel, Snapshot, VirtAddr, Walk,
};

use super::proof::{ClaimError, missing};
use crate::event::{Counters, Event, EventKind};
use crate::judge::Judge;

/// An event, while the guest stood still.
#[derive(Clone)]
pub(crate) struct Observation {
    pub(crate) event: Event,
    /// The root that CR3 had.
    pub(crate) cr3: PhysAddr,
    pub(crate) snapshot: Snapshot,
}

impl Observation {
    /// Whether it is the checkpoint with this text.
    pub(crate) fn is_checkpoint(&self, wanted: &str) -> bool {
        matches!(&self.event.claim, EventKind::Checkpoint { text } if text == wanted)
    }

    /// How deep the page tables are.
    pub(crate) fn depth(&self) -> Depth {
        self.snapshot.mode().depth
    }

    /// The guest's running totals.
    fn counters(&self) -> &Counters {
        &self.event.counters
    }

    /// The address space of process `pid`.
    pub(crate) fn process(&self, pid: u32) -> Result<&Root, ClaimError> {
        self.root(RootLabel::Process(pid))
    }

    /// An address space.
    pub(crate) fn root(&self, label: RootLabel) -> Result<&Root, ClaimError> {
        self.snapshot
            .root_of(label)
            .ok_or_else(|| missing(format!("{label} has no address space")))
    }

    /// Those of all processes.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Root> {
        self.snapshot
            .roots()
            .iter()
            .filter(|root| matches!(root.label, RootLabel::Process(_)))
    }

    /// The walk of `va` in an address space.
    pub(crate) fn walk(&self, root: &Root, va: VirtAddr) -> Walk {
        self.snapshot.translate(root.id, va)
    }

    /// The roots of the processes that translate `va` at all.
    pub(crate) fn translating(&self, va: VirtAddr) -> Vec<RootLabel> {
        self.processes()
            .filter(|root| self.walk(root, va).translation().is_some())
            .map(|root| root.label)
            .collect()
    }

    /// The entries that software wrote since `earlier`, those of new tables included: A and D, which
    /// the CPU sets, do not count.
    pub(crate) fn written_since(&self, earlier: &Observation) -> Vec<EntryChange> {
        self.snapshot
            .changes_since(&earlier.snapshot)
            .filter(EntryChange::is_written)
            .collect()
    }

    /// Frames that are tables now and were none in `earlier`.
    pub(crate) fn new_tables_since(&self, earlier: &Observation) -> Vec<(Pfn, Level)> {
        self.snapshot
            .tables_not_in(&earlier.snapshot)
            .map(|table| (table.pfn(), table.level()))
            .collect()
    }
}

/// By how much one of the guest's totals has grown.
pub(crate) fn grown(before: &Observation, after: &Observation, total: fn(&Counters) -> u64) -> u64 {
    total(after.counters()).wrapping_sub(total(before.counters()))
}

/// Pages of a mapping that is looked at; the program's are far smaller.
const MAX_PAGES: u64 = 1 << 12;

/// A mapping of kernel memory, and the event before it.
pub(crate) struct Mapping<'f> {
    pub(crate) before: &'f Observation,
    pub(crate) made: &'f Observation,
    /// What follows, to the next checkpoint or birth.
    pub(crate) after: &'f [Observation],
    pub(crate) address: VirtAddr,
    pub(crate) pages: u64,
}

impl Mapping<'_> {
    /// Each page.
    pub(crate) fn each_page(&self) -> impl Iterator<Item = VirtAddr> {
        (0..self.pages).map(|page| self.address.wrapping_add(page * heirloom_abi::PAGE_SIZE))
    }

    /// The last page.
    pub(crate) fn last_page(&self) -> VirtAddr {
        self.address
            .wrapping_add(self.pages.saturating_sub(1) * heirloom_abi::PAGE_SIZE)
    }

    /// What process 1 wrote to it.
    pub(crate) fn written(&self) -> Result<u64, ClaimError> {
        self.after
            .iter()
            .find_map(|moment| match moment.event.claim {
                EventKind::KernelAccess {
                    value,
                    write: true,
                    fault: None,
                    ..
                } => Some(value),
                _ => None,
            })
            .ok_or_else(|| missing("no process wrote to the kernel memory"))
    }

    /// What became of each process's attempt to read it: the value, or the page fault's error code.
    pub(crate) fn readings(&self) -> Vec<Reading> {
        readings(self.after)
    }
}

/// A process had the kernel read kernel memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) pid: u32,
    /// The value, or the page fault's error code.
    pub(crate) result: Result<u64, u64>,
}

/// The readings among `observations`.
pub(crate) fn readings(observations: &[Observation]) -> Vec<Reading> {
    observations
        .iter()
        .filter_map(|moment| match moment.event.claim {
            EventKind::KernelAccess {
                value,
                write: false,
                fault,
                ..
            } => Some(Reading {
                pid: moment.event.pid,
                result: fault.map_or(Ok(value), Err),
            }),
            _ => None,
        })
        .collect()
}

/// What the guest kernel calls the machine on which it found `syscall` to be served by a page fault.
const SOFTWARE_KVM: &str = "syscall-quirk";

/// Every event of a run, and what the host knew of the guest.
pub(crate) struct Trace {
    observations: Vec<Observation>,
    truth: GroundTruth,
    imprecise: bool,
}

impl Trace {
    /// What was kept of a run that `judge` has judged.
    pub(crate) fn new(observations: Vec<Observation>, judge: &Judge) -> Trace {
        Trace {
            observations,
            truth: judge.model().truth().clone(),
            imprecise: judge.model().machine().contains(&SOFTWARE_KVM),
        }
    }

    /// The same, to be looked at within `budget`.
    pub(crate) fn within(&self, budget: &Budget) -> Trace {
        let observations = self.observations.iter().map(|seen| Observation {
            event: seen.event.clone(),
            cr3: seen.cr3,
            snapshot: seen.snapshot.with_budget(budget.clone()),
        });
        Trace {
            observations: observations.collect(),
            truth: self.truth.clone(),
            imprecise: self.imprecise,
        }
    }

    /// Whether, on this machine, the error code of a page fault in the kernel half says nothing about
    /// the guest's own entries: kvm_pvm passes on what the CPU said of the tables that it runs on.
    pub(crate) fn has_imprecise_error_codes(&self) -> bool {
        self.imprecise
    }

    /// What the host knew without asking.
    pub(crate) fn truth(&self) -> &GroundTruth {
        &self.truth
    }

    /// All of them.
    pub(crate) fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// How deep the page tables are.
    pub(crate) fn depth(&self) -> Result<Depth, ClaimError> {
        let first = self.observations.first();
        first
            .map(Observation::depth)
            .ok_or_else(|| missing("a moment"))
    }

    /// The checkpoint with this text.
    pub(crate) fn checkpoint(&self, text: &str) -> Result<&Observation, ClaimError> {
        Ok(&self.observations[self.position(text)?])
    }

    /// The events from the checkpoint with this text to the next checkpoint.
    pub(crate) fn section(&self, text: &str) -> Result<&[Observation], ClaimError> {
        let from = self.position(text)?;
        let section = &self.observations[from..];
        let end = section[1..]
            .iter()
            .position(|moment| matches!(moment.event.claim, EventKind::Checkpoint { .. }))
            .map_or(section.len(), |position| position + 1);
        Ok(&section[..end])
    }

    /// The mapping that comes right after the checkpoint with this text.
    pub(crate) fn mapping(&self, text: &str) -> Result<Mapping<'_>, ClaimError> {
        mapping_at(self.section(text)?)
            .ok_or_else(|| missing(format!("no kernel memory was mapped after `{text}`")))
    }

    fn position(&self, text: &str) -> Result<usize, ClaimError> {
        self.observations
            .iter()
            .position(|moment| moment.is_checkpoint(text))
            .ok_or_else(|| missing(format!("the run never reached the checkpoint `{text}`")))
    }
}

/// The mapping that the second event of a section reports.
pub(crate) fn mapping_at(section: &[Observation]) -> Option<Mapping<'_>> {
    let [before, made, after @ ..] = section else {
        return None;
    };
    let EventKind::KernelMapped { address, pages, .. } = made.event.claim else {
        return None;
    };
    (1..=MAX_PAGES).contains(&pages).then_some(Mapping {
        before,
        made,
        after,
        address,
        pages,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use heirloom_inspect::paging::mode::Mode;
    use heirloom_inspect::testing::FakeMemory;
    use heirloom_inspect::{Capturer, Half, PageSize, VirtRange};

    use super::*;

    #[test]
    fn what_was_seen_is_seen_again_when_the_time_of_its_run_is_over() {
        let mut memory = FakeMemory::new();
        let root = memory.root();
        let (page, size) = (VirtAddr::new(0x40_0000), PageSize::Size4KiB);
        let frame = PhysAddr::new(0x9000);
        memory.map(
            Depth::Four,
            root,
            page,
            frame,
            size,
            FakeMemory::KERNEL_DATA,
        );
        let roots = [(RootLabel::Process(1), root)];
        let snapshot = Capturer::new().capture(&memory, Mode::typical(Depth::Four), &roots);
        let over = Budget::until(Instant::now());
        let trace = Trace {
            observations: vec![Observation {
                event: Event {
                    sequence: 0,
                    cpu: 0,
                    pid: 1,
                    claim: EventKind::Done { status: 0 },
                    counters: Counters::default(),
                },
                cr3: root,
                snapshot: snapshot.with_budget(over),
            }],
            truth: GroundTruth::default(),
            imprecise: false,
        };
        let pages = |trace: &Trace| {
            let seen = &trace.observations()[0];
            let process = seen.process(1).unwrap();
            seen.snapshot
                .leaves(process.id, VirtRange::half(Half::User))
                .count()
        };
        assert_eq!(pages(&trace), 0);
        let later = Budget::until(Instant::now() + Duration::from_secs(3600));
        assert_eq!(pages(&trace.within(&later)), 1);
    }
}
