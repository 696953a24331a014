//! Who shares what: every subtree and every table once, however many address spaces have it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slotted;
use std::sync::Arc;

use serde::Serialize;

use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::{Pfn, VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::{Half, Level};
use heirloom_paging::rights::Rights;

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

/// A table where a walk may pass: once for each half, level and set of rights with which it is
/// reached. What is judged here is judged for every address space.
#[derive(Clone, Debug)]
pub struct Placement<'s> {
    pub table: &'s Arc<Table>,
    pub half: Half,
    /// What the entries above allow together.
    pub rights: Rights,
    /// One of the address spaces that reach it so …
    pub root: RootId,
    /// … and the first address that it translates there.
    pub base: VirtAddr,
    snapshot: &'s Snapshot,
    /// Which entries of the root belong to `half`.
    part: EntrySet,
}

/// One present entry of a [`Placement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlacedEntry {
    pub index: u16,
    pub entry: Entry,
    pub decoded: Decoded,
    /// The first address that it translates.
    pub va: VirtAddr,
    /// What this entry and those above allow together.
    pub rights: Rights,
}

impl<'s> Placement<'s> {
    /// A root table, of which one half counts.
    pub(crate) fn of_root(
        snapshot: &'s Snapshot,
        table: &'s Arc<Table>,
        (half, part): (Half, EntrySet),
        root: RootId,
    ) -> Self {
        let place = (root, VirtAddr::new(0));
        Placement {
            part,
            ..Placement::new(snapshot, table, (half, Rights::ALL), place)
        }
    }

    /// A table that is reached in an address space, with these rights.
    pub(crate) fn new(
        snapshot: &'s Snapshot,
        table: &'s Arc<Table>,
        (half, rights): (Half, Rights),
        (root, base): (RootId, VirtAddr),
    ) -> Self {
        Placement {
            table,
            half,
            rights,
            root,
            base,
            snapshot,
            part: EntrySet::default(),
        }
    }
}

impl Placement<'_> {
    /// The present entries; of a root, those that belong to the placement's half.
    pub fn entries(&self) -> impl Iterator<Item = PlacedEntry> {
        let depth = self.snapshot.mode().depth;
        let level = self.table.level();
        let is_root = level == depth.top();
        self.table
            .entries()
            .filter(move |(index, _)| !is_root || self.part.contains(*index))
            .map(move |(index, entry)| {
                let offset = u64::from(index) << level.shift();
                PlacedEntry {
                    index,
                    entry,
                    decoded: self.table.decode(index),
                    va: VirtAddr::sign_extended(self.base.get().wrapping_add(offset), depth),
                    rights: self.rights.through(entry),
                }
            })
    }
}

/// An entry that points to some table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Parent {
    pub table: Pfn,
    pub level: Level,
    pub index: u16,
}

/// How many frames hold tables; a frame counts once, at however many levels it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct TableFrames {
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
        let parts = [Half::Kernel, Half::User].map(|half| {
            let mut part = EntrySet::default();
            half.indices().for_each(|index| part.insert(index));
            part
        });
        self.placements_split(roots.into_iter().map(|root| (root, parts)))
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
        let mut seen = vec![0u16; self.slots()];
        let mut placements = Vec::new();
        let mut pending = Vec::new();
        for (root, [kernel, user]) in roots {
            let root = self.root(root);
            for half in [Half::Kernel, Half::User] {
                if let Some(slot) = root.slot {
                    pending.push((slot, half, Rights::ALL, root.id, VirtAddr::new(0)));
                }
            }
            while let Some((slot, half, rights, root, base)) = pending.pop() {
                let bit = 1 << (rights.number() + 8 * u32::from(half == Half::Kernel));
                let mark = &mut seen[slot.index()];
                let Some(table) = self.table_at(slot).filter(|_| *mark & bit == 0) else {
                    continue;
                };
                *mark |= bit;
                let placement = Placement {
                    table,
                    half,
                    rights,
                    root,
                    base,
                    snapshot: self,
                    part: match half {
                        Half::Kernel => kernel,
                        Half::User => user,
                    },
                };
                for placed in placement.entries() {
                    if let Some(below) = table.link(placed.index) {
                        pending.push((below, half, placed.rights, root, placed.va));
                    }
                }
                placements.push(placement);
            }
        }
        placements
    }

    /// Counts the frames that hold tables, by half.
    pub fn table_frames(&self) -> TableFrames {
        const ROOT: u8 = 1;
        const USER: u8 = 2;
        const KERNEL: u8 = 4;
        let mut marks = vec![0u8; self.slots()];
        let mut pending: Vec<(Slot, u8)> = Vec::new();
        for root in self.roots() {
            let Some((slot, table)) = root
                .slot
                .and_then(|slot| Some((slot, self.table_at(slot)?)))
            else {
                continue;
            };
            if marks[slot.index()] & ROOT != 0 {
                continue;
            }
            marks[slot.index()] |= ROOT;
            pending.extend(table.indexed_links().map(|(index, below)| {
                let half = match Half::of_index(index) {
                    Half::User => USER,
                    Half::Kernel => KERNEL,
                };
                (below, half)
            }));
            while let Some((slot, half)) = pending.pop() {
                if marks[slot.index()] & half != 0 {
                    continue;
                }
                marks[slot.index()] |= half;
                if let Some(table) = self.table_at(slot) {
                    pending.extend(table.links().map(|below| (below, half)));
                }
            }
        }
        let mut frames: HashMap<Pfn, u8> = HashMap::new();
        for (slot, table) in self.slotted_tables() {
            *frames.entry(table.pfn()).or_default() |= marks[slot.index()];
        }
        let count = |bits: u8| frames.values().filter(|&&mark| mark & bits == bits).count();
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
