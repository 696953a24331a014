//! A part of the tables: what is below one entry of the kernel half, or one user half.

use crate::snapshot::RootId;
use crate::table::Slot;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::level::{Half, Level, PageSize};
use heirloom_paging::rights::Rights;

/// Which part of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartId(pub(super) u32);

/// An address space and the first address that a table translates there.
pub type Place = (RootId, VirtAddr);

/// A leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The first virtual address.
    pub va: VirtAddr,
    /// The first physical address.
    pub pa: PhysAddr,
    /// How large the page is.
    pub size: PageSize,
    /// What all entries of the walk allow together.
    pub rights: Rights,
    /// The table that the leaf stands in, and where.
    pub table: Pfn,
    /// Which entry of that table.
    pub index: u16,
}

impl Page {
    /// Its virtual addresses.
    pub fn range(&self) -> VirtRange {
        VirtRange {
            first: self.va,
            last: self.va.wrapping_add(self.size.bytes() - 1),
        }
    }

    /// The first physical address behind it.
    pub fn end(&self) -> PhysAddr {
        self.pa.wrapping_add(self.size.bytes())
    }

    /// The level of its leaf.
    pub fn level(&self) -> Level {
        self.size.level()
    }
}

/// A table below the root, where it was reached.
#[derive(Clone, Copy, Debug)]
pub struct PlacedTable {
    pub(crate) slot: Slot,
    /// What the entries above allow together.
    pub rights: Rights,
    /// The first address that it translates.
    pub base: VirtAddr,
    /// How many of the part's pages stand in it.
    pub(super) pages: u32,
}

/// What is below one entry of the kernel half, or one user half.
#[derive(Clone, Debug)]
pub struct Part {
    /// The half that it belongs to.
    pub half: Half,
    /// What it translates.
    pub range: VirtRange,
    /// Of the kernel half: the entry, as software wrote it.
    pub(super) entry: Option<(u16, u64)>,
    /// Of a user half: the root.
    pub(super) owner: PhysAddr,
    /// Its tables, each once.
    pub tables: Vec<PlacedTable>,
    /// In the order in which the tables were reached.
    pub pages: Vec<Page>,
    /// Those in the dynamic area.
    pub(super) dynamic: u64,
    /// Those that ring 3 can access.
    pub(super) ring_3: u64,
}

/// A table that is reached in two places, where it must be reached in one only.
#[derive(Clone, Copy, Debug)]
pub struct Twice {
    /// The table's frame.
    pub table: Pfn,
    /// The level at which it is used.
    pub level: Level,
    pub(super) first: (PartId, VirtAddr),
    pub(super) again: (PartId, VirtAddr),
}

/// How a table is used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Where it was reached first.
    pub(super) first: Option<(PartId, VirtAddr)>,
    /// A bit for each half and set of rights with which it was reached.
    pub(super) seen: u16,
    pub(super) is_twice: bool,
}

/// Sums over parts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) tables: u64,
    pub(super) pages: u64,
    pub(super) ring_3: u64,
}

/// All parts of an index.
#[derive(Debug, Default)]
pub(super) struct Parts {
    all: Vec<Option<Part>>,
    free: Vec<PartId>,
    kernel: Totals,
    user: Totals,
    dynamic: u64,
}

impl Parts {
    /// The number that the next part will have.
    pub(super) fn reserve(&mut self) -> PartId {
        self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            // There are no more parts than roots and 256 entries of each.
            PartId(u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX))
        })
    }

    pub(super) fn put(&mut self, id: PartId, part: Part) {
        let totals = self.totals_mut(part.half);
        totals.tables += part.tables.len() as u64;
        totals.pages += part.pages.len() as u64;
        totals.ring_3 += part.ring_3;
        self.dynamic += part.dynamic;
        self.all[id.0 as usize] = Some(part);
    }

    pub(super) fn take(&mut self, id: PartId) -> Option<Part> {
        let part = self.all.get_mut(id.0 as usize)?.take()?;
        self.free.push(id);
        let totals = self.totals_mut(part.half);
        totals.tables -= part.tables.len() as u64;
        totals.pages -= part.pages.len() as u64;
        totals.ring_3 -= part.ring_3;
        self.dynamic -= part.dynamic;
        Some(part)
    }

    /// All of them, none of which is there afterwards.
    pub(super) fn take_all(&mut self) -> Vec<Part> {
        let parts = std::mem::take(self);
        parts.all.into_iter().flatten().collect()
    }

    pub(super) fn get(&self, id: PartId) -> &Part {
        static NONE: Part = Part {
            half: Half::User,
            range: VirtRange {
                first: VirtAddr::new(0),
                last: VirtAddr::new(0),
            },
            entry: None,
            owner: PhysAddr::new(0),
            tables: Vec::new(),
            pages: Vec::new(),
            dynamic: 0,
            ring_3: 0,
        };
        self.all
            .get(id.0 as usize)
            .and_then(Option::as_ref)
            .unwrap_or(&NONE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PartId, &Part)> {
        (0u32..)
            .zip(&self.all)
            .filter_map(|(id, part)| Some((PartId(id), part.as_ref()?)))
    }

    pub(super) fn totals(&self, half: Half) -> Totals {
        match half {
            Half::Kernel => self.kernel,
            Half::User => self.user,
        }
    }

    pub(super) fn dynamic_pages(&self) -> u64 {
        self.dynamic
    }

    fn totals_mut(&mut self, half: Half) -> &mut Totals {
        match half {
            Half::Kernel => &mut self.kernel,
            Half::User => &mut self.user,
        }
    }
}
