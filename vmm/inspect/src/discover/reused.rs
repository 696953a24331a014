//! Tables whose frames have been used for something else since.
//!
//! A kernel that frees an address space mostly leaves the root in memory, and its frames go to whoever asks next:
//! what stood in a table becomes text, or a pattern that the kernel fills free memory with. Read as a
//! table, that is full of entries that no kernel writes. Or it becomes another root: that has sound entries, but the
//! kernel's, which are in no table below a root.

use std::collections::HashSet;

use super::Kind;
use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::Pfn;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::Decoded;

/// Entries that are passed at most, in all roots together.
const MAX_ENTRIES: u32 = 1 << 24;
/// Of a table with fewer entries nothing is concluded: one wrong entry is a mistake, and no other use.
const LEAST_ENTRIES: usize = 4;

/// Where MAXPHYADDR is not known: RAM and devices of no machine are from here on.
const NO_ADDRESS: u64 = 1 << 46;

/// Looks for such tables.
pub(super) struct Reused<'s> {
    snapshot: &'s Snapshot,
    /// By slot: what the reference reaches by its part of the kernel.
    shared: Vec<bool>,
    /// Where the reference has the kernel's tables, and their frames.
    kernel: Vec<(u16, Pfn)>,
    /// The frames of all roots.
    roots: HashSet<Pfn>,
    /// By slot, and whether ring 3 gets there: the last root that was seen to have it, by its place among those asked for.
    seen: Vec<[u32; 2]>,
    asked: u32,
    entries_left: u32,
}

/// What was found below a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Tables that are none any more.
    pub(super) reused: u32,
    /// So many of them are other roots.
    pub(super) roots: u32,
    /// Pages for ring 3 that are reached by none of them.
    pub(super) user_pages: u32,
}

impl<'s> Reused<'s> {
    /// `kernel`: the entries of the reference that are the kernel's.
    pub(super) fn new(snapshot: &'s Snapshot, reference: Option<(RootId, EntrySet)>) -> Self {
        let mut reused = Reused {
            snapshot,
            shared: vec![false; snapshot.slots()],
            kernel: Vec::new(),
            roots: HashSet::new(),
            seen: vec![[0; 2]; snapshot.slots()],
            asked: 0,
            entries_left: MAX_ENTRIES,
        };
        if let Some((root, kernel)) = reference
            && let Some(table) = snapshot.root_table(root)
        {
            let roots = snapshot.roots().iter();
            reused.roots = roots.map(|root| root.address.pfn()).collect();
            let mut pending: Vec<Slot> = Vec::new();
            for (index, slot) in table.indexed_links() {
                if kernel.contains(index) {
                    reused
                        .kernel
                        .push((index, frame_in(snapshot, table, index)));
                    pending.push(slot);
                }
            }
            while let Some(slot) = pending.pop() {
                if !std::mem::replace(&mut reused.shared[slot.index()], true)
                    && let Some(table) = snapshot.table_at(slot)
                {
                    pending.extend(table.links());
                }
            }
        }
        reused
    }

    /// What is below these entries of a root and not the reference's.
    pub(super) fn below(&mut self, root: RootId, part: &EntrySet) -> Found {
        let mut found = Found::default();
        let Some(table) = self.snapshot.root_table(root) else {
            return found;
        };
        self.asked += 1;
        let mut pending: Vec<(Slot, bool)> = table
            .indexed_links()
            .filter(|(index, _)| part.contains(*index))
            .map(|(index, slot)| (slot, table.entry(index).user()))
            .collect();
        while let Some((slot, user)) = pending.pop() {
            let seen = &mut self.seen[slot.index()][usize::from(user)];
            if self.shared[slot.index()] || std::mem::replace(seen, self.asked) == self.asked {
                continue;
            }
            let Some(table) = self.snapshot.table_at(slot) else {
                continue;
            };
            let entries = u32::try_from(table.present().len()).unwrap_or(u32::MAX);
            let Some(left) = self.entries_left.checked_sub(entries) else {
                return found;
            };
            self.entries_left = left;
            let is_another_root = self.roots.contains(&table.pfn()) && self.is_root(root, table);
            if is_another_root || is_reused(self.snapshot, table) {
                found.reused += 1;
                found.roots += u32::from(is_another_root);
                continue;
            }
            for (index, entry) in table.entries() {
                let user = user && entry.user();
                match (table.decode(index), table.link(index)) {
                    (Decoded::Leaf(_), _) => found.user_pages += u32::from(user),
                    (Decoded::Table(_), Some(below)) => pending.push((below, user)),
                    _ => {}
                }
            }
        }
        found
    }

    /// Whether a table, whose frame is a root's, is that of another root than `root`: it has the kernel's entries.
    fn is_root(&self, root: RootId, table: &Table) -> bool {
        let own = self.snapshot.root(root).address.pfn();
        let has_all = self.kernel.iter().all(|(index, frame)| {
            table.entry(*index).present() && frame_in(self.snapshot, table, *index) == *frame
        });
        table.pfn() != own && !self.kernel.is_empty() && has_all
    }
}

/// Where an entry of a table leads.
fn frame_in(snapshot: &Snapshot, table: &Table, index: u16) -> Pfn {
    table.entry(index).address_in(snapshot.mode()).pfn()
}

/// So many freed roots whose tables have become other roots show that the kernel gives tables back as they are.
const MANY_FREED: usize = 3;

/// Whether the kernel gives tables back as they are, as those roots show that have been freed for sure: then others
/// that lead to roots have been, too, even if pages are left to them. `all`: what is below each user half, and what
/// the root is for.
pub(super) fn leaves_tables(all: impl Iterator<Item = (Found, Kind)>) -> bool {
    let freed = all.filter(|(found, kind)| *kind == Kind::Freed && found.roots > 0);
    freed.count() >= MANY_FREED
}

impl Found {
    /// What tells that a root, which nobody says to live, has been freed by a kernel that gives tables back as they
    /// are.
    pub(super) fn leads_to_roots(self) -> Option<String> {
        match self.roots {
            0 => None,
            1 => Some(
                "1 table below its user half is another root now, as below other freed roots"
                    .into(),
            ),
            roots => Some(format!(
                "{roots} tables below its user half are other roots now, as below other freed roots"
            )),
        }
    }
}

/// Whether most entries of a table are none that a kernel writes.
fn is_reused(snapshot: &Snapshot, table: &Table) -> bool {
    let mut odd = 0;
    let mut all = 0;
    for (index, _) in table.entries() {
        all += 1;
        odd += usize::from(match table.decode(index) {
            Decoded::Reserved { .. } => true,
            Decoded::Table(_) => snapshot.leads_nowhere(table, index),
            Decoded::Leaf(leaf) => leaf.pa.get() >= NO_ADDRESS,
            Decoded::Absent => false,
        });
    }
    all >= LEAST_ENTRIES && 2 * odd > all
}
