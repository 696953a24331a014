//! What an address space maps: every leaf with its effective rights, in address order.

use serde::Serialize;

use crate::snapshot::{RootId, Snapshot};
use crate::table::Table;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::PageSize;
use heirloom_paging::rights::Rights;

/// One page of an address space. The whole path to it is [`Snapshot::translate`] of `va`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// The page's first byte.
    pub va: VirtAddr,
    /// Where it is.
    pub pa: PhysAddr,
    pub size: PageSize,
    /// What all entries of the walk allow together.
    pub rights: Rights,
    /// The leaf has G.
    pub global: bool,
    /// The leaf has A.
    pub accessed: bool,
    /// The leaf has D.
    pub dirty: bool,
    /// The leaf itself, and where it stands.
    pub entry: Entry,
    pub table: Pfn,
    pub index: u16,
}

impl Mapping {
    /// The page's addresses.
    pub fn range(&self) -> VirtRange {
        VirtRange {
            first: self.va,
            last: self.va.wrapping_add(self.size.bytes() - 1),
        }
    }
}

/// Entries that [`Leaves`] looks at before it stops: enough for 256 GiB in 4 KiB pages. Tables
/// that point to themselves can claim 2^36 pages with a single frame.
pub const STEP_LIMIT: u32 = 1 << 26;

/// Iterator over the leaves of an address space, ascending: [`Snapshot::leaves`].
#[derive(Clone, Debug)]
pub struct Leaves<'s> {
    snapshot: &'s Snapshot,
    range: VirtRange,
    stack: Vec<Visit<'s>>,
    steps_left: u32,
    stopped_at: Option<VirtAddr>,
}

/// A table on the way to the present leaf.
#[derive(Clone, Debug)]
struct Visit<'s> {
    table: &'s Table,
    /// What the table's first entry translates.
    base: VirtAddr,
    rights: Rights,
    next: u16,
}

impl Snapshot {
    /// The leaves of address space `root` that map at least one address of `range`.
    ///
    /// The iterator looks at no more than [`STEP_LIMIT`] entries; [`Leaves::stopped_at`] tells
    /// whether that cut it short.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn leaves(&self, root: RootId, range: VirtRange) -> Leaves<'_> {
        let mut leaves = Leaves {
            snapshot: self,
            range,
            stack: Vec::with_capacity(5),
            steps_left: STEP_LIMIT,
            stopped_at: None,
        };
        if let Some(table) = self.root_table(root) {
            leaves.stack.push(Visit {
                table,
                base: VirtAddr::new(0),
                rights: Rights::ALL,
                next: 0,
            });
        }
        leaves
    }
}

impl<'s> Leaves<'s> {
    /// The address from which on leaves may be missing, because the tables claim absurdly many.
    pub fn stopped_at(&self) -> Option<VirtAddr> {
        self.stopped_at
    }

    /// Looks at no more than `steps` entries.
    #[must_use]
    pub(crate) fn limited(mut self, steps: u32) -> Self {
        self.steps_left = steps.min(STEP_LIMIT);
        self
    }

    /// Entries that may still be looked at.
    pub(crate) fn steps_left(&self) -> u32 {
        self.steps_left
    }

    /// Goes one table down.
    fn descend(&mut self, table: &'s Table, base: VirtAddr, rights: Rights) {
        let skip = self.range.first.get().saturating_sub(base.get()) >> table.level().shift();
        self.stack.push(Visit {
            table,
            base,
            rights,
            // Nothing to see in a table that ends before the range begins.
            next: u16::try_from(skip).unwrap_or(512).min(512),
        });
    }
}

impl Iterator for Leaves<'_> {
    type Item = Mapping;

    fn next(&mut self) -> Option<Mapping> {
        loop {
            let visit = self.stack.last_mut()?;
            let Some(index) = visit.table.present().next_from(visit.next) else {
                self.stack.pop();
                continue;
            };
            visit.next = index + 1;
            let (table, rights) = (visit.table, visit.rights);
            let level = table.level();
            let offset = u64::from(index) << level.shift();
            let depth = self.snapshot.mode().depth;
            let va = VirtAddr::sign_extended(visit.base.get().wrapping_add(offset), depth);
            if va > self.range.last {
                // Addresses only ascend.
                self.stack.clear();
                return None;
            }
            if va.wrapping_add(level.entry_span() - 1) < self.range.first {
                continue;
            }
            if self.steps_left == 0 {
                self.stopped_at = Some(va);
                self.stack.clear();
                return None;
            }
            self.steps_left -= 1;
            let entry = table.entry(index);
            let rights = rights.through(entry);
            match table.decode(index) {
                Decoded::Leaf(leaf) => {
                    return Some(Mapping {
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
                    });
                }
                Decoded::Table(_) => {
                    if let Some(below) = self.snapshot.child(table, index) {
                        self.descend(below, va, rights);
                    }
                }
                Decoded::Absent | Decoded::Reserved { .. } => {}
            }
        }
    }
}

impl std::iter::FusedIterator for Leaves<'_> {}
