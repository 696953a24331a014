//! What rules are held against.

use std::any::Any;
use std::cell::Cell;

use super::Place;
use super::exceptions::{EARLY_BOOT, Exception, LINUX_EARLY_BOOT};
use super::finding::{EntryPlace, Finding, Spaces};
use super::rule::Extension;
use crate::discover::{Discovery, NoExecute, Space};
use crate::history::{History, Image, is_ram};
use crate::index::{Page, PartId, TableIndex};
use crate::layout::{Area, Region};
use crate::memory::PhysRange;
use crate::profile::{Name, Profile};
use crate::sharing::Placement;
use crate::snapshot::{Root, RootId, RootLabel, Snapshot};
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Level;
use heirloom_paging::mode::CpuState;
use heirloom_paging::walk::Walk;

/// One moment of a guest.
#[derive(Clone)]
pub struct Context<'a> {
    /// The tables, looked through.
    pub index: &'a TableIndex,
    /// The registers of the CPUs, by number.
    pub cpus: &'a [CpuState],
    /// The number of the CPU that reports what happened, in a guest that does.
    pub reporting: usize,
    /// What the kernel has where, ascending.
    pub areas: &'a [Region],
    /// Ascending.
    pub ram: &'a [PhysRange],
    /// What the kernel is known to do.
    pub profile: &'a Profile,
    /// What must be so, in a guest that is followed from its boot.
    pub history: Option<&'a History>,
    /// What was found out of a guest that is looked at once.
    pub found: Option<&'a Discovery>,
    /// Those of its address spaces that are judged.
    pub judged: &'a [&'a Space],
    /// What rules that are not built in are held against besides.
    pub extension: Extension<'a>,
    /// How much may be done to find out which address spaces findings are about.
    pub budget: Budget,
}

/// Walks that may still be made.
#[derive(Clone, Debug)]
pub struct Budget(Cell<u32>);

impl Default for Budget {
    fn default() -> Self {
        Budget(Cell::new(1 << 21))
    }
}

impl Budget {
    /// Whether so many more may be made.
    fn take(&self, walks: usize) -> bool {
        let left = u32::try_from(walks)
            .ok()
            .and_then(|walks| self.0.get().checked_sub(walks));
        if let Some(left) = left {
            self.0.set(left);
        }
        left.is_some()
    }
}

/// A leaf, and the part of the index that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct PageAt<'a> {
    /// The leaf.
    pub page: &'a Page,
    /// The part of the index.
    pub part: PartId,
}

impl<'a> Context<'a> {
    /// Nothing but tables. Whoever knows more fills it in.
    pub fn new(index: &'a TableIndex) -> Context<'a> {
        Context {
            index,
            cpus: &[],
            reporting: 0,
            areas: &[],
            ram: &[],
            profile: Profile::STRICT,
            history: None,
            found: None,
            judged: &[],
            extension: None,
            budget: Budget::default(),
        }
    }

    /// The tables.
    pub fn snapshot(&self) -> &'a Snapshot {
        self.index.snapshot()
    }

    /// Facts of one's own, if there are any of this type.
    pub fn extension<T: Any>(&self) -> Option<&'a T> {
        self.extension?.downcast_ref()
    }

    /// The kernel's segments, where they are known.
    pub(super) fn image(&self) -> Option<&'a [Image]> {
        Some(&self.history?.truth().image)
    }

    /// Whether any page is kept from being executed. What a core does not say of EFER, the entries tell: without
    /// NX in any of them it is the same.
    pub(super) fn uses_nx(&self) -> bool {
        self.snapshot().mode().nxe && self.has_no_execute(|has| has != NoExecute::Nowhere)
    }

    /// The same of pages of the kernel half.
    pub(super) fn kernel_uses_nx(&self) -> bool {
        self.snapshot().mode().nxe && self.has_no_execute(|has| has == NoExecute::Everywhere)
    }

    fn has_no_execute(&self, has: impl Fn(NoExecute) -> bool) -> bool {
        self.found.is_none_or(|found| has(found.no_execute))
    }

    /// Whether the kernel does this on purpose.
    pub(super) fn excepts(&self, exception: Exception) -> bool {
        self.profile.excepts(exception)
    }

    /// Why pages of the kernel's image are let pass that are not protected, if the kernel has not come to that yet
    /// and its profile knows so.
    pub(super) fn early_boot(&self) -> Option<Exception> {
        self.found.filter(|found| found.is_unprotected)?;
        let known = [EARLY_BOOT, LINUX_EARLY_BOOT];
        known.into_iter().find(|known| self.excepts(*known))
    }

    /// Why a page that breaks `rule` is let pass, if the profile says so.
    pub(super) fn lets_pass(&self, rule: &str, page: &Page) -> Option<Exception> {
        self.profile.lets_pass(rule, page.va, page.rights)
    }

    /// Whether all `bytes` bytes from `at` are RAM.
    pub fn is_ram(&self, at: PhysAddr, bytes: u64) -> bool {
        is_ram(self.ram, at, bytes)
    }

    /// The named area that an address lies in.
    pub fn area_of(&self, va: VirtAddr) -> Option<Area> {
        self.region_of(va).map(|region| region.area)
    }

    /// Where `area` is.
    pub fn area(&self, area: Area) -> Option<VirtRange> {
        let mut areas = self.areas.iter();
        Some(areas.find(|region| region.area == area)?.range)
    }

    fn region_of(&self, va: VirtAddr) -> Option<&'a Region> {
        self.areas.iter().find(|region| region.range.contains(va))
    }

    pub(super) fn area_start(&self, at: Option<VirtAddr>) -> Option<(Name, VirtAddr)> {
        let region = self.region_of(at?)?;
        // Of a kernel that is not known, where the rest begins depends on what happens to be mapped.
        let is_rest = matches!(region.area, Area::Kernel | Area::Devices);
        (!is_rest).then_some((region.name, region.range.first))
    }

    /// Where the direct map shows physical address 0, and all of it.
    pub(super) fn direct_map(&self) -> Option<(VirtAddr, VirtRange)> {
        match self.found {
            Some(found) => found.layout.direct_map.map(|map| (map.base, map.range)),
            None => self.area(Area::DirectMap).map(|area| (area.first, area)),
        }
    }

    /// The address space with this label.
    pub fn root_of(&self, label: RootLabel) -> Option<&'a Root> {
        let roots = self.snapshot().roots();
        let sorted = roots.binary_search_by_key(&label, |root| root.label);
        match sorted {
            Ok(at) => Some(&roots[at]),
            // They ascend only where a guest is followed from its boot.
            Err(_) => roots.iter().find(|root| root.label == label),
        }
    }

    /// The label of an address space.
    pub fn label(&self, root: RootId) -> RootLabel {
        self.snapshot().root(root).label
    }

    /// The walk of `va` in `root`.
    pub fn walk(&self, root: RootId, va: VirtAddr) -> (RootLabel, Walk) {
        (self.label(root), self.snapshot().translate(root, va))
    }

    /// Walks of `va` in the address space `reference`, if there is one, and in `other`.
    pub(super) fn walks(
        &self,
        reference: RootLabel,
        other: RootId,
        va: VirtAddr,
    ) -> Vec<(RootLabel, Walk)> {
        let reference = self.root_of(reference).map(|root| root.id);
        reference
            .into_iter()
            .filter(|reference| *reference != other)
            .chain([other])
            .map(|root| self.walk(root, va))
            .collect()
    }

    pub(super) fn walk_at(&self, place: Option<Place>) -> Vec<(RootLabel, Walk)> {
        place.map_or_else(Vec::new, |(root, at)| vec![self.walk(root, at)])
    }

    /// The address to show for top-level entry `index`: of the first kernel memory below it, or the
    /// first that the entry translates.
    pub(super) fn address_below(&self, index: u16) -> VirtAddr {
        let all = VirtRange::of_top_entry(index, self.snapshot().mode().depth);
        let mut allocations = self.history.into_iter().flat_map(History::allocations);
        allocations
            .find(|allocation| allocation.range.overlaps(&all))
            .map_or(all.first, |allocation| {
                allocation.range.first.max(all.first)
            })
    }

    /// The roots of the address spaces that are judged.
    pub(super) fn roots(&self) -> impl Iterator<Item = PhysAddr> {
        let indexed = self.index.roots();
        indexed.map(|root| self.snapshot().root(root).address)
    }

    /// The address spaces in which a walk of `va` passes the entry at `at`, as that in `root` does. After
    /// very many such questions, `root` alone is named.
    pub(super) fn spaces_with(&self, root: RootId, va: VirtAddr, at: &EntryPlace) -> Spaces {
        self.spaces_where(root, va, |walk| passes(walk, at))
    }

    /// The address spaces in which a walk of `va` is as `is_so` says; the one in `root` is.
    fn spaces_where(&self, root: RootId, va: VirtAddr, is_so: impl Fn(&Walk) -> bool) -> Spaces {
        if self.found.is_none() {
            // Whose it is is said; who else has it is not worth a walk in each.
            return Spaces::default();
        }
        if !self.budget.take(self.judged.len()) {
            return Spaces {
                count: 1,
                of: self.judged.len(),
                at_least: true,
                roots: vec![self.snapshot().root(root).address],
            };
        }
        let judged = self.judged.iter();
        let so = judged.filter(|space| is_so(&self.snapshot().translate(space.root, va)));
        let roots: Vec<PhysAddr> = so.map(|space| space.address).collect();
        Spaces::new(&roots, self.judged.len())
    }

    /// These address spaces alone.
    pub(super) fn spaces(&self, roots: &[PhysAddr]) -> Spaces {
        Spaces::new(roots, self.index.space_count())
    }

    /// One address space alone.
    pub(super) fn only(&self, root: RootId) -> Spaces {
        self.spaces(&[self.snapshot().root(root).address])
    }

    /// The entry of a leaf.
    pub(super) fn entry_of(&self, page: &Page) -> EntryPlace {
        let level = page.level();
        let table = self.snapshot().table(page.table, level);
        EntryPlace {
            level,
            table: page.table,
            index: page.index,
            entry: table.map_or(Entry::ABSENT, |table| table.entry(page.index)),
        }
    }

    /// A finding about a page, in the address spaces where ring 3 gets to it as it does here: that is up to the entries
    /// above, too, which may differ.
    pub(super) fn page_finding(&self, at: PageAt<'_>, expected: impl Into<String>) -> Finding {
        let page = at.page;
        let root = self.index.root_of(at.part);
        let entry = self.entry_of(page);
        Finding {
            whose: Some(self.label(root)),
            place: self.entry_name(entry.level, entry.index),
            entry: Some(entry),
            address: Some(page.va),
            range: Some(page.range()),
            spaces: self.spaces_where(root, page.va, |walk| {
                let translation = walk.translation();
                passes(walk, &entry)
                    && translation.is_some_and(|found| found.rights.user == page.rights.user)
            }),
            expected: expected.into(),
            found: format!("{} page at {}, {}", page.size, page.pa, page.rights),
            walks: vec![self.walk(root, page.va)],
            ..Finding::default()
        }
    }

    /// What people call the tables of this level.
    pub(super) fn level_name(&self, level: Level) -> &'static str {
        self.snapshot().mode().depth.name(level)
    }

    /// `PGD[273]`
    pub(super) fn entry_name(&self, level: Level, index: u16) -> String {
        format!("{}[{index}]", self.level_name(level))
    }

    /// A finding about an entry of a table that `placement` reaches.
    pub(super) fn entry_finding(
        &self,
        placement: &Placement<'_>,
        index: u16,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Finding {
        let level = placement.table.level();
        let (at, va) = self.place(placement, index);
        Finding {
            whose: Some(self.label(placement.root)),
            place: self.entry_name(level, index),
            entry: Some(at),
            address: Some(va),
            range: VirtRange::new(va, level.entry_span()),
            spaces: self.spaces_with(placement.root, va, &at),
            expected: expected.into(),
            found: found.into(),
            walks: vec![self.walk(placement.root, va)],
            ..Finding::default()
        }
    }

    /// Where entry `index` of a placed table stands, and the first address that it translates.
    pub(super) fn place(&self, placement: &Placement<'_>, index: u16) -> (EntryPlace, VirtAddr) {
        let level = placement.table.level();
        let depth = self.snapshot().mode().depth;
        let offset = u64::from(index) << level.shift();
        let va = VirtAddr::sign_extended(placement.base.get().wrapping_add(offset), depth);
        let at = EntryPlace {
            level,
            table: placement.table.pfn(),
            index,
            entry: placement.table.entry(index),
        };
        (at, va)
    }
}

/// An entry as people read it.
pub(super) fn shown(entry: Entry) -> String {
    if entry.present() {
        format!("{entry} ({})", entry.flags())
    } else {
        "absent".into()
    }
}

/// Where a walk ended, as people read it.
pub(super) fn shown_end(walk: &Walk) -> String {
    match &walk.result {
        Ok(found) => format!("frame {}, {}", found.pa.pfn(), found.rights),
        Err(fault) => fault.display(walk.depth).to_string(),
    }
}

/// Whether a walk passes the entry at `at`.
fn passes(walk: &Walk, at: &EntryPlace) -> bool {
    let mut steps = walk.steps().iter();
    steps.any(|step| step.table == at.table && step.level == at.level)
}
