//! The first root where no CR3 is known, and no root shows much of RAM: kernels with recursive paging need not
//! map memory in a line, because they see their tables by an entry of the root that points to the root.

use crate::memory::Words;
use crate::snapshot::Snapshot;
use crate::target::Target;
use heirloom_paging::addr::Pfn;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Entry;
use heirloom_paging::mode::Mode;

use super::blind::{MAX_TRIED, is_sound, may_lead_to_a_table};
use super::budget::Budget;
use super::part::{self, all_but, less, ranges};
use super::reference::{Best, Reference};
use super::scan;

/// Tables that are captured of one root: what shows no memory in a line has few.
const TABLE_LIMIT: usize = 1 << 12;
/// Entries that are passed at most to see what a root maps.
const MAX_STEPS: u32 = 1 << 16;
/// Entries that a root has at most besides. A full table of pages, one of which is the table itself, looks like a
/// root, too.
const MAX_ENTRIES: usize = 128;

/// The root with recursive paging that maps most pages of RAM for ring 0, code and data among them; four levels
/// first, because the tables of five, read so, show the tables of pages as pages. `booted_on`: memory at its own
/// address that was found, whose tables are none.
pub(super) fn find(
    target: &Target,
    modes: &[Mode],
    booted_on: Option<&Snapshot>,
    budget: &mut Budget,
) -> Option<(Mode, Best)> {
    let (memory, ram) = (&*target.memory, &target.ram[..]);
    let mut frames = scan::frames_that(memory, ram, |pfn, words| leads_back(target, pfn, words));
    // A table that shows itself at its own address is one of theirs.
    frames.retain(|pfn| {
        booted_on.is_none_or(|tables| {
            let mut levels = tables.levels_of(*pfn);
            tables.roots()[0].address.pfn() == *pfn || levels.next().is_none()
        })
    });
    for &mode in modes {
        let mut best: Option<(u64, Best)> = None;
        for &pfn in frames.iter().take(MAX_TRIED) {
            let Some(snapshot) = budget.capture(memory, mode, pfn, TABLE_LIMIT) else {
                continue;
            };
            let Some((pages, found)) = judge(target, pfn, snapshot, budget) else {
                continue;
            };
            if best.as_ref().is_none_or(|(most, _)| pages > *most) {
                best = Some((pages, found));
            }
        }
        if let Some((_, best)) = best {
            return Some((mode, best));
        }
    }
    None
}

/// Whether an entry points to the frame itself, for ring 0 alone and to be written, and all others may lead to
/// tables.
fn leads_back(target: &Target, pfn: Pfn, words: &Words) -> bool {
    let entries = || words.iter().map(|word| Entry::new(*word));
    let is_own = |entry: Entry| {
        entry.present()
            && !entry.has(Entry::LARGE)
            && !entry.user()
            && entry.writable()
            && entry.without(target.encryption).address().pfn() == pfn
    };
    entries().any(is_own)
        && (2..=MAX_ENTRIES).contains(&entries().filter(|entry| entry.present()).count())
        && entries().all(|entry| !entry.present() || may_lead_to_a_table(entry, target))
}

/// How many pages the root in `pfn` maps for ring 0, if it is one.
fn judge(
    target: &Target,
    pfn: Pfn,
    snapshot: Snapshot,
    budget: &mut Budget,
) -> Option<(u64, Best)> {
    let id = snapshot.roots()[0].id;
    let table = snapshot.root_table(id)?;
    if !is_sound(&snapshot) {
        return None;
    }
    let all = all_but(&EntrySet::default());
    let mapped = less(&all, &part::self_entries(table));
    let (mut code, mut data, mut steps) = (0, 0, MAX_STEPS);
    for range in ranges(&mapped, snapshot.mode().depth) {
        let mut leaves = snapshot.leaves(id, range).limited(steps);
        for page in leaves.by_ref() {
            if page.rights.user || !scan::is_in_ram(page.pa, &target.ram) {
                continue;
            }
            code += u64::from(page.rights.execute);
            data += u64::from(page.rights.write);
        }
        steps = leaves.steps_left();
    }
    if code == 0 || data == 0 {
        return None;
    }
    let part = part::of_root(&snapshot, id, budget);
    let reference = Reference::new(pfn, table.words(), part)?;
    let shown = less(&part, &part::self_entries(table));
    let ram_bytes = budget.ram_shown_by(&snapshot, id, &shown, &target.ram);
    let best = Best {
        reference,
        ram_bytes,
        snapshot,
    };
    Some((code + data, best))
}
