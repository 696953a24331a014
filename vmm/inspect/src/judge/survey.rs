//! What the tables of one moment hold, each thing once, however many address spaces share it.
//!
//! A table is looked through where a walk reaches it first: in the kernel half once for each set of
//! rights, in user halves once. Where it is reached a second time, somewhere else, is evidence of its
//! own ([`Twice`]). So the work is bounded by the tables that there are, even if they loop.

use super::world::World;
use crate::sharing::Subtree;
use crate::snapshot::{RootId, Snapshot};
use crate::table::Table;
use heirloom_abi::layout::Region;
use heirloom_paging::addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::level::{Half, Level, PageSize};
use heirloom_paging::rights::Rights;

/// A leaf, and one address space that has it.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub va: VirtAddr,
    pub pa: PhysAddr,
    pub size: PageSize,
    /// What all entries of the walk allow together.
    pub rights: Rights,
    pub root: RootId,
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
}

/// A table that is reached in two places, where it must be reached in one only.
#[derive(Clone, Copy, Debug)]
pub struct Twice<'s> {
    pub table: &'s Table,
    pub first: Place,
    pub again: Place,
}

impl Twice<'_> {
    /// Whether two processes have it in their user halves.
    pub fn is_shared_user_table(&self) -> bool {
        let user = |place: Place| place.1.half() == Half::User;
        user(self.first) && user(self.again) && self.first.0 != self.again.0
    }
}

/// The tables of one moment, looked through.
#[derive(Debug)]
pub struct Survey<'s> {
    /// The address spaces, those together whose roots have the same kernel half.
    pub same_kernel_half: Vec<Vec<RootId>>,
    /// What is below the kernel-half entries of the roots, ascending by index.
    pub kernel_half: Vec<Subtree>,
    /// Tables of the kernel half, each once for each set of rights.
    pub kernel_tables: u64,
    /// Leaves of the kernel half, each once for each set of rights.
    pub kernel_pages: Vec<Page>,
    /// Tables of processes' user halves.
    pub user_tables: u64,
    /// Leaves of processes' user halves, ascending by physical address, then by root.
    pub user_pages: Vec<Page>,
    /// Different frames that those map.
    pub user_frames: u64,
    /// At most one for each table.
    pub twice: Vec<Twice<'s>>,
    /// Every frame that is a table, ascending.
    pub table_frames: Vec<Pfn>,
    /// There are more pages than were looked at.
    pub is_cut: bool,
    pub(super) largest_user_page: u64,
    /// Where each table was reached first, by slot.
    pub(super) places: Vec<Option<Place>>,
}

/// An address space and the first address that a table translates there.
pub type Place = (RootId, VirtAddr);

impl Survey<'_> {
    /// A survey of nothing but user pages, put into order.
    pub(super) fn of_user_pages(mut user_pages: Vec<Page>) -> Self {
        user_pages.sort_unstable_by_key(|page| (page.pa, page.root, page.va));
        Survey {
            same_kernel_half: Vec::new(),
            kernel_half: Vec::new(),
            kernel_tables: 0,
            kernel_pages: Vec::new(),
            user_tables: 0,
            user_frames: frames_of(&user_pages),
            largest_user_page: user_pages
                .iter()
                .map(|page| page.size.bytes())
                .max()
                .unwrap_or(0),
            user_pages,
            twice: Vec::new(),
            table_frames: Vec::new(),
            is_cut: false,
            places: Vec::new(),
        }
    }

    /// The address spaces, ascending, whose roots have the same kernel half as `root`'s.
    pub fn with_kernel_half_of(&self, root: RootId) -> &[RootId] {
        let mut groups = self.same_kernel_half.iter();
        let group = groups.find(|group| group.binary_search(&root).is_ok());
        group.map_or(&[], Vec::as_slice)
    }

    /// Kernel pages in the vmalloc area.
    pub fn vmalloc_pages(&self) -> impl Iterator<Item = &Page> {
        let area = crate::region::range_of_region(Region::Vmalloc);
        self.kernel_pages
            .iter()
            .filter(move |page| area.contains(page.va))
    }

    /// User pages that have one of `bytes` physical addresses from `start`.
    pub fn user_pages_in(&self, start: PhysAddr, bytes: u64) -> impl Iterator<Item = &Page> {
        let end = start.wrapping_add(bytes);
        let first = self
            .user_pages
            .partition_point(|page| page.pa.wrapping_add(self.largest_user_page) <= start);
        self.user_pages[first..]
            .iter()
            .take_while(move |page| page.pa < end)
            .filter(move |page| page.end() > start)
    }

    /// The first page table in the frames that `page` maps.
    pub fn table_in(&self, page: &Page) -> Option<Pfn> {
        let first = page.pa.pfn();
        let at = self.table_frames.partition_point(|frame| *frame < first);
        let frame = *self.table_frames.get(at)?;
        (frame.base() < page.end()).then_some(frame)
    }

    /// User pages that show a page table, with its frame.
    pub fn user_pages_on_tables(&self) -> impl Iterator<Item = (&Page, Pfn)> {
        // Both lists ascend: frames below the present page are below all that follow.
        let mut frames = self.table_frames.as_slice();
        self.user_pages.iter().filter_map(move |page| {
            let below = frames
                .iter()
                .take_while(|frame| **frame < page.pa.pfn())
                .count();
            frames = &frames[below..];
            let frame = *frames.first()?;
            (frame.base() < page.end()).then_some((page, frame))
        })
    }

    /// An address space that has entry `index` of the table in frame `pfn` as used at `level`, and
    /// the first address that the entry translates there.
    pub fn place_of(
        &self,
        snapshot: &Snapshot,
        (pfn, level): (Pfn, Level),
        index: u16,
    ) -> Option<Place> {
        let depth = snapshot.mode().depth;
        let (root, base) = if level == depth.top() {
            let mut roots = snapshot.roots().iter();
            let root = roots.find(|root| root.address.pfn() == pfn)?;
            (root.id, VirtAddr::default())
        } else {
            let slot = snapshot.slot_of(pfn, level)?;
            self.places.get(slot.index()).copied().flatten()?
        };
        let offset = u64::from(index) << level.shift();
        let va = base.wrapping_add(offset).get();
        Some((root, VirtAddr::sign_extended(va, depth)))
    }

    /// The address spaces, grouped by their root's kernel-half entry `index`: all of a group
    /// translate what is below alike.
    pub fn groups_at(&self, snapshot: &Snapshot, index: u16) -> Vec<Vec<RootId>> {
        let first = self
            .kernel_half
            .partition_point(|subtree| subtree.index < index);
        let subtrees = self.kernel_half[first..]
            .iter()
            .take_while(|subtree| subtree.index == index);
        let mut groups: Vec<Vec<RootId>> = subtrees.map(|subtree| subtree.roots.clone()).collect();
        let having: usize = groups.iter().map(Vec::len).sum();
        if having < snapshot.roots().len() {
            let mut without = vec![true; snapshot.roots().len()];
            for root in groups.iter().flatten() {
                without[root.0 as usize] = false;
            }
            let roots = snapshot.roots().iter().map(|root| root.id);
            groups.push(roots.filter(|root| without[root.0 as usize]).collect());
        }
        groups
    }
}

/// How many different frames `pages`, ascending, map.
fn frames_of(pages: &[Page]) -> u64 {
    let mut frames = 0;
    let mut counted = 0;
    for page in pages {
        let start = page.pa.get().max(counted);
        let end = page.end().get();
        if end > start {
            frames += (end - start) / PAGE_SIZE;
            counted = end;
        }
    }
    frames
}

/// The address to show for top-level entry `index`: of the first kernel memory below it, or the
/// first that the entry translates.
pub(super) fn address_below(world: &World, snapshot: &Snapshot, index: u16) -> VirtAddr {
    let all = VirtRange::of_top_entry(index, snapshot.mode().depth);
    world
        .allocations()
        .find(|allocation| allocation.range.overlaps(&all))
        .map_or(all.first, |allocation| {
            allocation.range.first.max(all.first)
        })
}
