//! Every table once for each way to reach it, however many address spaces share it.

use std::sync::Arc;

use super::{Place, PlacedEntry};
use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::VirtAddr;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::{Depth, Half};
use heirloom_paging::rights::Rights;

/// A table where a walk may pass: once for each half, level and set of rights with which it is
/// reached. What is judged here is judged for every address space.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'s> {
    /// The table.
    pub table: &'s Arc<Table>,
    /// The half from which it is reached.
    pub half: Half,
    /// What the entries above allow together.
    pub rights: Rights,
    /// One of the address spaces that reach it so …
    pub root: RootId,
    /// … and the first address that it translates there.
    pub base: VirtAddr,
    /// The entries that count: of a root, those that belong to `half`.
    entries: EntrySet,
    depth: Depth,
}

impl<'s> Placement<'s> {
    /// A root table, of which these entries of one half count.
    pub(crate) fn of_root(
        snapshot: &Snapshot,
        table: &'s Arc<Table>,
        (half, part): (Half, EntrySet),
        root: RootId,
    ) -> Self {
        let place = (root, VirtAddr::new(0));
        Placement {
            entries: table.present().intersection(&part),
            ..Placement::new(snapshot, table, (half, Rights::ALL), place)
        }
    }

    /// A table that is reached in an address space, with these rights.
    pub(crate) fn new(
        snapshot: &Snapshot,
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
            entries: table.present(),
            depth: snapshot.mode().depth,
        }
    }
}

impl Placement<'_> {
    /// The present entries; of a root, those that belong to the placement's half.
    pub fn entries(&self) -> impl Iterator<Item = PlacedEntry> {
        let place = Place {
            table: self.table,
            base: self.base,
            rights: self.rights,
        };
        let indices = self.entries.iter();
        indices.map(move |index| place.entry(index, self.depth))
    }
}

/// What makes two ways to the same table different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ways {
    /// The half from which it is reached.
    ByHalf,
    /// And the rights that the entries above leave.
    ByHalfAndRights,
}

impl Snapshot {
    /// Calls `visit` for every table that these roots reach, once for each way, with the first root that
    /// reaches it so. A root comes with those of its entries that are the kernel's and those that are a
    /// process's, once for each.
    ///
    /// # Panics
    /// If a root comes from another snapshot that has more roots.
    pub(crate) fn visit_tables<'s>(
        &'s self,
        roots: impl IntoIterator<Item = (RootId, [EntrySet; 2])>,
        ways: Ways,
        mut visit: impl FnMut(Placement<'s>),
    ) {
        let depth = self.mode().depth;
        let mut seen = vec![0u16; self.slots()];
        let mut pending: Vec<(Slot, VirtAddr, Rights, Half)> = Vec::new();
        for (root, [kernel, user]) in roots {
            if let Some(slot) = self.root(root).slot {
                for half in [Half::Kernel, Half::User] {
                    pending.push((slot, VirtAddr::new(0), Rights::ALL, half));
                }
            }
            while let Some((slot, base, rights, half)) = pending.pop() {
                let number = match ways {
                    Ways::ByHalf => 0,
                    Ways::ByHalfAndRights => rights.number(),
                };
                let bit = 1 << (number + 8 * u32::from(half == Half::Kernel));
                let mark = &mut seen[slot.index()];
                let Some(table) = self.table_at(slot).filter(|_| *mark & bit == 0) else {
                    continue;
                };
                if !self.budget().pay(table.present().len() as u64) {
                    return;
                }
                *mark |= bit;
                let (present, pointers) = if table.level() == depth.top() {
                    let part = match half {
                        Half::Kernel => &kernel,
                        Half::User => &user,
                    };
                    let [present, pointers] = [table.present(), table.pointers()];
                    (present.intersection(part), pointers.intersection(part))
                } else {
                    (table.present(), table.pointers())
                };
                let place = Place {
                    table,
                    base,
                    rights,
                };
                for index in pointers.iter() {
                    if let Some(below) = table.link(index) {
                        let va = place.va(index, depth);
                        let rights = rights.through(table.entry(index));
                        pending.push((below, va, rights, half));
                    }
                }
                visit(Placement {
                    table,
                    half,
                    rights,
                    root,
                    base,
                    entries: present,
                    depth,
                });
            }
        }
    }
}

/// The entries of a root that are the kernel's, and those that are a process's, as the CPU has it.
pub(crate) const HALVES: [EntrySet; 2] = [entries_of(Half::Kernel), entries_of(Half::User)];

pub(crate) const fn entries_of(half: Half) -> EntrySet {
    let mut part = EntrySet::EMPTY;
    let indices = half.indices();
    let mut index = indices.start;
    while index < indices.end {
        part.insert(index);
        index += 1;
    }
    part
}
