//! What an address space maps: every leaf with its effective rights, in address order.

use serde::Serialize;

use crate::snapshot::{RootId, Snapshot};
pub use crate::traverse::STEP_LIMIT;
use crate::traverse::{Traversal, Visited};
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::{Decoded, Entry, Leaf};
use heirloom_paging::level::PageSize;
use heirloom_paging::rights::Rights;

/// One page of an address space. The whole path to it is [`Snapshot::translate`] of `va`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// The page's first byte.
    pub va: VirtAddr,
    /// Where it is.
    pub pa: PhysAddr,
    /// How large the page is.
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
    /// The table that the leaf stands in.
    pub table: Pfn,
    /// Which entry of that table.
    pub index: u16,
}

impl Mapping {
    #[inline]
    pub(crate) fn of(visited: &Visited<'_>, leaf: Leaf) -> Mapping {
        let at = &visited.at;
        Mapping {
            va: at.va,
            pa: leaf.pa,
            size: leaf.size,
            rights: at.rights,
            global: at.entry.global(),
            accessed: at.entry.accessed(),
            dirty: at.entry.dirty(),
            entry: at.entry,
            table: visited.table.pfn(),
            index: at.index,
        }
    }

    /// The page's addresses.
    pub fn range(&self) -> VirtRange {
        VirtRange {
            first: self.va,
            last: self.va.wrapping_add(self.size.bytes() - 1),
        }
    }
}

/// Iterator over the leaves of an address space, ascending: [`Snapshot::leaves`].
#[derive(Clone, Debug)]
pub struct Leaves<'s>(Traversal<'s>);

impl Snapshot {
    /// The leaves of address space `root` that map at least one address of `range`.
    ///
    /// The iterator looks at no more than [`STEP_LIMIT`] entries; [`Leaves::stopped_at`] tells
    /// whether that cut it short.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn leaves(&self, root: RootId, range: VirtRange) -> Leaves<'_> {
        Leaves(self.traverse(root, range))
    }
}

impl Leaves<'_> {
    /// The address from which on leaves may be missing, because the tables claim absurdly many.
    pub fn stopped_at(&self) -> Option<VirtAddr> {
        self.0.stopped_at()
    }

    /// Looks at no more than `steps` entries.
    #[must_use]
    pub(crate) fn limited(self, steps: u32) -> Self {
        Leaves(self.0.limited(steps))
    }

    /// Entries that may still be looked at.
    pub(crate) fn steps_left(&self) -> u32 {
        self.0.steps_left()
    }
}

impl Iterator for Leaves<'_> {
    type Item = Mapping;

    fn next(&mut self) -> Option<Mapping> {
        loop {
            let visited = self.0.next()?;
            if let Decoded::Leaf(leaf) = visited.at.decoded {
                return Some(Mapping::of(&visited, leaf));
            }
        }
    }
}

impl std::iter::FusedIterator for Leaves<'_> {}
