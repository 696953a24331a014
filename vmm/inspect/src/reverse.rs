//! From a physical address back to all virtual addresses that reach it.

use std::sync::Arc;

use serde::Serialize;

use crate::leaves::Mapping;
use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::{PhysAddr, VirtAddr};
use heirloom_paging::entry::{Decoded, Leaf};
use heirloom_paging::level::Half;
use heirloom_paging::rights::Rights;

/// Pages that are listed, with all that have them counted: tables can claim 2^36 pages with one frame.
const MOST_LISTED: usize = 1 << 20;

/// All virtual addresses that reach a physical one.
#[derive(Clone, Debug)]
pub struct Reverse {
    /// Ascending in the kernel half, then in the user half. What address spaces share by the same
    /// top-level entry comes once.
    pub reached: Vec<Reached>,
    /// There are absurdly many, and not all are listed.
    pub is_cut: bool,
}

/// A page through which a physical address is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// The virtual address of the very byte.
    pub va: VirtAddr,
    /// The page it is in.
    pub mapping: Mapping,
    /// The address spaces that have the page there, by the same top-level entry.
    #[serde(skip)]
    pub roots: Arc<[RootId]>,
}

impl Snapshot {
    /// Every virtual address, in every address space, that reaches the byte at `pa`.
    pub fn reverse(&self, pa: PhysAddr) -> Reverse {
        let mut search = Search {
            snapshot: self,
            pa,
            leads: vec![None; self.slots()],
            room: MOST_LISTED,
            found: Reverse {
                reached: Vec::new(),
                is_cut: false,
            },
        };
        for half in [Half::Kernel, Half::User] {
            for subtree in self.subtrees(half) {
                if let Some(table) = self.root_table(subtree.roots[0]) {
                    let roots: Arc<[RootId]> = subtree.roots.into();
                    let start = VirtAddr::new(0);
                    search.follow(table, subtree.index, start, Rights::ALL, &roots);
                }
            }
        }
        search.found
    }
}

/// The way down, into those tables only that lead to the address.
struct Search<'s> {
    snapshot: &'s Snapshot,
    pa: PhysAddr,
    /// By slot: whether the table leads there.
    leads: Vec<Option<bool>>,
    room: usize,
    found: Reverse,
}

impl Search<'_> {
    /// Follows one entry of a table whose first address is `base`, at most five deep.
    fn follow(
        &mut self,
        table: &Table,
        index: u16,
        base: VirtAddr,
        rights: Rights,
        roots: &Arc<[RootId]>,
    ) {
        let depth = self.snapshot.mode().depth;
        let offset = u64::from(index) << table.level().shift();
        let va = VirtAddr::sign_extended(base.get().wrapping_add(offset), depth);
        let entry = table.entry(index);
        let rights = rights.through(entry);
        match table.decode(index) {
            Decoded::Leaf(leaf) => {
                let Some(offset) = offset_in(leaf, self.pa) else {
                    return;
                };
                let Some(room) = self.room.checked_sub(1 + roots.len()) else {
                    self.found.is_cut = true;
                    return;
                };
                self.room = room;
                self.found.reached.push(Reached {
                    va: va.wrapping_add(offset),
                    mapping: Mapping {
                        va,
                        pa: leaf.pa,
                        size: leaf.size,
                        rights,
                        global: entry.global(),
                        accessed: entry.accessed(),
                        dirty: entry.dirty(),
                        entry,
                        table: table.pfn(),
                        index,
                    },
                    roots: Arc::clone(roots),
                });
            }
            Decoded::Table(_) => {
                let Some(slot) = table.link(index).filter(|slot| self.leads_there(*slot)) else {
                    return;
                };
                if let Some(below) = self.snapshot.table_at(slot) {
                    for index in below.present().iter() {
                        if self.found.is_cut {
                            return;
                        }
                        self.follow(below, index, va, rights, roots);
                    }
                }
            }
            Decoded::Absent | Decoded::Reserved { .. } => {}
        }
    }

    /// Whether any page below the table in `slot` has the address; found once for each table.
    fn leads_there(&mut self, slot: Slot) -> bool {
        if let Some(known) = self.leads[slot.index()] {
            return known;
        }
        let leads = self.snapshot.table_at(slot).is_some_and(|table| {
            table
                .present()
                .iter()
                .any(|index| match table.decode(index) {
                    Decoded::Leaf(leaf) => offset_in(leaf, self.pa).is_some(),
                    Decoded::Table(_) => table
                        .link(index)
                        .is_some_and(|below| self.leads_there(below)),
                    Decoded::Absent | Decoded::Reserved { .. } => false,
                })
        });
        self.leads[slot.index()] = Some(leads);
        leads
    }
}

/// Where in a page an address is, if it is there.
fn offset_in(leaf: Leaf, pa: PhysAddr) -> Option<u64> {
    let offset = pa.get().checked_sub(leaf.pa.get())?;
    (offset < leaf.size.bytes()).then_some(offset)
}
