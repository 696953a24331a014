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

use std::sync::Arc;

use serde::Serialize;

use crate::snapshot::{RootId, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Entry, Leaf};
use heirloom_paging::level::{Depth, Half};
use heirloom_paging::rights::Rights;

/// Entries that a traversal looks at before it stops: enough for 256 GiB in 4 KiB pages. Tables
/// that point to themselves can claim 2^36 pages with a single frame.
pub const STEP_LIMIT: u32 = 1 << 26;

/// One present entry where a walk passes.
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
    pub table: &'s Arc<Table>,
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
    steps_left: u32,
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
            steps_left: STEP_LIMIT,
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
        self
    }

    /// Entries that may still be looked at.
    pub(crate) fn steps_left(&self) -> u32 {
        self.steps_left
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
            if self.steps_left == 0 {
                self.stopped_at = Some(at.va);
                return self.end();
            }
            self.steps_left -= 1;
            self.descends = matches!(at.decoded, Decoded::Table(_));
            return Some(Visited { table, at });
        }
    }
}

impl std::iter::FusedIterator for Traversal<'_> {}

/// A table where a walk may pass: once for each half, level and set of rights with which it is
/// reached. What is judged here is judged for every address space.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'s> {
    pub table: &'s Arc<Table>,
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

/// Something that is true of all that is below a table: what each entry adds to it.
pub(crate) trait Fold {
    /// What is found; the default is what nothing comes to.
    type Found: Copy + Default + std::fmt::Debug;

    /// A page, and whether ring 3 may access it.
    fn leaf(&self, found: &mut Self::Found, leaf: Leaf, user: bool);

    /// A table with this below it; the default, where the table is not there.
    fn table(&self, found: &mut Self::Found, below: Self::Found);

    /// Any present entry, whatever else it is.
    fn entry(&self, found: &mut Self::Found) {
        let _ = found;
    }

    /// Whether nothing can change any more what was found.
    fn is_decided(&self, found: &Self::Found) -> bool {
        let _ = found;
        false
    }
}

/// Folds tables, and remembers what it has found.
#[derive(Debug)]
pub(crate) struct Folder<'s, F: Fold> {
    snapshot: &'s Snapshot,
    fold: F,
    /// By slot: where ring 3 has been shut out above, and where it has not.
    known: Vec<[Option<F::Found>; 2]>,
}

impl<'s, F: Fold> Folder<'s, F> {
    pub(crate) fn new(snapshot: &'s Snapshot, fold: F) -> Self {
        Folder {
            snapshot,
            fold,
            known: vec![[None; 2]; snapshot.slots()],
        }
    }

    pub(crate) fn snapshot(&self) -> &'s Snapshot {
        self.snapshot
    }

    /// What these entries of a table come to, where the entries above let ring 3 through or not. Recurses
    /// one level down at a time, so at most five deep.
    pub(crate) fn entries(&mut self, table: &Table, entries: &EntrySet, user: bool) -> F::Found {
        let mut found = F::Found::default();
        for index in table.present().intersection(entries).iter() {
            let user = user && table.entry(index).user();
            self.fold.entry(&mut found);
            match table.decode(index) {
                Decoded::Leaf(leaf) => self.fold.leaf(&mut found, leaf, user),
                Decoded::Table(_) => {
                    let below = table.link(index).map(|slot| self.below(slot, user));
                    self.fold.table(&mut found, below.unwrap_or_default());
                }
                Decoded::Absent | Decoded::Reserved { .. } => {}
            }
            if self.fold.is_decided(&found) {
                break;
            }
        }
        found
    }

    /// What all that is below the table in `slot` comes to.
    pub(crate) fn below(&mut self, slot: Slot, user: bool) -> F::Found {
        let which = usize::from(user);
        if let Some(known) = self.known.get(slot.index()).and_then(|known| known[which]) {
            return known;
        }
        let Some(table) = self.snapshot.table_at(slot) else {
            return F::Found::default();
        };
        let found = self.entries(table, &table.present(), user);
        if let Some(known) = self.known.get_mut(slot.index()) {
            known[which] = Some(found);
        }
        found
    }
}
