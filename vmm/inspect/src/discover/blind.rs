//! The first root where no CR3 is known: looking for kernel halves in all of memory.
//!
//! A kernel half is recognized by what it does. It shows most of RAM in one linear mapping, the root's own
//! frame included, because a kernel must be able to write its page tables; and no entry of it is reserved
//! to the CPU. Read with the wrong number of levels, tables show next to nothing of RAM in a line, or are
//! full of reserved bits: so the depth is decided by the same evidence.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::layout::shows_itself;
use crate::memory::Words;
use crate::snapshot::Snapshot;
use crate::target::Target;
use heirloom_paging::addr::{Pfn, VirtAddr, VirtRange};
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::{Depth, Half, PageSize};
use heirloom_paging::mode::Mode;

use super::anchors::PartOnly;
use super::budget::Budget;
use super::part::{self, all_but, upper_half};
use super::reference::{Best, Reference};
use super::scan::is_in_ram;
use super::{KernelHalf, kernel_half_of, recursive, scan};

/// Kernel halves whose tables are looked at, those of most frames first.
pub(super) const MAX_TRIED: usize = 96;
/// Tables that are captured of one: more than the kernel half of 64 GiB in 4 KiB pages has.
const TABLE_LIMIT: usize = 1 << 16;
/// The same of one root in the lower half, of which there may be more suspects.
const LOWER_TABLE_LIMIT: usize = 1 << 12;
/// Of RAM, a kernel half must show at least one part in so many …
pub(super) const LEAST_SHOWN: u64 = 8;
/// … and of its tables' entries, at most one in so many may be reserved.
const MAX_RESERVED: u64 = 100;

/// Frames that are asked at most whether a root is a table of theirs, and entries that such a root has at most.
const MAX_FRAMES: usize = 1 << 14;
const FEW_ENTRIES: usize = 64;

/// What must be shown so many times over to be better read with five levels than with four.
const MUCH_MORE: u64 = 4;

/// What is found where no CR3 is known.
pub(super) enum Found {
    /// A kernel half.
    Kernel(Best),
    /// A root with recursive paging, which need not show much of RAM.
    Recursive(Best),
    /// A root that has none, but memory at its own address, open to ring 3, too.
    OpenIdentity(OpenIdentity),
}

/// A root that maps memory to its own address and lets ring 3 through.
#[derive(Clone, Copy)]
pub(super) struct OpenIdentity {
    pub(super) pfn: Pfn,
    /// How much of RAM it shows so …
    pub(super) ram_bytes: u64,
    /// … and how much it maps so, be it RAM or not.
    bytes: u64,
}

/// The best kernel half in memory, or what a machine runs on that has none, and the mode in which it is read.
pub(super) fn find(target: &Target, modes: &[Mode]) -> Option<(Mode, Found)> {
    let (memory, ram) = (&*target.memory, &target.ram[..]);
    // Nearly every kernel is linked to the last 2 GiB, so the last entry tells quickly; if that finds
    // nothing, all of memory is read.
    let frames = scan::frames_where(memory, ram, &[511], |_, entry| {
        may_lead_to_a_table(entry, target)
    });
    let mut budget = Budget::default();
    let best = best_among(target, modes, &frames, &mut budget).or_else(|| {
        let frames = scan::frames_that(memory, ram, |_, words| is_kernel_half(words, target));
        best_among(target, modes, &frames, &mut budget)
    });
    if let Some((mode, best)) = best {
        return Some((mode, Found::Kernel(best)));
    }
    let lower = best_in_the_lower_half(target, modes, &mut budget);
    // Memory at its own address may be what a kernel was booted on that shows little of RAM itself.
    let booted_on = match &lower {
        Some((_, Found::Kernel(best))) => {
            if identity_of(target, &best.snapshot, &mut budget).is_none() {
                return lower;
            }
            Some(best.snapshot.clone())
        }
        Some((mode, Found::OpenIdentity(open))) => {
            budget.capture(memory, *mode, open.pfn, LOWER_TABLE_LIMIT)
        }
        _ => None,
    };
    match recursive::find(target, modes, booted_on.as_ref(), &mut budget) {
        Some((mode, best)) => Some((mode, Found::Recursive(best))),
        None => lower,
    }
}

/// The best root of a kernel that is in the lower half, or has its tables there. Any table of pages that are RAM may
/// look like one, so it must lead down to a page by a table of each level. One that lets ring 3 through everywhere
/// tells nothing of a kernel's: it is taken where there is no other, or where the other is memory at its own
/// address as well, and less of it: a table that somebody has left lying.
fn best_in_the_lower_half(
    target: &Target,
    modes: &[Mode],
    budget: &mut Budget,
) -> Option<(Mode, Found)> {
    let (memory, ram) = (&*target.memory, &target.ram[..]);
    let all: u64 = ram.iter().map(|range| range.bytes).sum();
    let mut frames = scan::frames_that(memory, ram, |_, words| {
        is_half(&words[..256], target)
            && (is_kernel_half(words, target) || words[256..].iter().all(|word| word & 1 == 0))
    });
    frames.retain(|pfn| {
        let mut modes = modes.iter();
        modes.any(|mode| leads_down(target, *mode, *pfn, Half::User))
    });
    let mut best: Option<((bool, u64), Mode, Best)> = None;
    let mut open: Option<(Mode, OpenIdentity)> = None;
    let tried = frames.into_iter().take(MAX_TRIED);
    'all: for pfn in tried {
        let mut shown = 0;
        for &mode in modes {
            let captured = budget.capture(memory, mode, pfn, LOWER_TABLE_LIMIT);
            let Some(snapshot) = captured else {
                break 'all;
            };
            let id = snapshot.roots()[0].id;
            let part = part::of_root(&snapshot, id, budget);
            let (Some(table), true) = (snapshot.root_table(id), is_sound(&snapshot)) else {
                continue;
            };
            if part == upper_half()
                && let Some(found) = identity_of(target, &snapshot, budget)
                && found.ram_bytes >= all / LEAST_SHOWN
                && open.is_none_or(|(known, most)| {
                    // Four levels first: the root of five is one table above that of four.
                    let is_same = !most.is_more_than(&found);
                    found.is_more_than(&most)
                        || (is_same && mode.depth.levels() < known.depth.levels())
                })
            {
                open = Some((mode, found));
            }
            let Some(reference) = Reference::new(pfn, table.words(), part) else {
                continue;
            };
            let ram_bytes = budget.ram_shown_by(&snapshot, id, &part, ram);
            // What is shown with four levels is not better read with five.
            if ram_bytes < (all / LEAST_SHOWN).max(shown + 1) {
                continue;
            }
            shown = ram_bytes;
            // What a kernel was booted on maps all of memory to its own address, and is left lying.
            let rank = (identity_of(target, &snapshot, budget).is_none(), ram_bytes);
            if best.as_ref().is_none_or(|(most, _, _)| rank > *most) {
                let found = Best {
                    reference,
                    ram_bytes,
                    snapshot,
                };
                best = Some((rank, mode, found));
            }
        }
    }
    let best = best.map(|(_, mode, best)| (mode, best));
    let Some((mode, open)) = open else {
        return best.map(|(mode, best)| (mode, Found::Kernel(best)));
    };
    match best {
        Some((mode, best))
            if !identity_of(target, &best.snapshot, budget)
                .is_some_and(|other| open.is_more_than(&other)) =>
        {
            Some((mode, Found::Kernel(best)))
        }
        _ => Some((mode, Found::OpenIdentity(open))),
    }
}

impl OpenIdentity {
    fn is_more_than(&self, other: &OpenIdentity) -> bool {
        (self.ram_bytes, self.bytes) > (other.ram_bytes, other.bytes)
    }
}

/// How much the lower half of the one root of `snapshot` maps to its own address, its own frame with it, if that
/// is most of what it maps.
fn identity_of(target: &Target, snapshot: &Snapshot, budget: &mut Budget) -> Option<OpenIdentity> {
    let root = &snapshot.roots()[0];
    let lower = all_but(&upper_half());
    let own = VirtAddr::new(root.address.get());
    let walk = snapshot.translate(root.id, own);
    let ram_bytes = budget.ram_shown_by(snapshot, root.id, &lower, &target.ram);
    if ram_bytes == 0
        || walk
            .translation()
            .is_none_or(|found| found.pa != root.address)
    {
        return None;
    }
    let (mut bytes, mut elsewhere) = (0_u64, 0_u64);
    for page in snapshot.distinct_leaves(root.id, VirtRange::half(Half::User)) {
        let sum = if page.va.get() == page.pa.get() {
            &mut bytes
        } else {
            &mut elsewhere
        };
        *sum = sum.saturating_add(page.size.bytes());
    }
    (bytes >= elsewhere).then_some(OpenIdentity {
        pfn: root.address.pfn(),
        ram_bytes,
        bytes,
    })
}

/// Whether the first present entries lead from this half of a root to a page by a table of each level.
fn leads_down(target: &Target, mode: Mode, root: Pfn, half: Half) -> bool {
    let mut words: Words = [0; 512];
    let (mut table, mut level) = (root, mode.depth.top());
    loop {
        if target.memory.read_table(table, &mut words).is_err() {
            return false;
        }
        let first = match half {
            Half::Kernel if level == mode.depth.top() => 256,
            _ => 0,
        };
        let mut entries = words[first..].iter().map(|word| Entry::new(*word));
        let Some(first) = entries.find(|entry| entry.present()) else {
            return false;
        };
        match (first.decode(level, &mode), level.next()) {
            (Decoded::Table(below), Some(next)) => (table, level) = (below, next),
            (Decoded::Leaf(_), _) => return true,
            _ => return false,
        }
    }
}

fn best_among(
    target: &Target,
    modes: &[Mode],
    frames: &[Pfn],
    budget: &mut Budget,
) -> Option<(Mode, Best)> {
    let mut groups: HashMap<KernelHalf, (Pfn, usize)> = HashMap::new();
    let mut words: Words = [0; 512];
    for &pfn in frames {
        if target.memory.read_table(pfn, &mut words).is_ok() && is_kernel_half(&words, target) {
            groups
                .entry(kernel_half_of(&words, &upper_half()))
                .or_insert((pfn, 0))
                .1 += 1;
        }
    }
    // What leads to no page costs as much as what does, and is mostly no root: a PD of device memory looks like
    // one that has thousands of tables where there is no RAM.
    let leads = |pfn: Pfn| {
        let mut modes = modes.iter();
        modes.any(|mode| leads_down(target, *mode, pfn, Half::Kernel))
    };
    let mut groups: Vec<(bool, Reverse<usize>, Pfn)> = groups
        .into_values()
        .map(|(pfn, members)| (!leads(pfn), Reverse(members), pfn))
        .collect();
    groups.sort_unstable();
    let all: u64 = target.ram.iter().map(|range| range.bytes).sum();
    let mut best: Option<(Mode, Best)> = None;
    for &(_, _, pfn) in groups.iter().take(MAX_TRIED) {
        let mut shown = 0;
        for &mode in modes {
            let Some(found) = judge(target, mode, pfn, budget) else {
                continue;
            };
            // Tables of five levels read with four show next to nothing in a line.
            if found.ram_bytes / MUCH_MORE < shown {
                continue;
            }
            shown = found.ram_bytes;
            if mode.depth == Depth::Five && has_four_levels(target, modes, pfn, budget)
                || is_a_table_of_another(target, mode, (pfn, &found.snapshot), frames, budget)
            {
                continue;
            }
            if found.ram_bytes >= all / LEAST_SHOWN
                && best
                    .as_ref()
                    .is_none_or(|(_, best)| found.ram_bytes > best.ram_bytes)
            {
                best = Some((mode, found));
            }
        }
        // Two that show nearly all of RAM would be one kernel's.
        if let Some((_, best)) = &best
            && best.ram_bytes > all / 4 * 3
        {
            break;
        }
    }
    best
}

pub(super) fn may_lead_to_a_table(entry: Entry, target: &Target) -> bool {
    entry.present()
        && !entry.has(Entry::LARGE)
        && is_in_ram(entry.without(target.encryption).address(), &target.ram)
}

/// Whether the root in `pfn`, its user half with it, makes sense with four levels and none with five. Of a kernel half
/// alone both may: a page of 2 MiB at address 0 is one of 1 GiB to who reads a level more.
fn has_four_levels(target: &Target, modes: &[Mode], pfn: Pfn, budget: &mut Budget) -> bool {
    let mut is_sound_with = |depth: Depth| {
        let mode = modes.iter().find(|mode| mode.depth == depth)?;
        let whole = budget.capture(&*target.memory, *mode, pfn, LOWER_TABLE_LIMIT)?;
        Some(is_sound(&whole))
    };
    is_sound_with(Depth::Five) == Some(false) && is_sound_with(Depth::Four) == Some(true)
}

/// Whether one of `frames` is a root of few entries that makes sense with the table in `pfn` below it. Asked only where
/// a page of 1 GiB at address 0 is most of what is shown: it may be one of 2 MiB, a level below.
fn is_a_table_of_another(
    target: &Target,
    mode: Mode,
    (pfn, tables): (Pfn, &Snapshot),
    frames: &[Pfn],
    budget: &mut Budget,
) -> bool {
    let id = tables.roots()[0].id;
    let mut leaves = tables.distinct_leaves(id, VirtRange::half(Half::Kernel));
    let is_unsure = leaves
        .by_ref()
        .take(MAX_TRIED)
        .any(|page| page.size == PageSize::Size1GiB && page.pa.get() == 0);
    if !is_unsure {
        return false;
    }
    let mut words: Words = [0; 512];
    frames.iter().take(MAX_FRAMES).any(|&above| {
        if above == pfn || target.memory.read_table(above, &mut words).is_err() {
            return false;
        }
        let entries = || words.iter().map(|word| Entry::new(*word));
        let leads_here = entries().skip(256).any(|entry| {
            may_lead_to_a_table(entry, target)
                && entry.without(target.encryption).address().pfn() == pfn
        });
        leads_here
            && entries().filter(|entry| entry.present()).count() <= FEW_ENTRIES
            && budget
                .capture(&*target.memory, mode, above, LOWER_TABLE_LIMIT)
                .is_some_and(|whole| is_sound(&whole))
    })
}

/// Whether every present word of the kernel half may lead to a table in RAM, and there is one.
fn is_kernel_half(words: &Words, target: &Target) -> bool {
    is_half(&words[256..], target)
}

/// Whether every present word may lead to a table in RAM, and there is one.
fn is_half(words: &[u64], target: &Target) -> bool {
    let mut present = words
        .iter()
        .map(|&word| Entry::new(word))
        .filter(|entry| entry.present())
        .peekable();
    present.peek().is_some() && present.all(|entry| may_lead_to_a_table(entry, target))
}

/// How good the kernel half of the root in `pfn` is, read in `mode`; `None` if it is none.
fn judge(target: &Target, mode: Mode, pfn: Pfn, budget: &mut Budget) -> Option<Best> {
    let mut words: Words = [0; 512];
    target.memory.read_table(pfn, &mut words).ok()?;
    let reference = Reference::new(pfn, &words, upper_half())?;
    let memory = PartOnly {
        memory: &*target.memory,
        pfn,
        part: reference.part,
    };
    let snapshot = budget.capture(&memory, mode, pfn, TABLE_LIMIT)?;
    let id = snapshot.roots()[0].id;
    if !is_sound(&snapshot)
        || !budget.allows(&snapshot, id, &reference.part)
        || !shows_itself(&snapshot, id)
    {
        return None;
    }
    let ram_bytes = budget.ram_shown_by(&snapshot, id, &reference.part, &target.ram);
    Some(Best {
        reference,
        ram_bytes,
        snapshot,
    })
}

/// Whether few entries are reserved.
pub(super) fn is_sound(snapshot: &Snapshot) -> bool {
    let (mut present, mut reserved) = (0, 0);
    for table in snapshot.tables() {
        present += table.present().len() as u64;
        if !table.is_sound() {
            let entries = table.entries();
            reserved += entries
                .filter(|(index, _)| matches!(table.decode(*index), Decoded::Reserved { .. }))
                .count() as u64;
        }
    }
    reserved * MAX_RESERVED <= present
}
