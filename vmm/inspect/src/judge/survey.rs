//! What the tables of one moment hold, each thing once, however many address spaces share it.
//!
//! A table is looked through where a walk reaches it first: in the kernel half once for each set of
//! rights, in user halves once. Where it is reached a second time, somewhere else, is evidence of its
//! own ([`Twice`]). So the work is bounded by the tables that there are, even if they loop.

use std::sync::Arc;

use super::world::World;
use crate::addr::{GuestPhys, GuestVirt, PAGE_SIZE, Pfn, VirtRange};
use crate::entry::Decoded;
use crate::level::{Half, Level, PageSize};
use crate::rights::Rights;
use crate::sharing::Subtree;
use crate::snapshot::{RootId, RootLabel, Snapshot};
use crate::table::{Slot, Table};
use heirloom_abi::layout::Region;

/// Pages that are looked at, of all address spaces together: 32 GiB in 4 KiB pages.
const MOST_PAGES: usize = 1 << 23;

/// A leaf, and one address space that has it.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub va: GuestVirt,
    pub pa: GuestPhys,
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
    pub fn end(&self) -> GuestPhys {
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
    largest_user_page: u64,
    /// Where each table was reached first, by slot.
    places: Vec<Option<Place>>,
}

/// An address space and the first address that a table translates there.
pub type Place = (RootId, GuestVirt);

/// Where a table was reached.
#[derive(Clone, Copy, Default)]
struct Mark {
    first: Option<Place>,
    /// A bit for each set of rights.
    rights: u8,
    twice: bool,
}

struct Surveyor<'s> {
    snapshot: &'s Snapshot,
    marks: Vec<Mark>,
    twice: Vec<Twice<'s>>,
    pending: Vec<(Slot, Rights, GuestVirt)>,
    pages_left: usize,
    is_cut: bool,
}

impl<'s> Survey<'s> {
    /// Looks through `snapshot`.
    pub fn of(snapshot: &'s Snapshot) -> Survey<'s> {
        let mut surveyor = Surveyor {
            snapshot,
            marks: vec![Mark::default(); snapshot.slots()],
            twice: Vec::new(),
            pending: Vec::new(),
            pages_left: MOST_PAGES,
            is_cut: false,
        };
        let kernel_half = snapshot.subtrees(Half::Kernel);
        let mut kernel_pages = Vec::new();
        let kernel_tables = surveyor.kernel_half(&kernel_half, &mut kernel_pages);
        let mut user_pages = Vec::new();
        let user_tables = surveyor.user_halves(&mut user_pages);
        user_pages.sort_unstable_by_key(|page| (page.pa, page.root, page.va));
        let mut table_frames: Vec<Pfn> = snapshot.tables().map(|table| table.pfn()).collect();
        table_frames.sort_unstable();
        table_frames.dedup();
        Survey {
            kernel_half,
            kernel_tables,
            kernel_pages,
            user_tables,
            user_frames: frames_of(&user_pages),
            largest_user_page: user_pages
                .iter()
                .map(|page| page.size.bytes())
                .max()
                .unwrap_or(0),
            user_pages,
            twice: surveyor.twice,
            table_frames,
            is_cut: surveyor.is_cut,
            places: surveyor.marks.iter().map(|mark| mark.first).collect(),
        }
    }

    /// Kernel pages in the vmalloc area.
    pub fn vmalloc_pages(&self) -> impl Iterator<Item = &Page> {
        let area = VirtRange::of_region(Region::Vmalloc);
        self.kernel_pages
            .iter()
            .filter(move |page| area.contains(page.va))
    }

    /// User pages that have one of `bytes` physical addresses from `start`.
    pub fn user_pages_in(&self, start: GuestPhys, bytes: u64) -> impl Iterator<Item = &Page> {
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
            (root.id, GuestVirt::default())
        } else {
            let slot = snapshot.slot_of(pfn, level)?;
            self.places.get(slot.index()).copied().flatten()?
        };
        let offset = u64::from(index) << level.shift();
        let va = base.wrapping_add(offset).get();
        Some((root, GuestVirt::sign_extended(va, depth)))
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

impl Surveyor<'_> {
    fn kernel_half(&mut self, subtrees: &[Subtree], pages: &mut Vec<Page>) -> u64 {
        let mut tables = 0;
        for subtree in subtrees {
            let root = subtree.roots[0];
            let top = self.snapshot.root_table(root);
            if let Some(slot) = top.and_then(|top| top.link(subtree.index)) {
                let rights = Rights::ALL.through(subtree.entry);
                self.arrive(slot, rights, (root, subtree.range.first));
            }
            while let Some((slot, rights, base)) = self.pending.pop() {
                let mark = &mut self.marks[slot.index()];
                let bit = 1 << rights.number();
                if mark.rights & bit == 0 {
                    mark.rights |= bit;
                    tables += self.look_through(slot, rights, (root, base), pages);
                }
            }
        }
        tables
    }

    fn user_halves(&mut self, pages: &mut Vec<Page>) -> u64 {
        let mut tables = 0;
        let snapshot = self.snapshot;
        for root in snapshot.roots() {
            let Some(top) = snapshot.root_table(root.id) else {
                continue;
            };
            if root.label == RootLabel::Kernel {
                continue;
            }
            let shift = top.level().shift();
            for (index, slot) in top.indexed_links() {
                if Half::of_index(index) == Half::User {
                    let base = GuestVirt::new(u64::from(index) << shift);
                    let rights = Rights::ALL.through(top.entry(index));
                    self.arrive(slot, rights, (root.id, base));
                }
            }
            while let Some((slot, rights, base)) = self.pending.pop() {
                let mark = &mut self.marks[slot.index()];
                if mark.rights == 0 {
                    mark.rights = u8::MAX;
                    tables += self.look_through(slot, rights, (root.id, base), pages);
                }
            }
        }
        tables
    }

    /// Notes that a walk reaches the table in `slot`, to be looked through later.
    fn arrive(&mut self, slot: Slot, rights: Rights, place: Place) {
        let mark = &mut self.marks[slot.index()];
        let (root, base) = place;
        let first = *mark.first.get_or_insert(place);
        // The kernel half's tables are everybody's.
        let same = first.1 == base && (base.half() == Half::Kernel || first.0 == root);
        if !same
            && !mark.twice
            && let Some(table) = self.snapshot.table_at(slot)
        {
            mark.twice = true;
            self.twice.push(Twice {
                table,
                first,
                again: place,
            });
        }
        self.pending.push((slot, rights, base));
    }

    /// Puts a table's leaves into `pages` and arrives at the tables below. How many tables that
    /// was: 0 if guest memory does not have it.
    fn look_through(
        &mut self,
        slot: Slot,
        rights: Rights,
        (root, base): Place,
        pages: &mut Vec<Page>,
    ) -> u64 {
        let snapshot = self.snapshot;
        let Some(table) = snapshot.table_at(slot).map(Arc::as_ref) else {
            return 0;
        };
        let shift = table.level().shift();
        for (index, entry) in table.entries() {
            let va = base.wrapping_add(u64::from(index) << shift);
            let rights = rights.through(entry);
            match table.decode(index) {
                Decoded::Leaf(leaf) if self.pages_left > 0 => {
                    self.pages_left -= 1;
                    pages.push(Page {
                        va,
                        pa: leaf.pa,
                        size: leaf.size,
                        rights,
                        root,
                    });
                }
                Decoded::Leaf(_) => self.is_cut = true,
                Decoded::Table(_) => {
                    if let Some(below) = table.link(index) {
                        self.arrive(below, rights, (root, va));
                    }
                }
                Decoded::Absent | Decoded::Reserved { .. } => {}
            }
        }
        1
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
pub(super) fn address_below(world: &World, snapshot: &Snapshot, index: u16) -> GuestVirt {
    let all = VirtRange::of_top_entry(index, snapshot.mode().depth);
    world
        .allocations()
        .find(|allocation| allocation.range.overlaps(&all))
        .map_or(all.first, |allocation| {
            allocation.range.first.max(all.first)
        })
}
