//! What the tables of one snapshot hold, each thing once, however many address spaces share it: kept from
//! snapshot to snapshot, so that only what changed is looked through again.
//!
//! The unit is a [`Part`]: what is below one entry of the kernel half, with all address spaces that have
//! that very entry, or the user half of one address space. A part is looked through again when one of its
//! tables was written (A and D do not count: the CPU sets them on its own); all sums over parts are kept
//! up to date. Address spaces whose roots have the same kernel half form a [`Group`]: what holds for one
//! of a group holds for all.
//!
//! Tables that are reached in several places, lead outside memory or are absurdly many make parts depend
//! on each other. An index of such tables is built anew at every snapshot; its work is bounded by the
//! tables that there are, even if they loop.

mod build;
mod frames;
mod groups;
mod lost;
mod pages;
mod part;
mod tables;
mod update;

use std::sync::OnceLock;

use crate::memory::PhysRange;
use crate::sharing::Placement;
use crate::snapshot::{RootId, RootLabel, Snapshot};
use crate::table::Slot;
use frames::Frames;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::{Half, Level};

pub use groups::{Group, GroupId, Subtree};
pub use lost::{Lost, Remembered};
pub use part::{Page, Part, PartId, Place, Twice};

use groups::Groups;
use part::{Parts, Use};
use tables::Tables;

/// What an index is made of.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Where RAM is, ascending.
    pub ram: Vec<PhysRange>,
    /// The area in which the kernel maps memory page by page; its frames are held against those of
    /// processes and tables.
    pub dynamic: Option<VirtRange>,
    /// The root labelled [`RootLabel::Kernel`] is the kernel's own, and what it has in its user half is
    /// no process's.
    pub kernel_has_own_root: bool,
}

/// How often what the index holds has changed, by kind. A and D count nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    /// Kernel halves: entries of roots and what is below.
    pub kernel: u64,
    /// Processes' user halves.
    pub user: u64,
    /// Which address spaces there are.
    pub spaces: u64,
    /// Any table.
    pub tables: u64,
}

/// The parts that are other than they were before the last update.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    /// What the generations were before it; `None` if everything is new.
    pub(crate) since: Option<Generations>,
    pub(crate) gone: Vec<PartId>,
    pub(crate) new: Vec<PartId>,
    /// Those that are gone, as they were.
    dropped: Vec<Part>,
    /// What they were of; `None` for a new index.
    before: Option<Snapshot>,
}

/// An address space that is indexed.
#[derive(Clone, Copy, Debug)]
struct Space {
    root: RootId,
    label: RootLabel,
    address: PhysAddr,
    slot: Option<Slot>,
    group: GroupId,
    /// Which of its root's entries are whose, in [`TableIndex::divisions`].
    division: u32,
    /// Its user half.
    user: Option<PartId>,
}

/// The tables of one snapshot, looked through.
#[derive(Debug)]
pub struct TableIndex {
    scope: Scope,
    snapshot: Snapshot,
    /// All roots of the snapshot are indexed, in its order.
    is_whole: bool,
    /// In the order in which they give their names to what is shared.
    spaces: Vec<Space>,
    /// Which entries of roots are the kernel's, and which a process's: mostly there is one division for all.
    divisions: Vec<[EntrySet; 2]>,
    groups: Groups,
    parts: Parts,
    /// By slot.
    uses: Vec<Use>,
    twice: Vec<Twice>,
    /// Tables that two parts reach, or one in two ways.
    shared: u64,
    leads_nowhere: bool,
    is_cut: bool,
    pages_left: usize,
    tables: Tables,
    frames: Frames,
    generations: Generations,
    delta: Delta,
    by_frame: OnceLock<Vec<(PartId, u32)>>,
    /// Whose a user half is.
    owners: OnceLock<Vec<Option<RootId>>>,
}

impl TableIndex {
    /// An index of all address spaces of `snapshot`.
    pub fn new(snapshot: &Snapshot, scope: Scope) -> TableIndex {
        TableIndex::build(snapshot, all_roots(snapshot), scope, Generations::default())
    }

    /// An index of these address spaces alone; the first that has something gives its name to it. With
    /// each root come those of its entries that are the kernel's, and those that are a process's.
    ///
    /// # Panics
    /// If a root comes from another snapshot that has more roots.
    pub fn of_roots(
        snapshot: &Snapshot,
        order: Vec<(RootId, [EntrySet; 2])>,
        scope: Scope,
    ) -> TableIndex {
        TableIndex::build(snapshot, order, scope, Generations::default())
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The snapshot that it is of.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How often each kind of thing has changed.
    pub fn generations(&self) -> Generations {
        self.generations
    }

    pub(crate) fn delta(&self) -> &Delta {
        &self.delta
    }

    /// The address spaces that are indexed, in order.
    pub fn roots(&self) -> impl Iterator<Item = RootId> {
        self.spaces.iter().map(|space| space.root)
    }

    /// How many address spaces are indexed.
    pub fn space_count(&self) -> usize {
        self.spaces.len()
    }

    /// The groups of address spaces with the same kernel half, in the order of their first members.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.in_order()
    }

    /// One of them.
    pub fn group(&self, id: GroupId) -> &Group {
        self.groups.get(id)
    }

    /// The group of an address space.
    pub fn group_of(&self, root: RootId) -> Option<GroupId> {
        let space = if self.is_whole {
            self.spaces.get(root.0 as usize)
        } else {
            self.spaces.iter().find(|space| space.root == root)
        };
        space.map(|space| space.group)
    }

    /// The first address space of a group.
    pub fn first_of(&self, group: GroupId) -> RootId {
        self.spaces[self.groups.get(group).first].root
    }

    /// The address spaces of some groups, in order. Looks at all address spaces: for findings.
    pub fn members<'i>(&'i self, groups: &'i [GroupId]) -> impl Iterator<Item = RootId> + 'i {
        let is_one = |space: &&Space| groups.contains(&space.group);
        self.spaces.iter().filter(is_one).map(|space| space.root)
    }

    /// How many address spaces some groups have.
    pub fn member_count(&self, groups: &[GroupId]) -> u64 {
        let counts = groups.iter().map(|group| self.group(*group).members);
        counts.sum()
    }

    /// What is below the kernel-half entries of the roots, ascending by index, then in the order of the
    /// first address space that has it.
    pub fn kernel_half(&self) -> &[Subtree] {
        self.groups.subtrees()
    }

    /// The groups, by the kernel-half entry `index` of their roots: all address spaces of such a class
    /// translate what is below alike. The last are those without the entry.
    pub fn classes_at(&self, index: u16) -> Vec<Vec<GroupId>> {
        let subtrees = self.groups.subtrees_at(index);
        let mut classes: Vec<Vec<GroupId>> = subtrees
            .iter()
            .map(|subtree| subtree.groups.clone())
            .collect();
        let having: usize = classes.iter().map(Vec::len).sum();
        if having < self.groups.count() {
            let without = |id: &GroupId| !classes.iter().any(|class| class.contains(id));
            let without = self.groups().map(|(id, _)| id).filter(without).collect();
            classes.push(without);
        }
        classes
    }

    /// Tables that are reached in two places, where they must be reached in one only; at most one for
    /// each table.
    pub fn twice(&self) -> &[Twice] {
        &self.twice
    }

    /// Whether there are more tables or pages than were looked at.
    pub fn is_cut(&self) -> bool {
        self.is_cut || self.snapshot.omitted() > 0
    }

    /// The tables as such.
    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// How many frames are tables.
    pub fn table_frames(&self) -> u64 {
        self.tables.frames.len() as u64
    }

    /// The first page table in the frames that `page` maps.
    pub fn table_in(&self, page: &Page) -> Option<Pfn> {
        let mut frames = self.tables.frames.range(page.pa.pfn()..);
        let (frame, _) = frames.next()?;
        (frame.base() < page.end()).then_some(*frame)
    }

    /// An address space that has entry `index` of the table in frame `pfn` as used at `level`, and the
    /// first address that the entry translates there.
    pub fn place_of(&self, (pfn, level): (Pfn, Level), index: u16) -> Option<Place> {
        let depth = self.snapshot.mode().depth;
        let (root, base) = if level == depth.top() {
            let mut spaces = self.spaces.iter();
            let space = spaces.find(|space| space.address.pfn() == pfn)?;
            (space.root, VirtAddr::default())
        } else {
            let slot = self.snapshot.slot_of(pfn, level)?;
            let (part, base) = self.uses.get(slot.index())?.first?;
            (self.root_of(part), base)
        };
        let offset = u64::from(index) << level.shift();
        let va = base.wrapping_add(offset).get();
        Some((root, VirtAddr::sign_extended(va, depth)))
    }

    /// Every table once for each half, level and set of rights with which a walk reaches it; roots come
    /// with both halves.
    pub fn placements(&self) -> Vec<Placement<'_>> {
        let mut placements = Vec::new();
        for (number, half) in [Half::Kernel, Half::User].into_iter().enumerate() {
            let mut seen = std::collections::HashSet::new();
            for space in &self.spaces {
                let Some(slot) = space.slot.filter(|slot| seen.insert(*slot)) else {
                    continue;
                };
                if let Some(table) = self.snapshot.table_at(slot) {
                    placements.push(Placement::of_root(
                        &self.snapshot,
                        table,
                        (half, self.divisions[space.division as usize][number]),
                        space.root,
                    ));
                }
            }
            for (id, part) in self.parts(half) {
                let root = self.root_of(id);
                for placed in &part.tables {
                    if let Some(table) = self.snapshot.table_at(placed.slot) {
                        placements.push(Placement::new(
                            &self.snapshot,
                            table,
                            (half, placed.rights),
                            (root, placed.base),
                        ));
                    }
                }
            }
        }
        placements
    }
}

/// All roots of a snapshot, each half of which is what it says.
fn all_roots(snapshot: &Snapshot) -> Vec<(RootId, [EntrySet; 2])> {
    let roots = snapshot.roots().iter();
    roots.map(|root| (root.id, halves())).collect()
}

/// The entries of the kernel half, and those of the user half.
fn halves() -> [EntrySet; 2] {
    [Half::Kernel, Half::User].map(|half| {
        let mut entries = EntrySet::default();
        half.indices().for_each(|index| entries.insert(index));
        entries
    })
}
