//! How many pages tables map, without looking at each: what stands below a table that is used at many
//! places is counted once and multiplied. Tables that claim 2^36 pages with a few frames cost no more
//! than others.

use crate::snapshot::{RootId, Snapshot};
use crate::table::Slot;
use crate::traverse::{Fold, Folder, entries_of};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Leaf;
use heirloom_paging::level::Half;

/// What is below one table, or one half of a root. Sums stay at `u64::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages that ring 3 can access.
    pub user: u64,
    /// Pages that it cannot.
    pub supervisor: u64,
    /// What all of them map.
    pub bytes: u64,
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
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.entries = self.entries.saturating_add(other.entries);
    }
}

/// Adds up what entries come to.
#[derive(Debug)]
struct Count;

impl Fold for Count {
    type Found = Tally;

    fn leaf(&self, found: &mut Tally, leaf: Leaf, user: bool) {
        found.bytes = found.bytes.saturating_add(leaf.size.bytes());
        let pages = if user {
            &mut found.user
        } else {
            &mut found.supervisor
        };
        *pages = pages.saturating_add(1);
    }

    fn table(&self, found: &mut Tally, below: Tally) {
        found.add(below);
    }

    fn entry(&self, found: &mut Tally) {
        found.entries = found.entries.saturating_add(1);
    }
}

/// Counts, and remembers what it has counted.
#[derive(Debug)]
pub struct Tallier<'s>(Folder<'s, Count>);

impl<'s> Tallier<'s> {
    /// Counts in `snapshot`.
    pub fn new(snapshot: &'s Snapshot) -> Self {
        Tallier(Folder::new(snapshot, Count))
    }

    /// What one half of an address space maps.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn count(&mut self, root: RootId, half: Half) -> Tally {
        self.count_entries(root, &entries_of(half))
    }

    /// What an address space maps below these entries of its root.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn count_entries(&mut self, root: RootId, entries: &EntrySet) -> Tally {
        match self.0.snapshot().root_table(root) {
            Some(table) => self.0.entries(table, entries, true),
            None => Tally::default(),
        }
    }

    /// What is below a table to which the entries above let ring 3 through.
    pub(crate) fn below(&mut self, slot: Slot) -> Tally {
        self.0.below(slot, true)
    }
}
