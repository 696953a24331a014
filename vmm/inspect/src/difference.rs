//! What differs between two moments, or two guests: address spaces born and gone, entries written,
//! addresses that are mapped otherwise.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::addr::{GuestPhys, GuestVirt, VirtRange};
use crate::changes::EntryChange;
use crate::compare::{Comparer, EntryDifference};
use crate::discover::{Discovery, Space};
use crate::entry::Entry;
use crate::leaves::{Leaves, Mapping};
use crate::level::{Half, Level};
use crate::rights::Rights;
use crate::snapshot::{RootId, RootLabel, Snapshot};

/// Two guests that cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "one has {left}-level page tables, the other {right}-level: their entries have nothing to do with each \
     other"
)]
pub struct DifferentDepth {
    pub left: u32,
    pub right: u32,
}

/// What changed from one moment to the next.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Address spaces that only the later moment has.
    pub born: Vec<Space>,
    /// Address spaces that only the earlier moment had.
    pub gone: Vec<Space>,
    /// Tables that only one of them has.
    pub tables_new: usize,
    pub tables_gone: usize,
    /// Entries that were written, in tables that both have; A and D do not count.
    pub entries: Vec<EntryChange>,
    /// Addresses that are translated otherwise, in address spaces that both have.
    pub ranges: Vec<RangeChange>,
}

/// Addresses that are translated otherwise than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RangeChange {
    pub range: VirtRange,
    pub half: Half,
    /// What the range's first address led to, and leads to.
    pub before: Option<Destination>,
    pub after: Option<Destination>,
    /// The address spaces concerned, as the later moment has them.
    pub spaces: Vec<RootLabel>,
    #[serde(skip)]
    pub root: RootId,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    pub pa: GuestPhys,
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
            ranges: ranges(comparer, left, right, &pairs),
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
        .filter(|space| !known.contains(&space.root))
        .cloned()
        .collect()
}

/// The address spaces that both have: those with one owner where owners are known, else those with one
/// root address.
fn pairs(before: &Discovery, after: &Discovery) -> Vec<(RootId, RootId)> {
    let known: HashMap<RootLabel, RootId> = before
        .spaces
        .iter()
        .map(|space| (space.label, space.root))
        .collect();
    after
        .spaces
        .iter()
        .filter_map(|space| Some((*known.get(&space.label)?, space.root)))
        .collect()
}

/// Compares each pair; what pairs share by the same top-level entries is looked at once.
fn ranges(
    mut comparer: Comparer<'_>,
    left: &Snapshot,
    right: &Snapshot,
    pairs: &[(RootId, RootId)],
) -> Vec<RangeChange> {
    let mut changes: Vec<RangeChange> = Vec::new();
    // The changes found below a pair of top-level entries.
    let mut known: HashMap<(u16, Entry, Entry), std::ops::Range<usize>> = HashMap::new();
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
                    for change in &mut changes[found.clone()] {
                        change.spaces.push(label);
                    }
                    continue;
                }
                let first = changes.len();
                changes.extend(changes_below(left, right, (l, r), range).map(
                    |(range, before, after)| RangeChange {
                        range,
                        half,
                        before,
                        after,
                        spaces: vec![label],
                        root: r,
                    },
                ));
                known.insert(key, first..changes.len());
            }
        }
    }
    changes
}

type Change = (VirtRange, Option<Destination>, Option<Destination>);

/// The addresses of `range` that the two translate otherwise, merged.
fn changes_below<'s>(
    left: &'s Snapshot,
    right: &'s Snapshot,
    (l, r): (RootId, RootId),
    range: VirtRange,
) -> impl Iterator<Item = Change> + use<'s> {
    let mut left = Pieces::new(left.leaves(l, range));
    let mut right = Pieces::new(right.leaves(r, range));
    let mut begun: Option<Change> = None;
    std::iter::from_fn(move || {
        loop {
            let Some(va) = [left.start(), right.start()].into_iter().flatten().min() else {
                return begun.take();
            };
            // Up to where one of them begins or ends; pages of different sizes are cut alike.
            let last = left.end_before(va).min(right.end_before(va));
            let (before, after) = (left.take(va, last), right.take(va, last));
            if before == after {
                continue;
            }
            let piece = VirtRange {
                first: va,
                last: GuestVirt::new(last),
            };
            match &mut begun {
                Some(change) if goes_on(change, piece, before, after) => change.0.last = piece.last,
                begun => {
                    if let Some(done) = begun.replace((piece, before, after)) {
                        return Some(done);
                    }
                }
            }
        }
    })
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
    present: Option<(GuestVirt, u64, Destination)>,
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

    fn start(&self) -> Option<GuestVirt> {
        self.present.map(|(va, ..)| va)
    }

    /// The last address of the stretch from `va` on in which nothing changes here.
    fn end_before(&self, va: GuestVirt) -> u64 {
        match self.present {
            Some((start, last, _)) if start <= va => last,
            Some((start, ..)) => start.get() - 1,
            None => u64::MAX,
        }
    }

    /// Where `va` leads; the stretch up to `last` is done with.
    fn take(&mut self, va: GuestVirt, last: u64) -> Option<Destination> {
        let (start, end, to) = self.present?;
        if start > va {
            return None;
        }
        if last >= end {
            self.advance();
        } else {
            let bytes = last + 1 - start.get();
            self.present = Some((
                GuestVirt::new(last + 1),
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
