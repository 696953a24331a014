//! What a root must translate to be one of the kernel's: the kernel's code, what its CPUs need for the next
//! interrupt, some of its data, to the same bytes as through a root that is known.
//!
//! Tables need not be shared for that. Kernels that give each process copies of all kernel tables, that
//! set other flags in each, or that show ring 3 a small window only, are found by it.

use std::collections::{BTreeMap, HashSet};

use crate::capture::Capturer;
use crate::memory::{MemoryError, PhysicalMemory, Words, translate_in_memory};
use crate::snapshot::{RootId, RootLabel, Snapshot};
use crate::target::Target;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::{Level, PageSize};
use heirloom_paging::mode::Mode;

use super::part::{all_but, ranges};
use super::reference::Reference;
use super::scan;

/// Pages of code and of data that are held against each root.
const SAMPLES: usize = 8;
/// The same below one entry of the root.
const SAMPLES_OF_ENTRY: usize = 2;
/// Entries of the root of which most tell it: of fewer, one alone would.
const MIN_ENTRIES: usize = 3;
/// Entries that are passed at most to find them.
const MAX_STEPS: u32 = 1 << 20;
/// Pages among which they are chosen.
const MAX_PAGES: usize = 1 << 16;
/// Frames that are looked at at most as windows.
const MAX_WINDOWS: usize = 4096;
/// Tables and pages of one window that are looked at.
const WINDOW_TABLES: usize = 64;
const WINDOW_PAGES: usize = 64;

/// An address of the kernel's, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    va: VirtAddr,
    pa: PhysAddr,
}

/// A page of the kernel's: where it begins, and how much of it is RAM there.
#[derive(Clone, Copy, Debug)]
struct Page {
    start: Anchor,
    bytes: u64,
}

/// What tells a root.
pub(super) struct Anchors {
    mode: Mode,
    /// The tables of the root that is known.
    snapshot: Snapshot,
    root: RootId,
    part: EntrySet,
    /// Kernel code, and where a CPU of this root is.
    code: Vec<Anchor>,
    /// Pages that the kernel writes.
    data: Vec<Anchor>,
    /// Pages below each entry of the root that has some.
    entries: Vec<Vec<Anchor>>,
    /// The interrupt descriptor table of a CPU.
    idt: Option<Anchor>,
}

impl Anchors {
    /// What tells the roots of the kernel of `reference`, whose tables are in `snapshot`.
    pub(super) fn of(
        target: &Target,
        mode: Mode,
        reference: &Reference,
        snapshot: Snapshot,
    ) -> Option<Anchors> {
        let address = reference.pfn.base();
        let mut roots = snapshot.roots().iter();
        let root = roots.find(|root| root.address == address)?.id;
        let mut anchors = Anchors {
            mode,
            snapshot,
            root,
            part: reference.part,
            code: Vec::new(),
            data: Vec::new(),
            entries: Vec::new(),
            idt: None,
        };
        anchors.add_pages(target);
        anchors.add_registers(target);
        Some(anchors)
    }

    fn anchors(&self) -> impl Iterator<Item = &Anchor> {
        let entries = self.entries.iter().flatten();
        self.code.iter().chain(&self.data).chain(entries)
    }

    /// Where an address leads by the root that is known, if that is for ring 0 alone and RAM.
    fn at(&self, target: &Target, va: VirtAddr) -> Option<Anchor> {
        let walk = self.snapshot.translate(self.root, va);
        let found = walk.translation().filter(|found| !found.rights.user)?;
        scan::is_in_ram(found.pa, &target.ram).then_some(Anchor { va, pa: found.pa })
    }

    /// The page that an address leads to by the root that is known.
    fn page_at(&self, va: VirtAddr) -> Option<PhysAddr> {
        let walk = self.snapshot.translate(self.root, va);
        walk.translation().map(|found| found.page)
    }

    fn add_pages(&mut self, target: &Target) {
        let (mut code, mut data) = (Vec::new(), Vec::new());
        let table = self.snapshot.root_table(self.root);
        let own = |index: u16| {
            table.is_some_and(|table| table.decode(index) == Decoded::Table(table.pfn()))
        };
        let mut part = EntrySet::default();
        self.part
            .iter()
            .filter(|index| !own(*index))
            .for_each(|index| part.insert(index));
        let mut steps = MAX_STEPS;
        // From the top down: there is the image, and the direct map may be large.
        for range in ranges(&part, self.mode.depth).into_iter().rev() {
            let mut leaves = self.snapshot.leaves(self.root, range).limited(steps);
            for page in leaves.by_ref() {
                let Some(ram) = scan::ram_at(page.pa, &target.ram) else {
                    continue;
                };
                if page.rights.user {
                    continue;
                }
                let list = if page.rights.execute {
                    &mut code
                } else if page.rights.write {
                    &mut data
                } else {
                    continue;
                };
                if list.len() < MAX_PAGES {
                    let (va, pa) = (page.va, page.pa);
                    list.push(Page {
                        start: Anchor { va, pa },
                        bytes: page.size.bytes().min(ram.end().get() - pa.get()),
                    });
                }
            }
            steps = leaves.steps_left();
        }
        self.code = spread(&code);
        self.data = spread(&data);
        self.entries = of_each_entry(code.iter().chain(&data), self.mode.depth.top());
    }

    /// What the CPUs of the root that is known need; of one page once, because one entry of a table leads to all of it.
    fn add_registers(&mut self, target: &Target) {
        let mut pages: HashSet<PhysAddr> = HashSet::new();
        for cpu in &target.cpus {
            let root = cpu.cr3.without(target.encryption).root();
            if root.pfn() != self.snapshot.root(self.root).address.pfn() {
                continue;
            }
            let mut needed = vec![cpu.idt, cpu.gdt, cpu.tss];
            if cpu.cpl == 0 {
                needed.insert(0, Some(cpu.rip));
                self.data.extend(self.at(target, cpu.rsp));
            }
            let needed = needed.into_iter().flatten();
            let found: Vec<Anchor> = needed
                .filter(|va| self.page_at(*va).is_some_and(|page| pages.insert(page)))
                .filter_map(|va| self.at(target, va))
                .collect();
            self.code.extend(&found);
            if let Some(idt) = cpu.idt {
                self.idt = self.idt.or(self.at(target, idt));
            }
        }
    }

    /// Which of `suspects` translate all that tells a root, and are not known yet. A table of memory at its own
    /// address may do so, too, taken for a root: what is a table below the root of another is none.
    pub(super) fn roots_among(
        &self,
        target: &Target,
        suspects: &[Pfn],
        known: &HashSet<Pfn>,
    ) -> Vec<Pfn> {
        let memory = &*target.memory;
        let mut found: Vec<Pfn> = suspects
            .iter()
            .copied()
            .filter(|pfn| !known.contains(pfn) && self.lead_the_same(memory, *pfn))
            .collect();
        if found.is_empty() {
            return found;
        }
        let top = self.mode.depth.top();
        let mut below = HashSet::new();
        for &pfn in found.iter().chain(known) {
            for anchor in self.anchors() {
                let walk = translate_in_memory(memory, &self.mode, pfn.base(), anchor.va);
                let tables = walk.steps().iter().filter(|step| step.level != top);
                below.extend(tables.map(|step| step.table));
            }
        }
        found.retain(|pfn| !below.contains(pfn));
        found
    }

    /// Whether the root in `pfn` translates all that tells one: three in four of the code, and
    /// half of the data; or all below most entries, so that a root that lacks one is found, too.
    fn lead_the_same<M: PhysicalMemory + ?Sized>(&self, memory: &M, pfn: Pfn) -> bool {
        self.lead_to_code_and_data(memory, pfn) || self.most_entries_lead(memory, pfn)
    }

    fn most_entries_lead<M: PhysicalMemory + ?Sized>(&self, memory: &M, pfn: Pfn) -> bool {
        if self.entries.len() < MIN_ENTRIES {
            return false;
        }
        let may_fail = (self.entries.len() - 1) / 2;
        let leads = |entry: &&Vec<Anchor>| entry.iter().all(|at| self.leads(memory, pfn, at));
        let failed = self.entries.iter().filter(|entry| !leads(entry));
        failed.take(may_fail + 1).count() <= may_fail
    }

    fn lead_to_code_and_data<M: PhysicalMemory + ?Sized>(&self, memory: &M, pfn: Pfn) -> bool {
        let leads = |anchor: &&Anchor| self.leads(memory, pfn, anchor);
        let (code, data) = (&self.code, &self.data);
        if code.is_empty() && data.is_empty() {
            return false;
        }
        // One that leads elsewhere mostly tells at once.
        let may_fail = code.len() / 4;
        let failed = code.iter().filter(|anchor| !leads(anchor));
        if failed.take(may_fail + 1).count() > may_fail {
            return false;
        }
        2 * data.iter().filter(leads).count() >= data.len()
    }

    fn leads<M: PhysicalMemory + ?Sized>(&self, memory: &M, pfn: Pfn, anchor: &Anchor) -> bool {
        let walk = translate_in_memory(memory, &self.mode, pfn.base(), anchor.va);
        let found = walk.translation();
        found.is_some_and(|found| found.pa == anchor.pa)
    }

    /// The frames that may be roots: that have a table where a root has the way to the kernel's code, or to
    /// the interrupt descriptor table.
    pub(super) fn suspects(&self, target: &Target) -> Vec<Pfn> {
        let top = self.mode.depth.top();
        let anchors = self.code.first().or(self.data.first()).into_iter();
        let mut columns: Vec<u16> = anchors
            .chain(&self.idt)
            .map(|anchor| anchor.va.index(top))
            .collect();
        columns.dedup();
        scan::frames_where(&*target.memory, &target.ram, &columns, |_, entry| {
            may_lead_to_a_table(entry, &self.mode, target)
        })
    }

    /// Which of `suspects` show ring 3 a window of the kernel: pages for ring 3, and of the kernel's part
    /// little, but that leads where the kernel's own root leads, code or the interrupt descriptor table
    /// with it.
    pub(super) fn windows(
        &self,
        target: &Target,
        suspects: &[Pfn],
        known: &HashSet<Pfn>,
    ) -> Vec<Pfn> {
        let mut words = [0; 512];
        let user = all_but(&self.part);
        suspects
            .iter()
            .copied()
            .filter(|pfn| !known.contains(pfn))
            .filter(|pfn| {
                target.memory.read_table(*pfn, &mut words).is_ok()
                    && self.is_users(target, &words, &user)
            })
            .take(MAX_WINDOWS)
            .filter(|pfn| self.is_window(target, *pfn))
            .collect()
    }

    /// Whether there are entries for ring 3, and every entry is one that a kernel writes into a root.
    fn is_users(&self, target: &Target, words: &Words, user: &EntrySet) -> bool {
        let mut is_any = false;
        for (index, &word) in (0u16..).zip(words) {
            let entry = Entry::new(word);
            if !entry.present() {
                continue;
            }
            if !may_lead_to_a_table(entry, &self.mode, target) {
                return false;
            }
            if user.contains(index) {
                is_any = true;
                if !entry.user() {
                    return false;
                }
            }
        }
        is_any
    }

    fn is_window(&self, target: &Target, pfn: Pfn) -> bool {
        if let Some(idt) = &self.idt
            && !self.leads(&*target.memory, pfn, idt)
        {
            return false;
        }
        let memory = PartOnly {
            memory: &*target.memory,
            pfn,
            part: self.part,
        };
        let roots = [(RootLabel::Found(pfn.base()), pfn.base())];
        let window = Capturer::with_limit(WINDOW_TABLES).capture(&memory, self.mode, &roots);
        let root = window.roots()[0].id;
        let (mut same, mut other, mut is_way_in) = (0, 0, self.idt.is_some());
        for range in ranges(&self.part, self.mode.depth) {
            for page in window.leaves(root, range).take(WINDOW_PAGES) {
                let there = self.snapshot.translate(self.root, page.va);
                match there.translation() {
                    Some(found) if found.pa == page.pa && !page.rights.user => {
                        same += 1;
                        is_way_in |= page.rights.execute && found.rights.execute;
                    }
                    _ => other += 1,
                }
            }
        }
        is_way_in && same > 0 && same >= 3 * other && window.omitted() == 0
    }
}

/// Whether an entry of a root may point to a table: present, no page, and RAM there.
fn may_lead_to_a_table(entry: Entry, mode: &Mode, target: &Target) -> bool {
    match entry.decode(Level::Pml4, mode) {
        Decoded::Table(table) => scan::is_in_ram(table.base(), &target.ram),
        _ => false,
    }
}

/// Addresses in a few of all, from the first to the last. Where there are less than a few, several in each: the
/// first byte of a large page alone is where it is by other tables, too, that have little in common with these.
fn spread(all: &[Page]) -> Vec<Anchor> {
    let step = all.len().div_ceil(SAMPLES).max(1);
    let each = (SAMPLES / all.len().max(1)).max(1) as u64;
    let inside = |page: &Page| {
        let Page { start, bytes } = *page;
        let part = (bytes / each).max(PageSize::Size4KiB.bytes());
        (0..each)
            .map(move |number| number * part)
            .take_while(move |offset| *offset < bytes)
            .map(move |offset| Anchor {
                va: start.va.wrapping_add(offset),
                pa: start.pa.wrapping_add(offset),
            })
    };
    all.iter().step_by(step).flat_map(inside).collect()
}

/// The first pages below each entry of the root: those that a table of another kernel would not lead to.
fn of_each_entry<'a>(pages: impl Iterator<Item = &'a Page>, top: Level) -> Vec<Vec<Anchor>> {
    let mut entries: BTreeMap<u16, Vec<Anchor>> = BTreeMap::new();
    for page in pages {
        let entry = entries.entry(page.start.va.index(top)).or_default();
        if entry.len() < SAMPLES_OF_ENTRY {
            entry.push(page.start);
        }
    }
    entries.into_values().collect()
}

/// Memory in which a root has only some of its entries, the others reading as absent: whose they are does
/// not matter, and they may be anything.
pub(super) struct PartOnly<'a, M: ?Sized> {
    pub(super) memory: &'a M,
    pub(super) pfn: Pfn,
    pub(super) part: EntrySet,
}

impl<M: PhysicalMemory + ?Sized> PhysicalMemory for PartOnly<'_, M> {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_bytes(at, buffer)
    }

    fn read_table(&self, table: Pfn, words: &mut Words) -> Result<(), MemoryError> {
        self.memory.read_table(table, words)?;
        if table == self.pfn {
            for (index, word) in (0u16..).zip(words) {
                if !self.part.contains(index) {
                    *word = 0;
                }
            }
        }
        Ok(())
    }
}
