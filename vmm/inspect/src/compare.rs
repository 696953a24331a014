//! Where two address spaces differ: in their tables, and in what they map.
//!
//! The two are not the same. A process with a private copy of a kernel table (*pointer* divergence)
//! translates everything as the others do, until the first change; a process that translates an
//! address differently (*mapping* divergence) is broken now.

use std::collections::HashMap;

use serde::Serialize;

use crate::memory::Words;
use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::{Half, Level};
use heirloom_paging::rights::Rights;

/// One entry of the root in which two address spaces differ. A and D do not count: the CPU sets
/// them on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EntryDifference {
    /// Which entry of the root tables.
    pub index: u16,
    /// What the entry translates.
    pub range: VirtRange,
    /// In which way the two differ.
    pub kind: EntryDifferenceKind,
    /// The entry of the first root.
    pub left: Entry,
    /// The entry of the second root.
    pub right: Entry,
    /// Whether any address in `range` is translated differently.
    pub mappings: Mappings,
}

/// How two entries differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryDifferenceKind {
    /// The right one is absent.
    OnlyLeft,
    /// The left one is absent.
    OnlyRight,
    /// Both point to the same frame, with other flags.
    Flags,
    /// They point to different frames.
    Frame,
    /// The entries are equal, but what is below maps something else: only between two snapshots.
    Below,
}

/// Whether two subtrees map the same: every address to the same byte with the same effective
/// rights, in pages of whatever size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mappings {
    /// All addresses lead to the same frames with the same rights.
    Same,
    /// `first` is the lowest address that differs.
    Differ {
        /// The lowest address that differs.
        first: VirtAddr,
    },
    /// The tables are so many, and so nearly equal, that the comparison was given up.
    Undecided,
}

/// Entries that a comparer looks at before it gives up; two snapshots at the capture limit that are
/// equal up to copying need about as many.
const STEP_LIMIT: u32 = 1 << 26;
/// What a table's entries cost of the budget, compared with those of another: looked up and remembered, each
/// takes as long as so many that are only passed.
const TABLE_COST: u64 = 512 * 8;

/// Compares address spaces, remembering which subtrees it has found equal. Keep one for all
/// comparisons within a snapshot: shared tables are then compared once.
#[derive(Debug)]
pub struct Comparer<'s> {
    left: &'s Snapshot,
    right: &'s Snapshot,
    /// Both are one snapshot, so equal slots mean equal subtrees.
    same: bool,
    /// Offset of the first difference below a pair that was compared.
    memo: HashMap<(View, View), Option<u64>>,
    steps_left: u32,
}

/// What an address space has where an entry stands: the rest of the walk depends on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum View {
    Absent,
    Reserved(Entry),
    /// The table is not there to be read.
    Missing(Pfn),
    Leaf(PhysAddr, Rights),
    Table(Slot, Rights),
}

/// The comparison was given up.
struct GivenUp;

impl<'s> Comparer<'s> {
    /// Compares address spaces of one snapshot.
    pub fn within(snapshot: &'s Snapshot) -> Self {
        Comparer {
            left: snapshot,
            right: snapshot,
            same: true,
            memo: HashMap::new(),
            steps_left: STEP_LIMIT,
        }
    }

    /// Compares address spaces of two snapshots: two moments, or two guests. `None` if one has 4
    /// levels and the other 5, whose entries have nothing to do with each other.
    pub fn between(left: &'s Snapshot, right: &'s Snapshot) -> Option<Self> {
        (left.mode().depth == right.mode().depth).then(|| Comparer {
            right,
            same: false,
            ..Comparer::within(left)
        })
    }

    /// The root's entries of `half` in which `left` and `right` differ, ascending; between two
    /// snapshots those, too, that are equal and map differently. A root outside guest memory counts
    /// as empty.
    ///
    /// # Panics
    /// If a root comes from another snapshot that has more roots.
    pub fn compare(&mut self, left: RootId, right: RootId, half: Half) -> Vec<EntryDifference> {
        self.compare_entries(left, right, half.indices())
    }

    /// As [`Comparer::compare`], of these entries of the root, which ascend.
    ///
    /// # Panics
    /// If a root comes from another snapshot that has more roots.
    pub fn compare_entries(
        &mut self,
        left: RootId,
        right: RootId,
        entries: impl Iterator<Item = u16>,
    ) -> Vec<EntryDifference> {
        if self.same && left == right {
            return Vec::new();
        }
        let left = self.left.root_table(left).map(|table| &**table);
        let right = self.right.root_table(right).map(|table| &**table);
        let entry =
            |table: Option<&Table>, index| table.map_or(Entry::ABSENT, |table| table.entry(index));
        entries
            .filter_map(|index| {
                let (l, r) = (entry(left, index), entry(right, index));
                let kind = kind_of(l, r);
                if kind.is_none() && (self.same || !l.present()) {
                    return None;
                }
                let depth = self.left.mode().depth;
                let range = VirtRange::of_top_entry(index, depth);
                let views = (
                    left.map_or(View::Absent, |table| {
                        view(self.left, table, index, Rights::ALL)
                    }),
                    right.map_or(View::Absent, |table| {
                        view(self.right, table, index, Rights::ALL)
                    }),
                );
                let mappings = match self.first_difference(views, depth.top()) {
                    Ok(None) => Mappings::Same,
                    Ok(Some(offset)) => Mappings::Differ {
                        first: range.first.wrapping_add(offset),
                    },
                    Err(GivenUp) => Mappings::Undecided,
                };
                if kind.is_none() && mappings == Mappings::Same {
                    return None;
                }
                Some(EntryDifference {
                    index,
                    range,
                    kind: kind.unwrap_or(EntryDifferenceKind::Below),
                    left: l,
                    right: r,
                    mappings,
                })
            })
            .collect()
    }

    /// The offset of the first address that two views, of entries at `level`, translate
    /// differently. Recurses one level down at a time, so at most five deep.
    fn first_difference(
        &mut self,
        (left, right): (View, View),
        level: Level,
    ) -> Result<Option<u64>, GivenUp> {
        let (left_words, right_words) = (self.left_words(left), self.right_words(right));
        if left_words.is_none() && right_words.is_none() {
            return Ok((left != right).then_some(0));
        }
        if self.same && left == right {
            return Ok(None);
        }
        let Some(next) = level.next() else {
            return Ok((left != right).then_some(0));
        };
        if let (View::Table(_, l), View::Table(_, r)) = (left, right) {
            // Equal words point to equal tables, within one snapshot; and a PT to none.
            if l == r && (self.same || next == Level::Pt) && left_words == right_words {
                return Ok(None);
            }
        }
        if let Some(&known) = self.memo.get(&(left, right)) {
            return Ok(known);
        }
        if !self.left.budget().pay(TABLE_COST) {
            return Err(GivenUp);
        }
        // Private copies of a table are alike in nearly every entry.
        let alike = match (left, right) {
            (View::Table(_, l), View::Table(_, r))
                if l == r && (self.same || next == Level::Pt) =>
            {
                left_words.zip(right_words)
            }
            _ => None,
        };
        let mut found = None;
        for index in 0..512 {
            if let Some((left, right)) = alike
                && is_as_written(left, right, index)
            {
                self.step()?;
                continue;
            }
            let below = (
                below(self.left, left, index, next),
                below(self.right, right, index, next),
            );
            self.step()?;
            if let Some(offset) = self.first_difference(below, next)? {
                found = Some((u64::from(index) << next.shift()) + offset);
                break;
            }
        }
        self.memo.insert((left, right), found);
        Ok(found)
    }

    /// One entry more is looked at.
    fn step(&mut self) -> Result<(), GivenUp> {
        let Some(left) = self.steps_left.checked_sub(1) else {
            self.left.budget().note_shortage();
            return Err(GivenUp);
        };
        self.steps_left = left;
        Ok(())
    }

    fn left_words(&self, view: View) -> Option<&'s Words> {
        words(self.left, view)
    }

    fn right_words(&self, view: View) -> Option<&'s Words> {
        words(self.right, view)
    }
}

/// Whether software wrote the same to entry `index` of both.
fn is_as_written(left: &Words, right: &Words, index: u16) -> bool {
    let written = |words: &Words| Entry::new(words[usize::from(index)]).as_written();
    written(left) == written(right)
}

fn words(snapshot: &Snapshot, view: View) -> Option<&Words> {
    match view {
        View::Table(slot, _) => Some(snapshot.table_at(slot)?.words()),
        _ => None,
    }
}

/// How two entries differ in what software wrote; `None` if they do not.
fn kind_of(left: Entry, right: Entry) -> Option<EntryDifferenceKind> {
    match (left.present(), right.present()) {
        (false, false) => None,
        (true, false) => Some(EntryDifferenceKind::OnlyLeft),
        (false, true) => Some(EntryDifferenceKind::OnlyRight),
        (true, true) if left.as_written() == right.as_written() => None,
        (true, true) if left.address() == right.address() => Some(EntryDifferenceKind::Flags),
        (true, true) => Some(EntryDifferenceKind::Frame),
    }
}

/// What stands at entry `index` of a table that is reached with `rights`.
fn view(snapshot: &Snapshot, table: &Table, index: u16, rights: Rights) -> View {
    let entry = table.entry(index);
    let rights = rights.through(entry);
    match table.decode(index) {
        Decoded::Absent => View::Absent,
        Decoded::Reserved { bits } => View::Reserved(bits),
        Decoded::Leaf(leaf) => View::Leaf(leaf.pa, rights),
        Decoded::Table(pfn) => match table.link(index) {
            Some(slot) if snapshot.table_at(slot).is_some() => View::Table(slot, rights),
            _ => View::Missing(pfn),
        },
    }
}

/// What stands at entry `index` of what `view` is one level down; a large page is as good as a
/// table of smaller ones.
fn below(snapshot: &Snapshot, view_above: View, index: u16, level: Level) -> View {
    match view_above {
        View::Table(slot, rights) => snapshot
            .table_at(slot)
            .map_or(View::Absent, |table| view(snapshot, table, index, rights)),
        View::Leaf(pa, rights) => {
            View::Leaf(pa.wrapping_add(u64::from(index) << level.shift()), rights)
        }
        other => other,
    }
}
