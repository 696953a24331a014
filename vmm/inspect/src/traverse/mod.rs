//! Going through tables, once for every purpose. Whoever wants to know something of an address space
//! says what to make of an entry; how to descend, with which rights, and where to stop, stands here.
//!
//! - [`Snapshot::traverse`]: one address space, entry by entry, in the order of addresses, without what
//!   the caller skips. Listing pages is this, and nothing but leaves.
//! - [`Snapshot::placements`]: every table once for each way to reach it, however
//!   many address spaces share it.
//! - `Folder`: something that is true of all that is below a table, found once for each table: how many
//!   pages it has, whether one of them is at some address.
//!
//! Only [`crate::Comparer`] goes its own way, through two address spaces in step.
//!
//! Entries lead strictly down a level, so none of these goes deeper than five tables, whatever the tables
//! are. Frames that point to themselves can still claim 2^36 pages: the first stops after a number of
//! entries, the other two look at each table once.

mod fold;
mod placement;

use std::sync::Arc;

use serde::Serialize;

use crate::snapshot::{RootId, Snapshot};
use crate::table::Table;
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::Depth;
use heirloom_paging::rights::Rights;

pub(crate) use fold::{Fold, Folder};
pub use placement::Placement;
pub(crate) use placement::{HALVES, Ways, entries_of};

/// Entries that a traversal looks at before it stops: enough for 256 GiB in 4 KiB pages. Tables
/// that point to themselves can claim 2^36 pages with a single frame.
pub const STEP_LIMIT: u32 = 1 << 26;
/// Of these, how many a traversal pays for at first, and at most, before it asks the budget again.
const FIRST_PAID: u32 = 32;
const MAX_PAID: u32 = 1 << 12;

/// One present entry where a walk passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlacedEntry {
    /// Its index in the table.
    pub index: u16,
    /// The entry as it stands in memory.
    pub entry: Entry,
    /// What the CPU makes of it at this level.
    pub decoded: Decoded,
    /// The first address that it translates.
    pub va: VirtAddr,
    /// What this entry and those above allow together.
    pub rights: Rights,
}

/// A table where a walk has come to: what is needed to say what its entries translate.
#[derive(Clone, Copy, Debug)]
struct Place<'s> {
    table: &'s Arc<Table>,
    /// The first address that the table translates.
    base: VirtAddr,
    /// What the entries above allow together.
    rights: Rights,
}

impl Place<'_> {
    /// The first address that entry `index` translates, in a walk of this depth.
    #[inline]
    fn va(&self, index: u16, depth: Depth) -> VirtAddr {
        let offset = u64::from(index) << self.table.level().shift();
        VirtAddr::sign_extended(self.base.get().wrapping_add(offset), depth)
    }

    /// Entry `index`, in a walk of this depth.
    #[inline]
    fn entry(&self, index: u16, depth: Depth) -> PlacedEntry {
        let entry = self.table.entry(index);
        PlacedEntry {
            index,
            entry,
            decoded: self.table.decode(index),
            va: self.va(index, depth),
            rights: self.rights.through(entry),
        }
    }
}

/// An entry on the way, with the table that it stands in.
#[derive(Clone, Copy, Debug)]
pub struct Visited<'s> {
    /// The table that the entry stands in.
    pub table: &'s Arc<Table>,
    /// The entry, and where it leads.
    pub at: PlacedEntry,
}

/// Iterator over the present entries of an address space, ascending, each before those below it:
/// [`Snapshot::traverse`].
///
/// ```
/// # use heirloom_inspect::{Capturer, Decoded, Depth, Mode, RootLabel, VirtRange};
/// # let memory = heirloom_inspect::testing::FakeMemory::new();
/// # let root = heirloom_inspect::PhysAddr::new(0x1000);
/// let roots = [(RootLabel::Kernel, root)];
/// let snapshot = Capturer::new().capture(&memory, Mode::typical(Depth::Four), &roots);
/// let mut entries = snapshot.traverse(snapshot.roots()[0].id, VirtRange::ALL);
/// while let Some(visited) = entries.next() {
///     match visited.at.decoded {
///         Decoded::Leaf(leaf) => println!("{} → {} {}", visited.at.va, leaf.pa, visited.at.rights),
///         // What ring 3 cannot reach is of no interest here.
///         _ if !visited.at.rights.user => entries.skip_below(),
///         _ => {}
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Traversal<'s> {
    snapshot: &'s Snapshot,
    depth: Depth,
    range: VirtRange,
    stack: Vec<(Place<'s>, u16)>,
    /// The entry that came last leads to a table, which comes next.
    descends: bool,
    /// Entries that are paid for, that are paid for next, and that may come at all.
    paid: u32,
    next_paid: u32,
    steps_left: u32,
    /// Its caller has set how many, and asks whether they were enough.
    is_limited: bool,
    stopped_at: Option<VirtAddr>,
}

impl Snapshot {
    /// The present entries of address space `root` that translate at least one address of `range`, of
    /// every level, ascending.
    ///
    /// The iterator looks at no more than [`STEP_LIMIT`] entries; [`Traversal::stopped_at`] tells
    /// whether that cut it short.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn traverse(&self, root: RootId, range: VirtRange) -> Traversal<'_> {
        let mut traversal = Traversal {
            snapshot: self,
            depth: self.mode().depth,
            range,
            stack: Vec::with_capacity(5),
            descends: false,
            paid: 0,
            next_paid: FIRST_PAID,
            steps_left: STEP_LIMIT,
            is_limited: false,
            stopped_at: None,
        };
        if let Some(table) = self.root_table(root) {
            traversal.enter(Place {
                table,
                base: VirtAddr::new(0),
                rights: Rights::ALL,
            });
        }
        traversal
    }
}

impl<'s> Traversal<'s> {
    /// Leaves out what is below the entry that came last.
    pub fn skip_below(&mut self) {
        self.descends = false;
    }

    /// The address from which on entries may be missing, because the tables claim absurdly many.
    pub fn stopped_at(&self) -> Option<VirtAddr> {
        self.stopped_at
    }

    /// Looks at no more than `steps` entries.
    #[must_use]
    pub(crate) fn limited(mut self, steps: u32) -> Self {
        self.steps_left = steps.min(STEP_LIMIT);
        self.paid = 0;
        self.is_limited = true;
        self
    }

    /// Entries that may still be looked at.
    pub(crate) fn steps_left(&self) -> u32 {
        self.steps_left + self.paid
    }

    /// Pays for the next entries: more and more, so that a short traversal pays for little. Whether there are
    /// any.
    #[inline(never)]
    fn pay(&mut self) -> bool {
        let entries = self.next_paid.min(self.steps_left);
        if entries == 0 {
            if !self.is_limited {
                self.snapshot.budget().note_shortage();
            }
            return false;
        }
        if !self.snapshot.budget().pay(entries.into()) {
            return false;
        }
        self.paid = entries;
        self.steps_left -= entries;
        self.next_paid = (2 * entries).min(MAX_PAID);
        true
    }

    /// Goes into the table below the entry that came last.
    #[inline(never)]
    fn descend(&mut self) {
        self.descends = false;
        let Some((place, next)) = self.stack.last() else {
            return;
        };
        let at = place.entry(next - 1, self.depth);
        if let Some(table) = self.snapshot.child(place.table, at.index) {
            self.enter(Place {
                table,
                base: at.va,
                rights: at.rights,
            });
        }
    }

    /// Begins a table, at the first of its entries that may be in the range.
    fn enter(&mut self, place: Place<'s>) {
        let (level, first) = (place.table.level(), self.range.first);
        let next = if level != self.depth.top() {
            let skip = first.get().saturating_sub(place.base.get()) >> level.shift();
            // Nothing to see in a table that ends before the range begins.
            u16::try_from(skip).unwrap_or(512).min(512)
        } else if first.is_canonical(self.depth) {
            first.index(level)
        } else {
            0
        };
        self.stack.push((place, next));
    }

    /// Nothing more comes.
    fn end(&mut self) -> Option<Visited<'s>> {
        self.stack.clear();
        None
    }
}

impl<'s> Iterator for Traversal<'s> {
    type Item = Visited<'s>;

    #[expect(
        clippy::inline_always,
        reason = "listing pages is this, half a million times in a row: a third faster"
    )]
    #[inline(always)]
    fn next(&mut self) -> Option<Visited<'s>> {
        if self.descends {
            self.descend();
        }
        loop {
            let (place, next) = self.stack.last_mut()?;
            let Some(index) = place.table.present().next_from(*next) else {
                self.stack.pop();
                continue;
            };
            *next = index + 1;
            let table = place.table;
            let at = place.entry(index, self.depth);
            if at.va > self.range.last {
                // Addresses only ascend.
                return self.end();
            }
            if at.va.wrapping_add(table.level().entry_span() - 1) < self.range.first {
                continue;
            }
            if self.paid == 0 && !self.pay() {
                self.stopped_at = Some(at.va);
                return self.end();
            }
            self.paid -= 1;
            self.descends = matches!(at.decoded, Decoded::Table(_));
            return Some(Visited { table, at });
        }
    }
}

impl std::iter::FusedIterator for Traversal<'_> {}
