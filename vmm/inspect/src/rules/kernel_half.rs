//! The kernel half is one: same top-level entries, same tables.

use std::collections::BTreeMap;

use super::context::{Context, shown};
use super::entry_area::{area_within, shows_area_alone};
use super::evidence::Evidence;
use super::finding::Finding;
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use crate::compare::{Comparer, EntryDifference, EntryDifferenceKind, Mappings};
use crate::history::{History, Sharing};
use crate::index::{GroupId, Subtree};
use crate::layout::Area;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::{PhysAddr, VirtRange};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Half;

/// Every process has the kernel's own top-level entries.
pub(super) const KERNEL_HALF_SHARED: Rule = Rule {
    info: RuleInfo {
        name: "kernel-half-shared",
        statement: "every process has the kernel PGD entries that its strategy promises: the kernel's own, copies that map the same (copy-all), or the CPU entry area alone (isolated)",
        source: "lecture: every process owns its own pgd entries but inherits the kernel pgd entries from the parent",
    },
    untried: "no process beside the kernel",
    clauses: &[Clause {
        reads: Reads::KERNEL.and(Reads::SPACES),
        judge: Judge::History(kernel_half_shared),
    }],
};

/// How a group of address spaces differs from the promise.
enum Differences {
    /// Entries: index, expected, found.
    Entries(Vec<(u16, Entry, Entry)>),
    Copies(Vec<EntryDifference>),
}

fn kernel_half_shared(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    let (snapshot, index) = (context.snapshot(), context.index);
    let Some(kernel) = context.root_of(RootLabel::Kernel) else {
        return;
    };
    let Some(reference) = index.group_of(kernel.id) else {
        return;
    };
    if !index.group(reference).has_root() {
        return;
    }
    let others = (index.space_count() as u64).saturating_sub(1);
    evidence.checked(others * Half::Kernel.indices().len() as u64);
    let mut comparer = Comparer::within(snapshot);
    let mut wrong: BTreeMap<GroupId, Differences> = BTreeMap::new();
    for (id, group) in index.groups() {
        if !group.has_root() {
            continue;
        }
        let differences = match history.sharing() {
            // Its first member may be the kernel itself, which does not differ from itself.
            Sharing::Copies => {
                let copy = index.members(&[id]).find(|root| *root != kernel.id);
                Differences::Copies(copy.map_or_else(Vec::new, |copy| {
                    differing_copies(&mut comparer, kernel.id, copy)
                }))
            }
            Sharing::Entries if id == reference => continue,
            _ => Differences::Entries(differing_entries(context, history, (reference, id))),
        };
        let is_empty = match &differences {
            Differences::Entries(entries) => entries.is_empty(),
            Differences::Copies(copies) => copies.is_empty(),
        };
        if !is_empty {
            wrong.insert(id, differences);
        }
    }
    if wrong.is_empty() {
        return;
    }
    let groups: Vec<GroupId> = wrong.keys().copied().collect();
    for root in index.members(&groups).filter(|root| *root != kernel.id) {
        let differences = index.group_of(root).and_then(|group| wrong.get(&group));
        match differences {
            Some(Differences::Entries(entries)) => {
                for (number, expected, found) in entries {
                    evidence
                        .broken(|| differs(context, history, root, (*number, *expected, *found)));
                }
            }
            Some(Differences::Copies(copies)) => {
                for difference in copies {
                    evidence.broken(|| copy_differs(context, history, root, difference));
                }
            }
            None => {}
        }
    }
}

/// The entries in which a group differs from what the kernel's own promises of it.
fn differing_entries(
    context: &Context<'_>,
    history: &History,
    (reference, group): (GroupId, GroupId),
) -> Vec<(u16, Entry, Entry)> {
    let sharing = history.sharing();
    let (kernels, own) = (context.index.group(reference), context.index.group(group));
    let mut differing = Vec::new();
    for index in Half::Kernel.indices() {
        let (mut expected, found) = (kernels.entry(index), own.entry(index));
        if sharing == Sharing::EntryAreaOnly && !is_of(context, Area::CpuEntryArea, index) {
            expected = Entry::ABSENT;
        }
        if sharing == Sharing::EntryAreaOnly && shows_area_alone(context, index, expected, found) {
            continue;
        }
        let may_come_later = sharing == Sharing::EntriesOnFault
            && is_of(context, Area::Vmalloc, index)
            && !found.present();
        if expected != found && (expected.present() || found.present()) && !may_come_later {
            differing.push((index, expected, found));
        }
    }
    differing
}

/// The copies that do not map what the kernel's own entries map.
fn differing_copies(
    comparer: &mut Comparer<'_>,
    kernel: RootId,
    copy: RootId,
) -> Vec<EntryDifference> {
    let mut differences = comparer.compare(kernel, copy, Half::Kernel);
    differences.retain(|difference| {
        difference.kind != EntryDifferenceKind::Frame || difference.mappings != Mappings::Same
    });
    differences
}

fn differs(
    context: &Context<'_>,
    history: &History,
    root: RootId,
    (index, expected, found): (u16, Entry, Entry),
) -> Finding {
    let address = context.address_below(index);
    let promise = match history.sharing() {
        Sharing::EntryAreaOnly => "as an isolated kernel promises",
        Sharing::Copies => "a copy that maps what the kernel's own maps",
        Sharing::Entries | Sharing::EntriesOnFault => "as the kernel's own PGD has it",
    };
    Finding {
        whose: Some(context.label(root)),
        place: format!("{}[{index}]", context.snapshot().mode().depth.root_name()),
        address: Some(address),
        expected: format!("{}, {promise}", shown(expected)),
        found: shown(found),
        walks: context.walks(RootLabel::Kernel, root, address),
        what: "entry",
        ..Finding::default()
    }
}

fn copy_differs(
    context: &Context<'_>,
    history: &History,
    root: RootId,
    difference: &EntryDifference,
) -> Finding {
    let entries = (difference.index, difference.left, difference.right);
    let mut finding = differs(context, history, root, entries);
    if let Mappings::Differ { first } = difference.mappings {
        finding.address = Some(first);
        finding.walks = context.walks(RootLabel::Kernel, root, first);
    }
    finding
}

/// Whether a top-level entry translates a part of an area.
fn is_of(context: &Context<'_>, area: Area, index: u16) -> bool {
    let entry = VirtRange::of_top_entry(index, context.snapshot().mode().depth);
    context.area(area).is_some_and(|area| area.overlaps(&entry))
}

/// Wherever two address spaces have a kernel table, it is the same frame.
pub(super) const KERNEL_TABLES_SAME_FRAMES: Rule = Rule {
    info: RuleInfo {
        name: "kernel-tables-same-frames",
        statement: "all processes walk through the same kernel tables, frame by frame; with copy-all each has its own",
        source: "lecture: all updates to E1 are visible across all the processes",
    },
    untried: "no kernel half",
    clauses: &[Clause {
        reads: Reads::KERNEL.and(Reads::SPACES),
        judge: Judge::History(kernel_tables_same_frames),
    }],
};

fn kernel_tables_same_frames(context: &Context<'_>, history: &History, evidence: &mut Evidence) {
    // Below one and the same entry everything is the same frame; so the entries decide. The subtrees come
    // by index, and the kernel's own root is the first.
    let index = context.index;
    let mut model: Option<(u16, PhysAddr, GroupId)> = None;
    for subtree in index.kernel_half() {
        for group in &subtree.groups {
            evidence.checked_each(*group, 1);
        }
        let frame = subtree.entry.address();
        if history.sharing() == Sharing::Copies {
            if index.member_count(&subtree.groups) > 1 {
                for root in index.members(&subtree.groups).skip(1) {
                    evidence.broken(|| shared(context, subtree, root));
                }
            }
            continue;
        }
        // There the entries below decide: `kernel-half-shared`.
        if history.sharing() == Sharing::EntryAreaOnly
            && area_within(context, subtree.index).is_some()
        {
            continue;
        }
        let (expected, owner) = match model {
            Some((number, expected, owner)) if number == subtree.index => (expected, owner),
            _ => {
                model = Some((subtree.index, frame, subtree.groups[0]));
                continue;
            }
        };
        if frame == expected {
            continue;
        }
        for root in index.members(&subtree.groups) {
            evidence.broken(|| {
                let address = context.address_below(subtree.index);
                let model = context.label(index.first_of(owner));
                Finding {
                    expected: format!("the table in frame {}, as in {model}", expected.pfn()),
                    found: format!("a table of its own in frame {}", frame.pfn()),
                    walks: context.walks(model, root, address),
                    ..finding(context, subtree, root)
                }
            });
        }
    }
}

/// Where everyone is to have tables of its own, `root` has the first one's.
fn shared(context: &Context<'_>, subtree: &Subtree, root: RootId) -> Finding {
    let owner = context.label(context.index.first_of(subtree.groups[0]));
    Finding {
        expected: "a table of its own".into(),
        found: format!(
            "the table of {owner}, in frame {}",
            subtree.entry.address().pfn()
        ),
        walks: context.walks(owner, root, context.address_below(subtree.index)),
        ..finding(context, subtree, root)
    }
}

fn finding(context: &Context<'_>, subtree: &Subtree, root: RootId) -> Finding {
    Finding {
        whose: Some(context.label(root)),
        place: format!(
            "{}[{}]",
            context.snapshot().mode().depth.root_name(),
            subtree.index
        ),
        address: Some(context.address_below(subtree.index)),
        what: "table",
        ..Finding::default()
    }
}
