//! Which entries of a root are the kernel's.
//!
//! Most kernels have the upper half, entries 256 to 511. Some have their code, their heap, all of memory in
//! the lower half, for ring 0 alone, and share that among all address spaces as others share the upper
//! one. Entries that lead back to a root (recursive paging) are neither part's: what they show are the
//! tables, which are looked at as tables.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::snapshot::{RootId, Snapshot};
use crate::table::Table;
use crate::tally::{Tallier, Tally};
use heirloom_paging::addr::{Pfn, PhysAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Decoded;
use heirloom_paging::level::{Depth, Half};

use super::budget::Budget;

/// Entries of one root that are passed at most to see whether a half has code.
const MAX_STEPS: u32 = 1 << 22;
/// Fewer pages for ring 3 than so many of a kernel's are a mistake where there is no program.
const FEW_OF: u64 = 8;

/// Entries 256 to 511.
pub(crate) fn upper_half() -> EntrySet {
    let mut set = EntrySet::default();
    Half::Kernel.indices().for_each(|index| set.insert(index));
    set
}

/// The entries of a root that are not in `set`.
pub(crate) fn all_but(set: &EntrySet) -> EntrySet {
    let mut rest = EntrySet::default();
    (0..512)
        .filter(|index| !set.contains(*index))
        .for_each(|index| rest.insert(index));
    rest
}

/// The entries of `set` that are not in `other`.
pub(crate) fn less(set: &EntrySet, other: &EntrySet) -> EntrySet {
    set.intersection(&all_but(other))
}

/// What the entries of a root in `set` translate, neighbours as one.
pub(crate) fn ranges(set: &EntrySet, depth: Depth) -> Vec<VirtRange> {
    let mut ranges: Vec<VirtRange> = Vec::new();
    for range in set
        .iter()
        .map(|index| VirtRange::of_top_entry(index, depth))
    {
        match ranges.last_mut() {
            Some(last) if last.last.checked_add(1) == Some(range.first) => last.last = range.last,
            _ => ranges.push(range),
        }
    }
    ranges
}

/// An entry of a root that points to a root: recursive paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SelfMap {
    /// Which entry.
    pub index: u16,
    /// The root that it points to: mostly its own.
    pub to: PhysAddr,
    /// Whether the entry lets ring 3 through.
    pub user: bool,
}

/// The root that an entry of `table`, which is one, points to.
fn root_at(table: &Table, index: u16, roots: &HashSet<Pfn>) -> Option<Pfn> {
    match table.decode(index) {
        Decoded::Table(to) if roots.contains(&to) => Some(to),
        _ => None,
    }
}

/// The self-maps of each root, where the kernel uses recursive paging: most of the roots in `kernels` lead
/// back to themselves by one and the same entry. Where hardly any does, such an entry is a loop that
/// somebody made, and none is returned.
pub(super) fn self_maps(snapshot: &Snapshot, kernels: &[RootId]) -> HashMap<RootId, Vec<SelfMap>> {
    let mut own: HashMap<u16, usize> = HashMap::new();
    let mut tables = 0;
    for table in kernels.iter().filter_map(|root| snapshot.root_table(*root)) {
        tables += 1;
        for index in table.pointers().iter() {
            if table.decode(index) == Decoded::Table(table.pfn()) {
                *own.entry(index).or_default() += 1;
            }
        }
    }
    if own.values().all(|roots| 3 * roots < 2 * tables) {
        return HashMap::new();
    }
    let roots: HashSet<Pfn> = snapshot
        .roots()
        .iter()
        .map(|root| root.address.pfn())
        .collect();
    let maps_of = |root: RootId| -> Option<Vec<SelfMap>> {
        let table = snapshot.root_table(root)?;
        let found = table.pointers().iter().filter_map(|index| {
            Some(SelfMap {
                index,
                to: root_at(table, index, &roots)?.base(),
                user: table.entry(index).user(),
            })
        });
        Some(found.collect())
    };
    snapshot
        .roots()
        .iter()
        .filter_map(|root| Some((root.id, maps_of(root.id)?)))
        .collect()
}

/// The entries of a root that point to the root itself.
pub(super) fn self_entries(table: &Table) -> EntrySet {
    let mut own = EntrySet::default();
    table
        .pointers()
        .iter()
        .filter(|index| table.decode(*index) == Decoded::Table(table.pfn()))
        .for_each(|index| own.insert(index));
    own
}

/// The entries of a root with recursive paging that point to a root: itself, or, as fork code has it for a moment,
/// another that leads back to itself by the same entry.
fn entries_to_roots(snapshot: &Snapshot, table: &Table) -> EntrySet {
    let own = self_entries(table);
    let mut found = own;
    for index in table
        .pointers()
        .iter()
        .filter(|index| !own.contains(*index))
    {
        let leads_back = |below: &Table| {
            let entries = own.iter().map(|own| below.entry(own));
            let mut present = entries.filter(|entry| entry.present());
            present.any(|entry| entry.address_in(snapshot.mode()).pfn() == below.pfn())
        };
        if snapshot
            .child(table, index)
            .is_some_and(|below| leads_back(below))
        {
            found.insert(index);
        }
    }
    found
}

/// The kernel's entries of one root, nothing being known of others: the upper half, if there is kernel
/// code; else the entries of the lower half, too, that ring 3 has no page below, or where no program is, hardly any.
/// What points to another root is not the kernel's.
pub(super) fn of_root(snapshot: &Snapshot, root: RootId, budget: &mut Budget) -> EntrySet {
    let mut part = upper_half();
    let Some(table) = snapshot.root_table(root) else {
        return part;
    };
    let own = self_entries(table);
    let to_roots = entries_to_roots(snapshot, table);
    part = less(&part, &less(&to_roots, &own));
    if has_code(snapshot, root, &less(&part, &to_roots), budget) {
        return part;
    }
    let mut tallier = Tallier::new(snapshot);
    for index in table.pointers().iter().filter(|index| *index < 256) {
        if !to_roots.contains(index) && is_kernels_alone(&mut tallier, snapshot, root, index) {
            part.insert(index);
        }
    }
    part
}

/// Whether pages are mapped below an entry of a root, and none for ring 3.
fn is_supervisors(tallier: &mut Tallier<'_>, root: RootId, index: u16) -> bool {
    let mut only = EntrySet::default();
    only.insert(index);
    let pages = tallier.count_entries(root, &only);
    pages.user == 0 && pages.supervisor > 0
}

/// Whether an entry of a root beside which there may be no other is the kernel's: pages for ring 3 below it, which are
/// few, are a mistake where there is no program that could use them.
fn is_kernels_alone(
    tallier: &mut Tallier<'_>,
    snapshot: &Snapshot,
    root: RootId,
    index: u16,
) -> bool {
    let mut only = EntrySet::default();
    only.insert(index);
    let pages = tallier.count_entries(root, &only);
    pages.supervisor > 0 && (pages.user == 0 || is_few(pages) && !has_program(snapshot, root))
}

/// Whether hardly any of some pages are for ring 3.
pub(super) fn is_few(pages: Tally) -> bool {
    pages.user < pages.supervisor / FEW_OF
}

/// Whether there is code for ring 3 in the lower half of a root.
pub(super) fn has_program(snapshot: &Snapshot, root: RootId) -> bool {
    let mut leaves = snapshot
        .leaves(root, VirtRange::half(Half::User))
        .limited(MAX_STEPS);
    let found = leaves
        .by_ref()
        .any(|page| page.rights.execute && page.rights.user);
    // What is too much to look through may have some.
    found || leaves.stopped_at().is_some()
}

/// Whether there is code of ring 0 below the entries in `part`. From the top down: there most kernels are.
fn has_code(snapshot: &Snapshot, root: RootId, part: &EntrySet, budget: &mut Budget) -> bool {
    let depth = snapshot.mode().depth;
    let allowed = MAX_STEPS.min(budget.steps);
    let mut steps = allowed;
    let mut indices: Vec<u16> = part.iter().collect();
    indices.reverse();
    let has_code = indices.into_iter().any(|index| {
        let range = VirtRange::of_top_entry(index, depth);
        let mut leaves = snapshot.leaves(root, range).limited(steps);
        let found = leaves
            .by_ref()
            .any(|page| page.rights.execute && !page.rights.user);
        steps = leaves.steps_left();
        // What is too much to look through is not called empty.
        found || leaves.stopped_at().is_some()
    });
    budget.steps -= allowed - steps;
    has_code
}

/// Whether `root` shows ring 3 code below an entry, and has no page there but ring 3's.
fn is_programs(tallier: &mut Tallier<'_>, snapshot: &Snapshot, root: RootId, index: u16) -> bool {
    let mut only = EntrySet::default();
    only.insert(index);
    let pages = tallier.count_entries(root, &only);
    let range = VirtRange::of_top_entry(index, snapshot.mode().depth);
    let mut leaves = snapshot.leaves(root, range).limited(MAX_STEPS);
    pages.supervisor == 0 && leaves.any(|page| page.rights.execute && page.rights.user)
}

/// The entries of the upper half that are the processes': some kernels let programs reach into it, far beyond the
/// middle (illumos). A root without a page for ring 3 has none there, and each that has one has its own table, with
/// code of ring 3 and no page of ring 0. A single such process may as well be a mistake.
fn programs_upper(
    tallier: &mut Tallier<'_>,
    snapshot: &Snapshot,
    kernels: &[RootId],
    has_user_pages: &[bool],
) -> EntrySet {
    let mut found = EntrySet::default();
    let (mut programs, mut left) = (Vec::new(), upper_half());
    let mut has_kernels_own = false;
    for (root, has_user_pages) in kernels.iter().zip(has_user_pages) {
        let Some(table) = snapshot.root_table(*root) else {
            continue;
        };
        if *has_user_pages {
            programs.push((*root, table));
        } else {
            left = less(&left, &table.present());
            has_kernels_own = true;
        }
    }
    for index in left.iter().filter(|_| has_kernels_own) {
        let mut tables = HashSet::new();
        let are_programs = programs.iter().all(|(root, table)| {
            if !table.entry(index).present() {
                return true;
            }
            let own = match table.decode(index) {
                Decoded::Table(below) => below != table.pfn() && tables.insert(below),
                _ => false,
            };
            own && is_programs(tallier, snapshot, *root, index)
        });
        if are_programs && tables.len() >= 2 {
            found.insert(index);
        }
    }
    found
}

/// The kernel's entries, as all roots that have its code tell: those of the first root, less what others
/// have pages of ring 3 below, and those of the lower half that are shared by design.
pub(super) fn of_all(snapshot: &Snapshot, first: &EntrySet, kernels: &[RootId]) -> EntrySet {
    let mut tallier = Tallier::new(snapshot);
    let is_lower = first.iter().any(|index| index < 256);
    let mut part = upper_half();
    let has_user_pages: Vec<bool> = kernels
        .iter()
        .map(|root| tallier.count(*root, Half::User).user > 0)
        .collect();
    let programs = programs_upper(&mut tallier, snapshot, kernels, &has_user_pages);
    part = less(&part, &programs);
    for index in 0..256 {
        // How many roots have which table there, and whether one without user pages has it.
        let mut tables: HashMap<Pfn, (usize, bool)> = HashMap::new();
        let mut users = 0;
        for (root, has_user_pages) in kernels.iter().zip(&has_user_pages) {
            let Some(table) = snapshot.root_table(*root) else {
                continue;
            };
            let Decoded::Table(below) = table.decode(index) else {
                continue;
            };
            if below == table.pfn() {
                continue;
            }
            let is_kernels = match kernels {
                [alone] => is_kernels_alone(&mut tallier, snapshot, *alone, index),
                _ => is_supervisors(&mut tallier, *root, index),
            };
            if is_kernels {
                let (roots, is_kernels) = tables.entry(below).or_default();
                *roots += 1;
                *is_kernels |= !has_user_pages;
            } else {
                users += 1;
            }
        }
        let shared = tables.values().map(|(roots, _)| *roots).max().unwrap_or(0);
        let is_kernels = tables.values().any(|(_, is_kernels)| *is_kernels);
        let is_common = tables.values().map(|(roots, _)| *roots).sum::<usize>() == kernels.len();
        let belongs = if is_lower {
            // Private copies that everybody has are the kernel's as well.
            kernels.len() == 1 || shared >= 2 || is_kernels || is_common
        } else {
            shared >= 2 && 2 * shared > kernels.len()
        };
        if users == 0 && !tables.is_empty() && belongs {
            part.insert(index);
        }
    }
    part
}
