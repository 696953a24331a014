//! Roots that lack the only entry of the kernel's, or all of the kernel below it. Of several entries, the others still
//! tell a root; where there is one alone, what is left is a user half. It is a process's if it is what the other
//! processes' are.

use crate::capture::Capturer;
use crate::memory::Words;
use crate::snapshot::{RootId, RootLabel, Snapshot};
use crate::target::Target;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Half;
use heirloom_paging::mode::Mode;

use super::blind::{is_sound, may_lead_to_a_table};
use super::candidates::{Candidate, Role};
use super::part::all_but;
use super::reference::Reference;
use super::scan;

/// Processes that there are at least: one alone tells nothing of what they have in common.
const MIN_PROCESSES: usize = 2;
/// Frames that are looked at at most, and tables of each.
const MAX_TRIED: usize = 4096;
const TABLE_LIMIT: usize = 1 << 10;
/// Pages that are passed at most to see whether there is a program.
const MAX_STEPS: u32 = 1 << 14;

/// The roots without the kernel's only entry; none of a kernel that has more.
pub(super) fn roots_without_it(
    target: &Target,
    mode: &Mode,
    reference: &Reference,
    candidates: &[Candidate],
) -> Vec<Pfn> {
    if reference.present() != 1 {
        return Vec::new();
    }
    let known: Vec<Pfn> = candidates
        .iter()
        .filter(|candidate| candidate.role == Role::Full)
        .map(|candidate| candidate.pfn)
        .collect();
    // Where the kernel is below the entry of its processes, there is no other.
    let all = all_but(&EntrySet::default());
    let mut parts = [all_but(&reference.part), all].into_iter();
    let found = parts.find_map(|user| Some((user, entries_of_all(target, &user, &known)?)));
    let Some((user, common, column)) =
        found.and_then(|(user, common)| Some((user, common, common.iter().next()?)))
    else {
        return Vec::new();
    };
    let mut suspects = scan::frames_where(&*target.memory, &target.ram, &[column], |_, entry| {
        is_a_processes(entry, target)
    });
    suspects.retain(|pfn| !known.contains(pfn) && is_user_half(target, *pfn, &user, &common));
    if suspects.is_empty() {
        return suspects;
    }
    let snapshot = capture(target, mode, &known);
    let top = mode.depth.top();
    let mut found: Vec<(Pfn, Snapshot)> = suspects
        .into_iter()
        .filter(|pfn| snapshot.levels_of(*pfn).all(|level| level == top))
        .take(MAX_TRIED)
        .map(|pfn| {
            let mut capturer = Capturer::with_limit(TABLE_LIMIT);
            (
                pfn,
                capturer.capture(&*target.memory, *mode, &label(&[pfn])),
            )
        })
        .filter(|(_, tables)| is_sound(tables) && has_program(target, tables))
        .collect();
    let below: Vec<Pfn> = found
        .iter()
        .flat_map(|(_, tables)| tables.tables())
        .filter(|table| table.level() != top)
        .map(|table| table.pfn())
        .collect();
    found.retain(|(pfn, _)| !below.contains(pfn));
    found.into_iter().map(|(pfn, _)| pfn).collect()
}

/// The entries of these that every process has.
fn entries_of_all(target: &Target, user: &EntrySet, known: &[Pfn]) -> Option<EntrySet> {
    let mut words: Words = [0; 512];
    let (mut common, mut processes) = (*user, 0);
    for pfn in known {
        if target.memory.read_table(*pfn, &mut words).is_err() {
            continue;
        }
        let mut its = EntrySet::default();
        for (index, word) in (0u16..).zip(&words) {
            if user.contains(index) && is_a_processes(Entry::new(*word), target) {
                its.insert(index);
            }
        }
        // The kernel's own root has none.
        if !its.is_empty() {
            common = common.intersection(&its);
            processes += 1;
        }
    }
    (processes >= MIN_PROCESSES).then_some(common)
}

fn is_a_processes(entry: Entry, target: &Target) -> bool {
    entry.user() && may_lead_to_a_table(entry, target)
}

/// Whether a frame has the entries that every process has, and nothing but what a process may have.
fn is_user_half(target: &Target, pfn: Pfn, user: &EntrySet, common: &EntrySet) -> bool {
    let mut words: Words = [0; 512];
    target.memory.read_table(pfn, &mut words).is_ok()
        && (0u16..).zip(&words).all(|(index, word)| {
            let entry = Entry::new(*word);
            let may_be = user.contains(index) && is_a_processes(entry, target);
            may_be || *word == 0 && !common.contains(index)
        })
}

/// Whether there is code of ring 3, and memory that it writes, all of it RAM.
fn has_program(target: &Target, tables: &Snapshot) -> bool {
    let (mut code, mut data) = (false, false);
    let root = RootId(0);
    let mut leaves = tables
        .leaves(root, VirtRange::half(Half::User))
        .limited(MAX_STEPS);
    let in_ram = leaves.by_ref().all(|page| {
        code |= page.rights.user && page.rights.execute;
        data |= page.rights.user && page.rights.write;
        scan::is_in_ram(page.pa, &target.ram)
    });
    in_ram && code && data && leaves.stopped_at().is_none()
}

fn label(roots: &[Pfn]) -> Vec<(RootLabel, PhysAddr)> {
    let roots = roots.iter().map(|pfn| pfn.base());
    roots
        .map(|address| (RootLabel::Found(address), address))
        .collect()
}

fn capture(target: &Target, mode: &Mode, roots: &[Pfn]) -> Snapshot {
    Capturer::new().capture(&*target.memory, *mode, &label(roots))
}
