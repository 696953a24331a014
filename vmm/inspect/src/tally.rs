//! How many pages tables map, without looking at each: what stands below a table that is used at many
//! places is counted once and multiplied. Tables that claim 2^36 pages with a few frames cost no more
//! than others.

use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Decoded;
use heirloom_paging::level::{Half, Level};
use heirloom_paging::rights::Rights;

/// What is below one table, or one half of a root. Sums stay at `u64::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages that ring 3 can access.
    pub user: u64,
    /// Pages that it cannot.
    pub supervisor: u64,
    /// Present entries that a walk through all of it passes.
    pub entries: u64,
}

impl Tally {
    /// Pages of both kinds.
    pub const fn pages(&self) -> u64 {
        self.user.saturating_add(self.supervisor)
    }

    fn add(&mut self, other: Tally) {
        self.user = self.user.saturating_add(other.user);
        self.supervisor = self.supervisor.saturating_add(other.supervisor);
        self.entries = self.entries.saturating_add(other.entries);
    }
}

/// Counts, and remembers what it has counted.
#[derive(Debug)]
pub struct Tallier<'s> {
    snapshot: &'s Snapshot,
    /// By slot: where ring 3 has not been shut out above, and where it has.
    known: Vec<[Option<Tally>; 2]>,
}

impl<'s> Tallier<'s> {
    /// Counts in `snapshot`.
    pub fn new(snapshot: &'s Snapshot) -> Self {
        Tallier {
            snapshot,
            known: vec![[None; 2]; snapshot.slots()],
        }
    }

    /// What one half of an address space maps.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn count(&mut self, root: RootId, half: Half) -> Tally {
        let Some(table) = self.snapshot.root_table(root) else {
            return Tally::default();
        };
        let indices = half.indices();
        self.sum(table, indices.start, indices.end, Rights::ALL)
    }

    /// What an address space maps below these entries of its root.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn count_entries(&mut self, root: RootId, entries: &EntrySet) -> Tally {
        let mut sum = Tally::default();
        if let Some(table) = self.snapshot.root_table(root) {
            for index in entries.iter() {
                sum.add(self.sum(table, index, index + 1, Rights::ALL));
            }
        }
        sum
    }

    /// Whether pages are mapped below a table, and none of them is for ring 3.
    pub(crate) fn maps_for_ring_0_alone(&mut self, slot: Slot) -> bool {
        let pages = self.below(slot, Rights::ALL);
        pages.user == 0 && pages.supervisor > 0
    }

    /// Counts below entries `first` to `end`. Recurses one level down at a time, so at most five deep.
    fn sum(&mut self, table: &Table, first: u16, end: u16, rights: Rights) -> Tally {
        let mut sum = Tally::default();
        let mut next = first;
        while let Some(index) = table.present().next_from(next).filter(|index| *index < end) {
            next = index + 1;
            sum.entries = sum.entries.saturating_add(1);
            let rights = rights.through(table.entry(index));
            match table.decode(index) {
                Decoded::Leaf(_) if rights.user => sum.user = sum.user.saturating_add(1),
                Decoded::Leaf(_) => sum.supervisor = sum.supervisor.saturating_add(1),
                Decoded::Table(_) => {
                    if let Some(slot) = table.link(index) {
                        sum.add(self.below(slot, rights));
                    }
                }
                Decoded::Absent | Decoded::Reserved { .. } => {}
            }
        }
        sum
    }

    fn below(&mut self, slot: Slot, rights: Rights) -> Tally {
        let which = usize::from(!rights.user);
        if let Some(known) = self.known.get(slot.index()).and_then(|known| known[which]) {
            return known;
        }
        let Some(table) = self.snapshot.table_at(slot) else {
            return Tally::default();
        };
        debug_assert!(table.level() != Level::Pml5);
        let sum = self.sum(table, 0, 512, rights);
        if let Some(known) = self.known.get_mut(slot.index()) {
            known[which] = Some(sum);
        }
        sum
    }
}
