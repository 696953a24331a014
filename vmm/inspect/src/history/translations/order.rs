//! Whether what was flushed had been written before.

use std::collections::BTreeSet;

use super::{Flushes, Where, Why, Writes};
use crate::index::{Lost, Remembered};
use heirloom_paging::addr::Pfn;
use heirloom_paging::level::Half;

/// The last time that the CPU was asked for what drops this, of the user half of a root that has `pcid`.
pub(super) fn latest(lost: &Lost, pcid: Option<u16>, flushes: &Flushes) -> Option<Writes> {
    let is_table = matches!(lost.was, Remembered::Table { .. });
    let pages = flushes.pages.iter().filter(|pages| match lost.was {
        _ if pcid.is_some_and(|pcid| pages.pcid != pcid) => false,
        Remembered::Page { .. } => pages.range.overlaps(&lost.range),
        // `invlpg` of any address drops all paging-structure caches (SDM vol. 3A, 4.10.4.1), of its PCID. Each PCID
        // may have some for a table of the kernel half.
        Remembered::Table { .. } => pcid.is_some() || flushes.pcids.is_none(),
    });
    let by_page = pages.map(|pages| pages.writes).reduce(later);
    let outlives_loads = matches!(lost.was, Remembered::Page { global: true, .. });
    let user = match (&flushes.pcids, pcid) {
        (None, _) => (flushes.root_loads > 0).then_some(flushes.user_writes_at_load),
        (Some(_), Some(pcid)) => flushes.of_pcid(pcid).and_then(|noted| noted.dropped),
        // A page of the kernel half that is not global is one of the kernel's own root, which has PCID 0.
        (Some(_), None) if is_table => None,
        (Some(_), None) => flushes.of_pcid(0).and_then(|noted| noted.dropped),
    };
    let loaded = user.filter(|_| !outlives_loads).map(|user| Writes {
        // Kernel entries are not counted at loads: any may have been written before.
        kernel: u64::MAX,
        user,
    });
    let all = by_page.into_iter().chain(loaded);
    all.chain(flushes.everything).reduce(later)
}

fn later(one: Writes, other: Writes) -> Writes {
    Writes {
        kernel: one.kernel.max(other.kernel),
        user: one.user.max(other.user),
    }
}

/// What of `lost`, all of one half and PCID, the CPU may still hold, and why; `None` if there were more flushes than are
/// known.
///
/// Each entry that was written takes a write of its own. Since the event before, which had seen `before`, a flush
/// at write `w` can have come after `w - before` of them and no more: so if more entries than that were flushed
/// no later, some were flushed too early.
pub(super) fn not_dropped(
    lost: &[Lost],
    (half, pcid): Where,
    flushes: &Flushes,
    before: Writes,
) -> Vec<(Lost, Option<Why>)> {
    let count = |writes: Writes| match half {
        Half::Kernel => writes.kernel,
        Half::User => writes.user,
    };
    let mut found = Vec::new();
    let mut dropped: Vec<(u64, &Lost)> = Vec::new();
    for lost in lost {
        match latest(lost, pcid, flushes) {
            Some(when) => dropped.push((count(when).saturating_sub(count(before)), lost)),
            None if flushes.missed => found.push((*lost, None)),
            None => found.push((*lost, Some(Why::NotAsked))),
        }
    }
    let is_table = |lost: &Lost| matches!(lost.was, Remembered::Table { .. });
    dropped.sort_by_key(|(after, lost)| (*after, is_table(lost), lost.range.first));
    // What went with its table may have gone by one write, and by that of another entry.
    let mut written: BTreeSet<(Pfn, u16)> = BTreeSet::new();
    let (mut too_early, mut end) = (0, 0);
    for (number, (after, lost)) in dropped.iter().enumerate() {
        written.extend(lost.entry);
        let entries = (written.len() as u64).max(1);
        if entries > after.saturating_add(too_early) {
            (too_early, end) = (entries - after, number + 1);
        }
    }
    let blamed = dropped[..end].iter().rev();
    let blamed = blamed.take(usize::try_from(too_early).unwrap_or(usize::MAX));
    found.extend(blamed.map(|(_, lost)| (**lost, Some(Why::TooEarly))));
    found
}
