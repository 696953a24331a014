//! What differs between two moments, or two guests: address spaces born and gone, entries written,
//! addresses that are mapped otherwise.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::changes::EntryChange;
use crate::compare::{Comparer, EntryDifference};
use crate::discover::{Discovery, Space};
use crate::leaves::{Leaves, Mapping};
use crate::snapshot::{RootId, RootLabel, Snapshot};
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::{Half, Level};
use heirloom_paging::rights::Rights;

/// Two guests that cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "one has {left}-level page tables, the other {right}-level: their entries have nothing to do with each \
     other"
)]
pub struct DifferentDepth {
    /// Levels of the first guest's tables.
    pub left: u32,
    /// Levels of the second guest's tables.
    pub right: u32,
}

/// Ranges that are listed, with the address spaces that have them counted, and entries that are passed to
/// find them: tables can claim 2^36 pages with one frame.
const MAX_LISTED: usize = 1 << 20;
const MAX_STEPS: u32 = 1 << 26;

/// What changed from one moment to the next.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Address spaces that only the later moment has. A root that was freed is none.
    pub born: Vec<Space>,
    /// Address spaces that only the earlier moment had.
    pub gone: Vec<Space>,
    /// Tables that only one of them has.
    pub tables_new: usize,
    /// Tables that only the earlier moment had.
    pub tables_gone: usize,
    /// Entries that were written, in tables that both have; A and D do not count.
    pub entries: Vec<EntryChange>,
    /// Addresses that are translated otherwise, in address spaces that both have.
    pub ranges: Vec<RangeChange>,
    /// There are absurdly many, and not all are listed.
    pub ranges_cut: bool,
}

/// Addresses that are translated otherwise than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RangeChange {
    /// The addresses.
    pub range: VirtRange,
    /// The half that they belong to.
    pub half: Half,
    /// What the range's first address led to, and leads to.
    pub before: Option<Destination>,
    /// What it leads to now.
    pub after: Option<Destination>,
    /// The address spaces concerned, as the later moment has them.
    pub spaces: Vec<RootLabel>,
    /// One of these address spaces, in the later moment's snapshot.
    #[serde(skip)]
    pub root: RootId,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// The physical address.
    pub pa: PhysAddr,
    /// What all entries of the walk allow together.
    pub rights: Rights,
}

impl Difference {
    /// What changed from `before` to `after`.
    ///
    /// # Errors
    /// [`DifferentDepth`].
    pub fn between(before: &Discovery, after: &Discovery) -> Result<Difference, DifferentDepth> {
        let (left, right) = (&before.snapshot, &after.snapshot);
        let comparer = Comparer::between(left, right).ok_or(DifferentDepth {
            left: left.mode().depth.levels(),
            right: right.mode().depth.levels(),
        })?;
        let pairs = pairs(before, after);
        let (ranges, ranges_cut) = ranges(comparer, left, right, &pairs);
        let had: HashSet<RootId> = pairs.iter().map(|(left, _)| *left).collect();
        let has: HashSet<RootId> = pairs.iter().map(|(_, right)| *right).collect();
        Ok(Difference {
            born: without(&after.spaces, &has),
            gone: without(&before.spaces, &had),
            tables_new: right.tables_not_in(left).count(),
            tables_gone: left.tables_not_in(right).count(),
            entries: right
                .changes_since(left)
                .filter(EntryChange::is_written)
                .collect(),
            ranges,
            ranges_cut,
        })
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.born.is_empty()
            && self.gone.is_empty()
            && self.tables_new == 0
            && self.tables_gone == 0
            && self.entries.is_empty()
            && self.ranges.is_empty()
    }
}

fn without(spaces: &[Space], known: &HashSet<RootId>) -> Vec<Space> {
    spaces
        .iter()
        .filter(|space| space.kind.is_live() && !known.contains(&space.root))
        .cloned()
        .collect()
}

/// The live address spaces that both have: those with one owner where owners are known, else those with
/// one root address.
fn pairs(before: &Discovery, after: &Discovery) -> Vec<(RootId, RootId)> {
    let live = |discovery: &'_ Discovery| {
        let spaces = discovery.spaces.iter();
        spaces
            .filter(|space| space.kind.is_live())
            .map(|space| (space.label, space.root))
            .collect::<Vec<_>>()
    };
    let known: HashMap<RootLabel, RootId> = live(before).into_iter().collect();
    live(after)
        .into_iter()
        .filter_map(|(label, root)| Some((*known.get(&label)?, root)))
        .collect()
}

/// Compares each pair; what pairs share by the same top-level entries is looked at once. And whether
/// there was too much to list.
fn ranges(
    mut comparer: Comparer<'_>,
    left: &Snapshot,
    right: &Snapshot,
    pairs: &[(RootId, RootId)],
) -> (Vec<RangeChange>, bool) {
    let mut changes: Vec<RangeChange> = Vec::new();
    // The changes found below a pair of top-level entries.
    let mut known: HashMap<(u16, Entry, Entry), std::ops::Range<usize>> = HashMap::new();
    let (mut room, mut steps_left) = (MAX_LISTED, MAX_STEPS);
    for &(l, r) in pairs {
        let label = right.root(r).label;
        for half in [Half::Kernel, Half::User] {
            for difference in comparer.compare(l, r, half) {
                let EntryDifference {
                    index,
                    range,
                    left: before,
                    right: after,
                    ..
                } = difference;
                let key = (index, before.as_written(), after.as_written());
                if let Some(found) = known.get(&key) {
                    let found = &mut changes[found.clone()];
                    let Some(left) = room.checked_sub(found.len()) else {
                        return (changes, true);
                    };
                    room = left;
                    for change in found {
                        change.spaces.push(label);
                    }
                    continue;
                }
                let first = changes.len();
                let mut below =
                    Changes::new(left.leaves(l, range), right.leaves(r, range), steps_left);
                for (range, before, after) in below.by_ref().take(room) {
                    changes.push(RangeChange {
                        range,
                        half,
                        before,
                        after,
                        spaces: vec![label],
                        root: r,
                    });
                }
                steps_left = below.steps_left();
                room -= changes.len() - first;
                if room == 0 || below.is_cut() {
                    return (changes, true);
                }
                known.insert(key, first..changes.len());
            }
        }
    }
    (changes, false)
}

type Change = (VirtRange, Option<Destination>, Option<Destination>);

/// The addresses that two address spaces translate otherwise, merged, ascending.
struct Changes<'s> {
    left: Pieces<'s>,
    right: Pieces<'s>,
    begun: Option<Change>,
}

impl<'s> Changes<'s> {
    /// What differs between these leaves, as far as half of `steps` suffices for each.
    fn new(left: Leaves<'s>, right: Leaves<'s>, steps: u32) -> Changes<'s> {
        Changes {
            left: Pieces::new(left.limited(steps / 2)),
            right: Pieces::new(right.limited(steps / 2)),
            begun: None,
        }
    }

    fn steps_left(&self) -> u32 {
        self.left.leaves.steps_left() + self.right.leaves.steps_left()
    }

    /// Whether the steps did not suffice.
    fn is_cut(&self) -> bool {
        let stopped = [&self.left, &self.right].map(|pieces| pieces.leaves.stopped_at());
        stopped.iter().any(Option::is_some)
    }
}

impl Iterator for Changes<'_> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        loop {
            if self.is_cut() {
                // What seems to be missing on one side may only not have been reached.
                return self.begun.take();
            }
            let starts = [self.left.start(), self.right.start()];
            let Some(va) = starts.into_iter().flatten().min() else {
                return self.begun.take();
            };
            // Up to where one of them begins or ends; pages of different sizes are cut alike.
            let last = self.left.end_before(va).min(self.right.end_before(va));
            let (before, after) = (self.left.take(va, last), self.right.take(va, last));
            if before == after {
                continue;
            }
            let piece = VirtRange {
                first: va,
                last: VirtAddr::new(last),
            };
            match &mut self.begun {
                Some(change) if goes_on(change, piece, before, after) => change.0.last = piece.last,
                begun => {
                    if let Some(done) = begun.replace((piece, before, after)) {
                        return Some(done);
                    }
                }
            }
        }
    }
}

/// Whether a piece continues a change: next to it, and linearly in both moments.
fn goes_on(
    (range, old, new): &Change,
    piece: VirtRange,
    before: Option<Destination>,
    after: Option<Destination>,
) -> bool {
    let linear = |from: &Option<Destination>, to: Option<Destination>| match (from, to) {
        (None, None) => true,
        (Some(from), Some(to)) => {
            from.rights == to.rights && from.pa.checked_add(range.bytes()) == Some(to.pa)
        }
        _ => false,
    };
    range.last.checked_add(1) == Some(piece.first) && linear(old, before) && linear(new, after)
}

/// The leaves of one address space, cut where the other one's begin and end.
struct Pieces<'s> {
    leaves: Leaves<'s>,
    /// What is left of the present leaf: first and last address, and where the first leads.
    present: Option<(VirtAddr, u64, Destination)>,
}

impl<'s> Pieces<'s> {
    fn new(leaves: Leaves<'s>) -> Pieces<'s> {
        let mut pieces = Pieces {
            leaves,
            present: None,
        };
        pieces.advance();
        pieces
    }

    fn advance(&mut self) {
        self.present = self.leaves.next().map(|page: Mapping| {
            let to = Destination {
                pa: page.pa,
                rights: page.rights,
            };
            (page.va, page.range().last.get(), to)
        });
    }

    fn start(&self) -> Option<VirtAddr> {
        self.present.map(|(va, ..)| va)
    }

    /// The last address of the stretch from `va` on in which nothing changes here.
    fn end_before(&self, va: VirtAddr) -> u64 {
        match self.present {
            Some((start, last, _)) if start <= va => last,
            Some((start, ..)) => start.get() - 1,
            None => u64::MAX,
        }
    }

    /// Where `va` leads; the stretch up to `last` is done with.
    fn take(&mut self, va: VirtAddr, last: u64) -> Option<Destination> {
        let (start, end, to) = self.present?;
        if start > va {
            return None;
        }
        if last >= end {
            self.advance();
        } else {
            let bytes = last + 1 - start.get();
            self.present = Some((
                VirtAddr::new(last + 1),
                end,
                Destination {
                    pa: to.pa.wrapping_add(bytes),
                    ..to
                },
            ));
        }
        Some(to)
    }
}

/// What was done to a range, in a word.
impl RangeChange {
    /// What became of the addresses, in a word.
    pub fn what(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "mapped",
            (_, None) => "unmapped",
            (Some(before), Some(after)) if before.pa == after.pa => "rights changed",
            _ => "moved",
        }
    }
}

/// The levels at which entries were written, with how many.
pub fn entries_by_level(entries: &[EntryChange]) -> Vec<(Level, usize)> {
    Level::ALL
        .into_iter()
        .filter_map(|level| {
            let count = entries
                .iter()
                .filter(|change| change.level == level)
                .count();
            (count > 0).then_some((level, count))
        })
        .collect()
}
