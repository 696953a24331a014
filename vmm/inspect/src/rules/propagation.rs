//! A kernel mapping made during one process's system call is there in all, and gone in all when it
//! is freed. Both witnesses count: what the tables say, and what the CPU read.

use super::context::{Context, shown_end};
use super::evidence::Evidence;
use super::finding::Finding;
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use crate::history::{self, Access, Allocation, History, Sharing};
use crate::index::GroupId;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::{PAGE_SIZE, Pfn, VirtAddr, VirtRange};
use heirloom_paging::level::Half;
use heirloom_paging::walk::{Translation, Walk};

/// Mapped for one is mapped for all.
pub(super) const PROPAGATED: Rule = Rule {
    info: RuleInfo {
        name: "propagated",
        statement: "every process translates every page of kernel memory to the same frame with the same rights, and reads there what was written",
        source: "lecture: if the kernel allocates memory while serving a syscall from process-1, process-2 in kernel mode should see it",
    },
    untried: "no kernel memory was mapped",
    clauses: &[
        Clause {
            reads: Reads::KERNEL.and(Reads::MEMORY),
            judge: Judge::History(propagated),
        },
        Clause {
            reads: Reads::EVENT,
            judge: Judge::History(cpu_agrees),
        },
    ],
};

fn propagated(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    for allocation in history.allocations() {
        for part in parts_by_top_entry(context, allocation.range) {
            for shower in those_that_show(context, history, part.first) {
                if !evidence.may_walk(pages_in(part)) {
                    return;
                }
                tables_agree(context, (allocation, part), &shower, evidence);
            }
        }
    }
}

/// Address spaces that must show kernel memory, and translate it alike.
enum Shower {
    Groups(Vec<GroupId>),
    Kernel(RootId),
}

/// Looks at the pages of `part` of an allocation in address spaces that translate them alike.
fn tables_agree(
    context: &Context<'_>,
    (allocation, part): (&Allocation, VirtRange),
    shower: &Shower,
    evidence: &mut Evidence,
) {
    let first = match shower {
        Shower::Groups(groups) => {
            for group in groups {
                evidence.checked_each(*group, pages_in(part));
            }
            context.index.first_of(groups[0])
        }
        Shower::Kernel(root) => {
            evidence.checked(pages_in(part));
            *root
        }
    };
    let mut wrong = pages_of(part).filter(|page| {
        let walk = context.snapshot().translate(first, *page);
        let frame = allocation.frame_at(*page);
        !walk
            .translation()
            .is_some_and(|found| is_as_mapped(found, frame, allocation.writable))
    });
    let Some(page) = wrong.next() else {
        return;
    };
    let pages = 1 + wrong.count() as u64;
    let mut tell = |root: RootId| {
        evidence.broken_at(pages, || Finding {
            whose: Some(context.label(root)),
            place: place_of(allocation),
            address: Some(page),
            expected: expected(allocation.frame_at(page), allocation),
            found: shown_end(&context.snapshot().translate(root, page)),
            walks: context.walks(history::label(allocation.maker), root, page),
            what: "not propagated",
            ..Finding::default()
        });
    };
    match shower {
        Shower::Groups(groups) => context.index.members(groups).for_each(tell),
        Shower::Kernel(root) => tell(*root),
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
    let maker = history::label(allocation.maker);
    match frame {
        Some(frame) => format!("frame {frame}, {rights}, no execute, as {maker} mapped it"),
        None => format!("a page, {rights}: {maker} mapped it, says the guest"),
    }
}

/// What the CPU read or wrote in the process's address space.
fn cpu_agrees(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let Some(Access {
        address,
        value,
        write,
        fault,
        in_memory,
    }) = history.present().access
    else {
        return;
    };
    let word = history::word_at(address);
    let Some(allocation) = history.allocation_holding(word) else {
        return;
    };
    let what = if write { "write" } else { "read" };
    let finding = |expected: String, found: String| Finding {
        whose: Some(history.reporting()),
        place: format!("{what} of {}", place_of(allocation)),
        address: Some(word.first),
        expected,
        found,
        walks: walks_of_maker_and_reporter(context, history, allocation, word.first),
        ..Finding::default()
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
    evidence.check(in_memory == Some(written), || {
        let found = match in_memory {
            Some(value) => format!("{value:#x} in memory where the process's tables lead"),
            None => "no memory where the process's tables lead".into(),
        };
        finding(format!("{written:#x}, which was written"), found)
    });
}

fn walks_of_maker_and_reporter(
    context: &Context<'_>,
    history: &History,
    allocation: &Allocation,
    at: VirtAddr,
) -> Vec<(RootLabel, Walk)> {
    let reporter = context.root_of(history.kernel_view());
    reporter.map_or_else(Vec::new, |root| {
        context.walks(history::label(allocation.maker), root.id, at)
    })
}

/// Freed for one is gone for all.
pub(super) const REVOKED: Rule = Rule {
    info: RuleInfo {
        name: "revoked",
        statement: "no process translates any page of freed kernel memory, and the CPU faults there",
        source: "lecture: memory is dynamically created and destroyed; Linux vunmap",
    },
    untried: "no kernel memory was freed",
    clauses: &[
        Clause {
            reads: Reads::KERNEL.and(Reads::MEMORY),
            judge: Judge::History(revoked),
        },
        Clause {
            reads: Reads::EVENT,
            judge: Judge::History(cpu_faults),
        },
    ],
};

fn revoked(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let index = context.index;
    let (mut pages, mut ends) = (0_u64, None);
    for range in history.revoked() {
        pages = pages.saturating_add(pages_in(range));
        let (first, _) = ends.unwrap_or((range.first, range.last));
        ends = Some((first, range.last));
    }
    let Some((first, last)) = ends else {
        return;
    };
    for (group, _) in index.groups() {
        evidence.checked_each(group, pages);
    }
    let all = VirtRange { first, last };
    // Nothing is mapped but what the index has.
    let parts = index.parts(Half::Kernel);
    let pages = parts
        .filter(|(_, part)| part.range.overlaps(&all))
        .flat_map(|(_, part)| &part.pages)
        .filter(|page| page.range().overlaps(&all));
    for page in pages {
        let Some(freed) = history.revoked_in(page.range()) else {
            continue;
        };
        let at = page.va.max(freed.first);
        for class in classes(context, at) {
            if !evidence.may_walk(1) {
                return;
            }
            let walk = context.snapshot().translate(index.first_of(class[0]), at);
            if walk.translation().is_some() {
                for root in index.members(&class) {
                    evidence.broken(|| still_mapped(context, root, at, freed));
                }
            }
        }
    }
}

fn still_mapped(context: &Context<'_>, root: RootId, at: VirtAddr, freed: VirtRange) -> Finding {
    Finding {
        whose: Some(context.label(root)),
        place: format!("freed kernel memory at {}", freed.first),
        address: Some(at),
        expected: "nothing: the memory was freed".into(),
        found: shown_end(&context.snapshot().translate(root, at)),
        walks: context.walks(RootLabel::Kernel, root, at),
        what: "not revoked",
        ..Finding::default()
    }
}

/// An access that touches freed memory faults.
fn cpu_faults(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let Some(access) = history.present().access else {
        return;
    };
    let word = history::word_at(access.address);
    if history.revoked_in(word).is_none() {
        return;
    }
    evidence.check(access.fault.is_some(), || {
        let what = if access.write { "wrote" } else { "read" };
        let reporter = context.root_of(history.kernel_view());
        Finding {
            whose: Some(history.reporting()),
            place: format!("access to freed kernel memory at {}", word.first),
            address: Some(word.first),
            expected: "a page fault: the memory was freed".into(),
            found: format!("the CPU {what} {:#x}", access.value),
            walks: reporter.map_or_else(Vec::new, |root| {
                context.walks(RootLabel::Kernel, root.id, word.first)
            }),
            what: "no fault",
            ..Finding::default()
        }
    });
}

/// The groups of address spaces, by the top-level entry that translates `at`: all of a class translate it
/// alike.
fn classes(context: &Context<'_>, at: VirtAddr) -> Vec<Vec<GroupId>> {
    let top = context.snapshot().mode().depth.top();
    context.index.classes_at(at.index(top))
}

/// The address spaces that must show kernel memory at `at` now: all of them, but those that the strategy
/// allows not to have the top-level entry.
fn those_that_show(context: &Context<'_>, history: &History, at: VirtAddr) -> Vec<Shower> {
    let kernel = context.root_of(RootLabel::Kernel).map(|root| root.id);
    let kernels = kernel.and_then(|root| context.index.group_of(root));
    let number = at.index(context.snapshot().mode().depth.top());
    if history.sharing() == Sharing::EntryAreaOnly {
        return kernel.into_iter().map(Shower::Kernel).collect();
    }
    let must_show = |class: &Vec<GroupId>| match history.sharing() {
        // The kernel's own root must; a process whose entry has not come yet need not.
        Sharing::EntriesOnFault => {
            kernels.is_some_and(|kernels| class.contains(&kernels))
                || context.index.group(class[0]).entry(number).present()
        }
        Sharing::Entries | Sharing::Copies | Sharing::EntryAreaOnly => true,
    };
    let classes = classes(context, at).into_iter();
    classes.filter(must_show).map(Shower::Groups).collect()
}

/// `range` cut where the top-level entry changes.
fn parts_by_top_entry(
    context: &Context<'_>,
    range: VirtRange,
) -> impl Iterator<Item = VirtRange> + use<> {
    let span = context.snapshot().mode().depth.top().entry_span();
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
