//! Who shares what: every subtree and every table once, however many address spaces have it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slotted;

use serde::Serialize;

use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use crate::traverse::{HALVES, Ways};
pub use crate::traverse::{PlacedEntry, Placement};
use heirloom_paging::addr::{Pfn, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::{Half, Level};

/// All that is below one entry of the root, and the address spaces that have that very entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subtree {
    /// The root's entry.
    pub index: u16,
    /// What software wrote there: without A and D.
    pub entry: Entry,
    /// What the entry translates. The subtree's leaves are those that any of its roots has there.
    pub range: VirtRange,
    /// In the order of [`Snapshot::roots`]; never empty.
    pub roots: Vec<RootId>,
}

/// An entry that points to some table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Parent {
    /// The frame of the table that the entry stands in.
    pub table: Pfn,
    /// The level of that table.
    pub level: Level,
    /// Which entry of it.
    pub index: u16,
}

/// How many frames hold tables; a frame counts once, at however many levels it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct TableFrames {
    /// All of them.
    pub total: usize,
    /// Frames that are the root of an address space.
    pub roots: usize,
    /// Frames below entries 256–511 of a root.
    pub kernel_half: usize,
    /// Frames below entries 0–255 of a root.
    pub user_half: usize,
    /// Frames below both; on a sane kernel, none.
    pub both_halves: usize,
}

impl Snapshot {
    /// What is below the roots' entries of `half`, ascending by index, each once with the address
    /// spaces that share it. A kernel half that everybody inherited is one subtree per entry.
    pub fn subtrees(&self, half: Half) -> Vec<Subtree> {
        let mut subtrees: Vec<Subtree> = Vec::new();
        let tables: Vec<(RootId, &Table)> = self
            .roots()
            .iter()
            .filter_map(|root| Some((root.id, &**self.root_table(root.id)?)))
            .collect();
        for index in half.indices() {
            let mut known: HashMap<Entry, usize> = HashMap::new();
            // Consecutive roots mostly agree; then nothing is looked up.
            let mut last: Option<(Entry, usize)> = None;
            for &(root, table) in &tables {
                if !table.present().contains(index) {
                    continue;
                }
                let entry = table.entry(index).as_written();
                let position = match last {
                    Some((same, position)) if same == entry => position,
                    _ => match known.entry(entry) {
                        Slotted::Occupied(found) => *found.get(),
                        Slotted::Vacant(free) => {
                            subtrees.push(Subtree {
                                index,
                                entry,
                                range: VirtRange::of_top_entry(index, self.mode().depth),
                                roots: Vec::new(),
                            });
                            *free.insert(subtrees.len() - 1)
                        }
                    },
                };
                last = Some((entry, position));
                subtrees[position].roots.push(root);
            }
        }
        subtrees
    }

    /// Every table once for each half, level and set of rights with which a walk reaches it; at
    /// most 16 times the number of tables, whatever they look like. Roots come with both halves.
    pub fn placements(&self) -> Vec<Placement<'_>> {
        self.placements_below(self.roots().iter().map(|root| root.id))
    }

    /// As [`Snapshot::placements`], but only what `roots` reach. Where several reach a table in the same
    /// way, the placement names the first.
    ///
    /// # Panics
    /// If a root comes from another snapshot that has more roots.
    pub fn placements_below(&self, roots: impl IntoIterator<Item = RootId>) -> Vec<Placement<'_>> {
        self.placements_split(roots.into_iter().map(|root| (root, HALVES)))
    }

    /// As [`Snapshot::placements_below`], where each root comes with those of its entries that are the
    /// kernel's, and those that are a process's.
    ///
    /// # Panics
    /// If a root comes from another snapshot that has more roots.
    pub fn placements_split(
        &self,
        roots: impl IntoIterator<Item = (RootId, [EntrySet; 2])>,
    ) -> Vec<Placement<'_>> {
        let mut placements = Vec::new();
        self.visit_tables(roots, Ways::ByHalfAndRights, |placement| {
            placements.push(placement);
        });
        placements
    }

    /// Counts the frames that hold tables, by half.
    pub fn table_frames(&self) -> TableFrames {
        const ROOT: u8 = 1;
        const USER: u8 = 2;
        const KERNEL: u8 = 4;
        let mut marks: Vec<(Pfn, u8)> = Vec::with_capacity(self.table_count());
        let top = self.mode().depth.top();
        let roots = self.roots().iter().map(|root| (root.id, HALVES));
        self.visit_tables(roots, Ways::ByHalf, |placement| {
            let mark = match placement.half {
                _ if placement.table.level() == top => ROOT,
                Half::User => USER,
                Half::Kernel => KERNEL,
            };
            marks.push((placement.table.pfn(), mark));
        });
        marks.sort_unstable();
        let frames: Vec<u8> = marks
            .chunk_by(|(one, _), (other, _)| one == other)
            .map(|ways| ways.iter().fold(0, |marks, (_, mark)| marks | mark))
            .collect();
        let count = |bits: u8| frames.iter().filter(|&&mark| mark & bits == bits).count();
        TableFrames {
            total: frames.len(),
            roots: count(ROOT),
            kernel_half: count(KERNEL),
            user_half: count(USER),
            both_halves: count(USER | KERNEL),
        }
    }

    /// The entries, in all address spaces, that point to the table in frame `pfn` as used at
    /// `level`, missing tables included. Found for all tables at the first call.
    pub fn parents(&self, pfn: Pfn, level: Level) -> &[Parent] {
        let index = self.parents_index().get_or_init(|| {
            let mut parents: HashMap<Slot, Vec<Parent>> = HashMap::new();
            for table in self.tables() {
                for (index, below) in table.indexed_links() {
                    parents.entry(below).or_default().push(Parent {
                        table: table.pfn(),
                        level: table.level(),
                        index,
                    });
                }
            }
            parents
        });
        self.slot_of(pfn, level)
            .and_then(|slot| index.get(&slot))
            .map_or(&[], Vec::as_slice)
    }
}
