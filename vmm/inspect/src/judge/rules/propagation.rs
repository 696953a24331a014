//! A kernel mapping made during one process's system call is there in all, and gone in all when it
//! is freed. Both witnesses count: what the tables say, and what the CPU read.

use super::shown_end;
use crate::judge::event::{self, Claim};
use crate::judge::finding::{Evidence, Finding};
use crate::judge::kernel_memory::Allocation;
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::judge::truth::Sharing;
use crate::judge::world;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::{PAGE_SIZE, Pfn, VirtAddr, VirtRange};
use heirloom_paging::walk::{Translation, Walk};

/// Mapped for one is mapped for all.
pub(super) struct Propagated;

impl Rule for Propagated {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "propagated",
            statement: "every process translates every page of kernel memory to the same frame with the same rights, and reads there what was written",
            source: "lecture: if the kernel allocates memory while serving a syscall from process-1, process-2 in kernel mode should see it",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for allocation in moment.world.allocations() {
            for part in parts_by_top_entry(moment, allocation.range) {
                for group in groups_that_show(moment, part.first) {
                    if !evidence.may_walk(pages_in(part)) {
                        return;
                    }
                    tables_agree(moment, allocation, part, &group, evidence);
                }
            }
        }
        cpu_agrees(moment, evidence);
    }
}

/// Looks at the pages of `part` of an allocation in a group of address spaces, which translate
/// them alike.
fn tables_agree(
    moment: &Moment<'_>,
    allocation: &Allocation,
    part: VirtRange,
    group: &[RootId],
    evidence: &mut Evidence,
) {
    evidence.checked(pages_in(part) * group.len() as u64);
    let mut wrong = pages_of(part).filter(|page| {
        let walk = moment.snapshot.translate(group[0], *page);
        let frame = allocation.frame_at(*page);
        !walk
            .translation()
            .is_some_and(|found| is_as_mapped(found, frame, allocation.writable))
    });
    let Some(first) = wrong.next() else {
        return;
    };
    let pages = 1 + wrong.count() as u64;
    for root in group {
        evidence.broken_at(pages, || Finding {
            whose: Some(moment.label(*root)),
            place: place_of(allocation),
            address: Some(first),
            expected: expected(allocation.frame_at(first), allocation),
            found: shown_end(&moment.snapshot.translate(*root, first)),
            walks: moment.walks(event::label(allocation.maker), *root, first),
        });
    }
}

fn is_as_mapped(found: &Translation, frame: Option<Pfn>, writable: bool) -> bool {
    Some(found.pa.pfn()) == frame
        && found.rights.write == writable
        && !found.rights.execute
        && !found.rights.user
}

fn place_of(allocation: &Allocation) -> String {
    format!("kernel memory of event {}", allocation.made)
}

fn expected(frame: Option<Pfn>, allocation: &Allocation) -> String {
    let rights = if allocation.writable {
        "writable"
    } else {
        "read-only"
    };
    let maker = event::label(allocation.maker);
    match frame {
        Some(frame) => format!("frame {frame}, {rights}, no execute, as {maker} mapped it"),
        None => format!("a page, {rights}: {maker} mapped it, says the guest"),
    }
}

/// What the CPU read or wrote in the process's address space.
fn cpu_agrees(moment: &Moment<'_>, evidence: &mut Evidence) {
    let Claim::KernelAccess {
        address,
        value,
        write,
        fault,
    } = moment.told.claim
    else {
        return;
    };
    let word = world::word_at(address);
    let Some(allocation) = moment.world.allocation_holding(word) else {
        return;
    };
    let what = if write { "write" } else { "read" };
    let finding = |expected: String, found: String| Finding {
        whose: Some(moment.told.label()),
        place: format!("{what} of {}", place_of(allocation)),
        address: Some(word.first),
        expected,
        found,
        walks: walks_of_maker_and_teller(moment, allocation, word.first),
    };
    let allowed = !write || allocation.writable;
    if let Some(code) = fault {
        evidence.check(!allowed, || {
            finding(
                format!("the CPU to {what} it"),
                format!("the CPU faulted with error code {code:#x}"),
            )
        });
        return;
    }
    evidence.check(allowed, || {
        finding(
            "a fault: the memory is read-only".into(),
            "the CPU wrote to it".into(),
        )
    });
    let written = allocation.value_at(word.first);
    evidence.check(value == written, || {
        finding(
            format!("{written:#x}, which was written"),
            format!("the CPU read {value:#x}"),
        )
    });
    evidence.check(moment.memory_value == Some(written), || {
        let found = match moment.memory_value {
            Some(value) => format!("{value:#x} in memory where the process's tables lead"),
            None => "no memory where the process's tables lead".into(),
        };
        finding(format!("{written:#x}, which was written"), found)
    });
}

fn walks_of_maker_and_teller(
    moment: &Moment<'_>,
    allocation: &Allocation,
    at: VirtAddr,
) -> Vec<(RootLabel, Walk)> {
    let teller = moment
        .snapshot
        .root_of(moment.world.kernel_view(moment.told));
    teller.map_or_else(Vec::new, |root| {
        moment.walks(event::label(allocation.maker), root.id, at)
    })
}

/// Freed for one is gone for all.
pub(super) struct Revoked;

impl Rule for Revoked {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "revoked",
            statement: "no process translates any page of freed kernel memory, and the CPU faults there",
            source: "lecture: memory is dynamically created and destroyed; Linux vunmap",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let (mut pages, mut ends) = (0_u64, None);
        for range in moment.world.revoked() {
            pages += pages_in(range);
            let (first, _) = ends.unwrap_or((range.first, range.last));
            ends = Some((first, range.last));
        }
        let Some((first, last)) = ends else {
            return;
        };
        evidence.checked(pages.saturating_mul(moment.snapshot.roots().len() as u64));
        let all = VirtRange { first, last };
        // Nothing is mapped but what the survey found.
        for page in &moment.survey.kernel_pages {
            if !all.overlaps(&page.range()) {
                continue;
            }
            let Some(freed) = moment.world.revoked_in(page.range()) else {
                continue;
            };
            let at = page.va.max(freed.first);
            for group in groups(moment, at) {
                if !evidence.may_walk(1) {
                    return;
                }
                if moment
                    .snapshot
                    .translate(group[0], at)
                    .translation()
                    .is_some()
                {
                    for root in group {
                        evidence.broken(|| still_mapped(moment, root, at, freed));
                    }
                }
            }
        }
        cpu_faults(moment, evidence);
    }
}

fn still_mapped(moment: &Moment<'_>, root: RootId, at: VirtAddr, freed: VirtRange) -> Finding {
    Finding {
        whose: Some(moment.label(root)),
        place: format!("freed kernel memory at {}", freed.first),
        address: Some(at),
        expected: "nothing: the memory was freed".into(),
        found: shown_end(&moment.snapshot.translate(root, at)),
        walks: moment.walks(RootLabel::Kernel, root, at),
    }
}

/// An access that touches freed memory faults.
fn cpu_faults(moment: &Moment<'_>, evidence: &mut Evidence) {
    let Claim::KernelAccess {
        address,
        value,
        write,
        fault,
    } = moment.told.claim
    else {
        return;
    };
    let word = world::word_at(address);
    if moment.world.revoked_in(word).is_none() {
        return;
    }
    evidence.check(fault.is_some(), || {
        let what = if write { "wrote" } else { "read" };
        let teller = moment
            .snapshot
            .root_of(moment.world.kernel_view(moment.told));
        Finding {
            whose: Some(moment.told.label()),
            place: format!("access to freed kernel memory at {}", word.first),
            address: Some(word.first),
            expected: "a page fault: the memory was freed".into(),
            found: format!("the CPU {what} {value:#x}"),
            walks: teller.map_or_else(Vec::new, |root| {
                moment.walks(RootLabel::Kernel, root.id, word.first)
            }),
        }
    });
}

/// The address spaces, grouped by the top-level entry that translates `at`: all of a group
/// translate it alike.
fn groups(moment: &Moment<'_>, at: VirtAddr) -> Vec<Vec<RootId>> {
    let top = moment.snapshot.mode().depth.top();
    moment.survey.groups_at(moment.snapshot, at.index(top))
}

/// The groups of address spaces that must show kernel memory at `at` now: all of them, but those that
/// the strategy allows not to have the top-level entry.
fn groups_that_show(moment: &Moment<'_>, at: VirtAddr) -> Vec<Vec<RootId>> {
    let kernel = moment
        .snapshot
        .root_of(RootLabel::Kernel)
        .map(|root| root.id);
    let index = at.index(moment.snapshot.mode().depth.top());
    let sharing = moment.world.expectation().sharing();
    let mut groups = groups(moment, at);
    groups.retain(|group| match sharing {
        Sharing::Entries | Sharing::Copies => true,
        // The kernel's own root must; a process whose entry has not come yet need not.
        Sharing::EntriesOnFault => {
            let table = moment.snapshot.root_table(group[0]);
            group.iter().any(|root| Some(*root) == kernel)
                || table.is_some_and(|table| table.entry(index).present())
        }
        Sharing::EntryAreaOnly => group.iter().any(|root| Some(*root) == kernel),
    });
    if sharing == Sharing::EntryAreaOnly {
        for group in &mut groups {
            group.retain(|root| Some(*root) == kernel);
        }
    }
    groups
}

/// `range` cut where the top-level entry changes.
fn parts_by_top_entry(
    moment: &Moment<'_>,
    range: VirtRange,
) -> impl Iterator<Item = VirtRange> + use<> {
    let span = moment.snapshot.mode().depth.top().entry_span();
    let mut next = Some(range.first);
    std::iter::from_fn(move || {
        let first = next?;
        let end_of_entry = VirtAddr::new(first.get() | (span - 1));
        let last = end_of_entry.min(range.last);
        next = (last < range.last).then(|| last.wrapping_add(1));
        Some(VirtRange { first, last })
    })
}

fn pages_in(range: VirtRange) -> u64 {
    range.bytes() / PAGE_SIZE
}

fn pages_of(range: VirtRange) -> impl Iterator<Item = VirtAddr> {
    (0..pages_in(range)).map(move |page| range.first.wrapping_add(page * PAGE_SIZE))
}
