//! What address spaces share: the kernel half, and nothing else.

use std::collections::hash_map::Entry as Owner;
use std::collections::{HashMap, HashSet};

use super::context::{Context, shown};
use super::evidence::Evidence;
use super::exceptions::{
    BOOT_MAP, EACH_ITS_OWN, ENTRY_FLAGS, Exception, HUGETLB, LDT_REMAP, PRIVATE_AREA,
    PRIVATE_COPIES, PV_PAIR, TRAMPOLINE,
};
use super::finding::{EntryPlace, Finding};
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use super::{mixed_entries, own_areas};
use crate::compare::{EntryDifference, EntryDifferenceKind, Mappings};
use crate::discover::{Discovery, Kind, Space};
use crate::layout::Area;
use crate::snapshot::RootId;
use crate::table::{Slot, Table};
use crate::tally::{Tallier, Tally};
use heirloom_paging::addr::{Pfn, VirtAddr, VirtRange};
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::{Half, Level, PageSize};

/// Pages of an LDT remap at most: two slots of 64 KiB (Linux's `LDT_SLOT_STRIDE`).
const LDT_PAGES: usize = 32;

const NO_OTHER: &str = "no second kernel half to compare with";

pub(super) const KERNEL_MAPPINGS_EQUAL: Rule = Rule {
    info: RuleInfo {
        name: "kernel-mappings-equal",
        statement: "every address space translates every kernel address to the same place with the same rights",
        source: "lecture: kernel virtual address mapping should be present in both process page tables; Linux sync_global_pgds",
    },
    untried: NO_OTHER,
    clauses: &[
        Clause {
            reads: Reads::EVENT,
            judge: Judge::Found(|context, found, evidence| {
                each_difference(
                    context,
                    found,
                    evidence,
                    |_| None,
                    |mappings| mappings != Mappings::Same,
                );
            }),
        },
        Clause {
            reads: Reads::EVENT,
            judge: Judge::Found(mixed_entries::interrupts_are_served),
        },
        Clause {
            reads: Reads::EVENT,
            judge: Judge::Found(mixed_entries::most_have_the_same),
        },
    ],
};

pub(super) const KERNEL_TABLES_SHARED: Rule = Rule {
    info: RuleInfo {
        name: "kernel-tables-shared",
        statement: "address spaces whose kernel halves map the same do so by the very same tables, not by private copies",
        source: "lecture: every process inherits the kernel pgd entries from the parent",
    },
    untried: NO_OTHER,
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(|context, found, evidence| {
            let excepts = context.excepts(PRIVATE_COPIES);
            let kernels = excepts && found.copies_kernel_tables();
            let windows = excepts && found.copies_windows();
            let meant = |space: &Space| {
                let is_meant = match space.kind {
                    Kind::UserRoot => windows,
                    _ => kernels,
                };
                is_meant.then_some(PRIVATE_COPIES)
            };
            each_difference(context, found, evidence, meant, |mappings| {
                mappings == Mappings::Same
            });
        }),
    }],
};

/// Counts the entries of all kernel halves and reports the differences that are `wrong`, unless they are
/// meant.
fn each_difference(
    context: &Context<'_>,
    found: &Discovery,
    evidence: &mut Evidence,
    meant: impl Fn(&Space) -> Option<Exception>,
    wrong: impl Fn(Mappings) -> bool,
) {
    let own = if context.excepts(EACH_ITS_OWN) {
        own_areas::indices(found)
    } else {
        HashSet::new()
    };
    for space in context.judged {
        let reference = space.compared_with(found.reference, found.user_reference);
        let Some(reference) = reference.filter(|reference| *reference != space.root) else {
            continue;
        };
        let table = context.snapshot().root_table(reference);
        let [kernel, _] = found.parts(reference);
        if table.is_none_or(|table| table.present().intersection(&kernel).is_empty()) {
            continue;
        }
        evidence.checked(Half::Kernel.indices().len() as u64);
        for difference in &space.differences {
            if !wrong(difference.mappings) {
                continue;
            }
            let depth = context.snapshot().mode().depth;
            let is_one_table = difference.kind == EntryDifferenceKind::Flags
                && difference.mappings == Mappings::Same;
            if is_one_table && context.excepts(ENTRY_FLAGS) {
                evidence.excepted(ENTRY_FLAGS, difference.range.first);
            } else if context.excepts(PRIVATE_AREA)
                && context.profile.is_private(difference.range, depth)
            {
                evidence.excepted(PRIVATE_AREA, difference.range.first);
            } else if own.contains(&difference.index) {
                evidence.excepted(EACH_ITS_OWN, difference.range.first);
            } else if context.excepts(LDT_REMAP) && is_ldt(context, space, difference) {
                evidence.excepted(LDT_REMAP, difference.range.first);
            } else if let (Kind::Kernel, Some(early)) = (space.kind, context.early_boot()) {
                evidence.excepted(early, difference.range.first);
            } else if let Some(exception) = meant(space) {
                evidence.excepted(exception, difference.range.first);
            } else {
                evidence.broken(|| finding(context, reference, space, difference));
            }
        }
    }
}

/// Whether this is the LDT of a process that has one.
fn is_ldt(context: &Context<'_>, space: &Space, difference: &EntryDifference) -> bool {
    let depth = context.snapshot().mode().depth;
    let is_its_own = difference.kind == EntryDifferenceKind::OnlyRight
        && context
            .profile
            .place_of(Area::Ldt, depth)
            .is_some_and(|area| area.contains(difference.range.first));
    is_its_own
        && context
            .snapshot()
            .leaves(space.root, difference.range)
            .take(LDT_PAGES + 1)
            .enumerate()
            .all(|(number, page)| {
                number < LDT_PAGES
                    && page.size == PageSize::Size4KiB
                    && !page.rights.write
                    && !page.rights.execute
                    && !page.rights.user
            })
}

fn finding(
    context: &Context<'_>,
    reference: RootId,
    space: &Space,
    difference: &EntryDifference,
) -> Finding {
    let top = context.snapshot().mode().depth.top();
    let va = match difference.mappings {
        Mappings::Differ { first } => first,
        // The first address that anything is mapped at shows the tables best.
        _ => context
            .snapshot()
            .leaves(space.root, difference.range)
            .next()
            .map_or(difference.range.first, |page| page.va),
    };
    let what = match (difference.mappings, difference.kind) {
        (Mappings::Same, EntryDifferenceKind::Flags) => "; other flags, maps the same",
        (Mappings::Same, EntryDifferenceKind::OnlyLeft) => {
            "; nothing is mapped there yet, and what will be is missing here"
        }
        (Mappings::Same, EntryDifferenceKind::OnlyRight) => {
            "; a table of its own, where nothing is mapped yet"
        }
        (Mappings::Same, _) => "; a private copy: maps the same by tables of its own",
        (Mappings::Undecided, _) => "; too much to compare",
        (_, EntryDifferenceKind::OnlyLeft) => "",
        (_, EntryDifferenceKind::OnlyRight) => "; no other address space has it",
        _ => "; maps something else",
    };
    let table = space.address.pfn();
    Finding {
        whose: Some(space.label),
        place: context.entry_name(top, difference.index),
        address: Some(va),
        entry: Some(EntryPlace {
            level: top,
            table,
            index: difference.index,
            entry: difference.right,
        }),
        range: Some(difference.range),
        spaces: context.only(space.root),
        expected: format!("{}, as the others have it", shown(difference.left)),
        found: format!("{}{what}", shown(difference.right)),
        walks: vec![context.walk(reference, va), context.walk(space.root, va)],
        ..Finding::default()
    }
}

pub(super) const USER_TABLES_PRIVATE: Rule = Rule {
    info: RuleInfo {
        name: "user-tables-private",
        statement: "no table of a user half belongs to two processes",
        source: "lecture: every process owns its own pgd entries",
    },
    untried: "no table of a process's user half",
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(user_tables_private),
    }],
};

/// Walks every process's user half; the two roots of a pair have the same tables. Below a table that is
/// shared nothing more is looked at.
fn user_tables_private(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    let top = context.snapshot().mode().depth.top();
    let mut owners: HashMap<Slot, RootId> = HashMap::new();
    let mut tallier = Tallier::new(context.snapshot());
    for space in context.judged {
        let has_own_half = match space.kind {
            Kind::Process | Kind::NoPages | Kind::Foreign | Kind::Separate => true,
            // What it has instead of its kernel root's is another rule's.
            Kind::UserRoot => space.partner.is_none(),
            Kind::Kernel
            | Kind::Trampoline
            | Kind::Identity
            | Kind::Idle
            | Kind::Freed
            | Kind::NotUnderstood => false,
        };
        let [_, user_part] = found.parts(space.root);
        let root = context.snapshot().root_table(space.root);
        let Some(root) = root.filter(|_| has_own_half) else {
            continue;
        };
        let mut pending = vec![(root, VirtAddr::new(0))];
        while let Some((table, base)) = pending.pop() {
            for (index, slot) in table.indexed_links() {
                // A guest's kernel, where the profile says what the kernel's own part is, is all its
                // processes'.
                let is_guests =
                    context.profile.kernel_half.is_some() && Half::of_index(index) == Half::Kernel;
                if table.level() == top && (is_guests || !user_part.contains(index)) {
                    continue;
                }
                evidence.checked(1);
                let offset = u64::from(index) << table.level().shift();
                let va = base.wrapping_add(offset);
                let below = context.snapshot().table_at(slot);
                match owners.entry(slot) {
                    Owner::Vacant(free) => {
                        free.insert(space.root);
                        pending.extend(below.map(|below| (below, va)));
                    }
                    Owner::Occupied(owner) if *owner.get() == space.root => {}
                    Owner::Occupied(_)
                        if context.excepts(HUGETLB)
                            && below.is_some_and(|below| is_shared_huge(below)) =>
                    {
                        evidence.excepted(HUGETLB, va);
                    }
                    Owner::Occupied(owner)
                        if context.excepts(PV_PAIR)
                            && is_pv_pair(context, *owner.get(), space.root) =>
                    {
                        evidence.excepted(PV_PAIR, va);
                    }
                    Owner::Occupied(owner)
                        if context.snapshot().is_at(*owner.get(), va, slot)
                            && is_kernels(tallier.below(slot), table.entry(index)) => {}
                    Owner::Occupied(owner) => {
                        evidence
                            .broken(|| shared(context, space, *owner.get(), (table, index), va));
                    }
                }
            }
        }
    }
}

/// Whether a table that two processes have at one address, by such an entry, is the kernel's: ring 3 has no page below
/// it, and ring 0 has, or is the only one that may have.
fn is_kernels(below: Tally, entry: Entry) -> bool {
    below.user == 0 && (below.supervisor > 0 || !entry.user())
}

/// Whether two roots have the same lower half, and one of them less of a guest's kernel than the other: a process
/// of a paravirtualized guest.
fn is_pv_pair(context: &Context<'_>, one: RootId, other: RootId) -> bool {
    let snapshot = context.snapshot();
    let (Some(one), Some(other)) = (snapshot.root_table(one), snapshot.root_table(other)) else {
        return false;
    };
    let part = context.profile.kernel_entries(snapshot.mode().depth);
    let Some(part) = part else { return false };
    let same = Half::User.indices().all(|index| {
        let (one, other) = (one.entry(index), other.entry(index));
        one.present() == other.present() && (!one.present() || one.address() == other.address())
    });
    let guests = |table: &Table| {
        let guests = Half::Kernel
            .indices()
            .filter(|index| !part.contains(*index));
        guests.filter(|index| table.entry(*index).present()).count()
    };
    same && guests(one) != guests(other)
}

/// A table that two processes have.
fn shared(
    context: &Context<'_>,
    space: &Space,
    owner: RootId,
    (table, index): (&Table, u16),
    va: VirtAddr,
) -> Finding {
    let (level, entry) = (table.level(), table.entry(index));
    let range = VirtRange::new(va, level.entry_span());
    let mut leaves = range.map(|range| context.snapshot().leaves(space.root, range));
    let first = leaves.as_mut().and_then(Iterator::next);
    let shown = first.map_or(va, |page| page.va);
    Finding {
        whose: Some(space.label),
        place: context.entry_name(level, index),
        address: Some(va),
        entry: Some(EntryPlace {
            level,
            table: table.pfn(),
            index,
            entry,
        }),
        range,
        spaces: context.only(space.root),
        expected: "a table that is this process's alone".into(),
        found: format!(
            "table {} of the address space {}",
            entry.address_in(context.snapshot().mode()).pfn(),
            context.snapshot().root(owner).address
        ),
        walks: vec![context.walk(owner, shown), context.walk(space.root, shown)],
        ..Finding::default()
    }
}

/// A PD with 2 MiB pages and nothing else.
fn is_shared_huge(table: &Table) -> bool {
    table.level() == Level::Pd
        && !table.present().is_empty()
        && table
            .entries()
            .all(|(index, _)| matches!(table.decode(index), Decoded::Leaf(_)))
}

pub(super) const HALVES_SEPARATE: Rule = Rule {
    info: RuleInfo {
        name: "halves-separate",
        statement: "no table of the kernel half is reached from a user half",
        source: "lecture: efficient memory isolation between user and kernel",
    },
    untried: "no table of a user half",
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(halves_separate),
    }],
};

fn halves_separate(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    let placements = context.index.placements();
    let top = context.snapshot().mode().depth.top();
    let kernel: HashSet<(Pfn, Level)> = placements
        .iter()
        .filter(|placement| placement.half == Half::Kernel && placement.table.level() != top)
        .map(|placement| (placement.table.pfn(), placement.table.level()))
        .collect();
    let mut seen = HashSet::new();
    for placement in &placements {
        let level = placement.table.level();
        // Below a table that is the kernel's all are: the entry that leads there is what is told.
        if placement.half != Half::User || kernel.contains(&(placement.table.pfn(), level)) {
            continue;
        }
        for placed in placement.entries() {
            let (Decoded::Table(target), Some(next)) = (placed.decoded, level.next()) else {
                continue;
            };
            if !seen.insert((placement.table.pfn(), level, placed.index)) {
                continue;
            }
            evidence.checked(1);
            if !kernel.contains(&(target, next)) {
                continue;
            }
            let space = found.space(placement.root);
            if space.kind == Kind::Trampoline && context.excepts(TRAMPOLINE) {
                evidence.excepted(TRAMPOLINE, placed.va);
                continue;
            }
            // What a kernel booted on may stay in its lower half: ring 3 has nothing there.
            if space.user_pages == 0 && context.excepts(BOOT_MAP) {
                evidence.excepted(BOOT_MAP, placed.va);
                continue;
            }
            evidence.broken(|| {
                context.entry_finding(
                    placement,
                    placed.index,
                    "a table of the user half",
                    format!("table {target}, which the kernel half uses as a {next}"),
                )
            });
        }
    }
}
