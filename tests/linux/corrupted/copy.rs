//! A copy of a guest's core whose page tables are corrupted on purpose and restored.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;

use heirloom_inspect::{
    Entry, Half, Level, Mapping, Mode, PageSize, Pfn, PhysAddr, PhysicalMemory, RootId, Snapshot,
    VirtAddr, VirtRange, Walk, translate_in_memory,
};
use tempfile::TempDir;

use crate::command::core;
use crate::common::linux::Variant;
use crate::common::linux::core::Core;
use crate::image::{Image, Partner, partner_of};

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) table: Pfn,
    pub(crate) index: u16,
}

/// The copy.
pub(crate) struct CorruptedImage {
    path: PathBuf,
    pub(crate) variant: Variant,
    core: Core,
    mode: Mode,
    snapshot: Snapshot,
    /// The kernel's own root.
    pub(crate) kernel: PhysAddr,
    /// Kernel roots of two processes.
    pub(crate) process: PhysAddr,
    pub(crate) other_process: PhysAddr,
    /// A process with an LDT, if the kernel maps LDTs.
    pub(crate) with_ldt: Option<PhysAddr>,
    /// Where the direct map begins.
    pub(crate) direct_map: VirtAddr,
    pub(crate) vmalloc: VirtAddr,
    /// The first address of the kernel's text.
    pub(crate) text: VirtAddr,
    /// Frames that are free and all zero; some have been taken.
    free: Vec<Pfn>,
    taken: Cell<usize>,
    /// What stood where, the oldest first.
    undo: RefCell<Vec<(PhysAddr, u64)>>,
    _folder: TempDir,
}

impl CorruptedImage {
    /// A copy of a variant's core.
    pub(crate) fn copy_of(variant: Variant) -> CorruptedImage {
        let image = Image::of(variant);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("core");
        std::fs::copy(&image.moment.core, &path).unwrap();
        let core = Core::open_to_change(&path);
        let kernel_data = image.kernel_data(&core);
        let snapshot = image.capture();
        let has_own_pages = |root: RootId| {
            let mut pages = snapshot.leaves(root, VirtRange::half(Half::User));
            pages.any(|page| is_users_own(&page))
        };
        let ldt = VirtAddr::new(if variant.la57 {
            0xff10_0000_0000_0000
        } else {
            0xffff_8800_0000_0000
        });
        let mut processes = Vec::new();
        let mut with_ldt = None;
        for root in snapshot.roots() {
            let is_user_root = variant.pti && root.address.get() & 0x1000 != 0;
            if is_user_root || !has_own_pages(root.id) {
                continue;
            }
            if snapshot.translate(root.id, ldt).translation().is_some() {
                with_ldt = Some(root.address);
            } else if !image.moment.cpus.iter().any(|cpu| {
                let on = cpu.cr3.root();
                on == root.address || variant.pti && partner_of(on, Partner::Kernel) == root.address
            }) {
                processes.push(root.address);
            }
        }
        let free = free_frames(&core, |pfn| kernel_data.is_free(pfn));
        let address = |va| VirtAddr::new(va);
        CorruptedImage {
            kernel: kernel_data.init_top_pgt(),
            process: processes[3],
            other_process: processes[7],
            with_ldt,
            direct_map: address(kernel_data.base_of("page_offset_base")),
            vmalloc: address(kernel_data.base_of("vmalloc_base")),
            text: address(image.guest.listing.symbol("_text")),
            mode: image.moment.mode(),
            path,
            variant,
            snapshot,
            free,
            taken: Cell::new(0),
            undo: RefCell::new(Vec::new()),
            _folder: folder,
            core,
        }
    }

    /// The user root of a process.
    pub(crate) fn user_root(&self, root: PhysAddr) -> PhysAddr {
        assert!(self.variant.pti);
        partner_of(root, Partner::User)
    }

    /// What `heirloom` is told to look at.
    pub(crate) fn target(&self) -> String {
        core(&self.path)
    }

    /// Makes `root` the root of the last CPU; this is not restored.
    pub(crate) fn set_last_cr3(&self, root: PhysAddr) {
        let cpus = &Image::of(self.variant).moment.cpus;
        let cr3 = cpus[cpus.len() - 1].cr3.get();
        self.core.replace_last_register(cr3, root.get());
    }

    /// The top level of a walk.
    pub(crate) fn top(&self) -> Level {
        self.mode.depth.top()
    }

    /// The walk of `va` as the tables stand now.
    pub(crate) fn walk(&self, root: PhysAddr, va: VirtAddr) -> Walk {
        translate_in_memory(&self.core, &self.mode, root, va)
    }

    /// The entry at `level` of the walk of `va`.
    pub(crate) fn place(&self, root: PhysAddr, va: VirtAddr, level: Level) -> Place {
        let walk = self.walk(root, va);
        let step = walk.steps().iter().find(|step| step.level == level);
        let step = step.unwrap_or_else(|| panic!("no {level} in {walk}"));
        Place {
            table: step.table,
            index: step.index,
        }
    }

    /// The last entry of the walk of `va`.
    pub(crate) fn leaf(&self, root: PhysAddr, va: VirtAddr) -> Place {
        let walk = self.walk(root, va);
        assert!(walk.translation().is_some(), "{walk}");
        let step = walk.steps().last().unwrap();
        Place {
            table: step.table,
            index: step.index,
        }
    }

    pub(crate) fn entry(&self, place: Place) -> Entry {
        self.core.read_entry(place.table, place.index).unwrap()
    }

    /// The frame of the table that an entry points to.
    pub(crate) fn below(&self, place: Place) -> Pfn {
        let entry = self.entry(place);
        assert!(entry.present());
        entry.address().pfn()
    }

    pub(crate) fn set(&self, place: Place, entry: Entry) {
        let at = place.table.base().wrapping_add(8 * u64::from(place.index));
        let before = self.core.read_u64(at).unwrap();
        self.undo.borrow_mut().push((at, before));
        self.core.write_u64(at, entry.get());
    }

    /// Sets bits of an entry.
    pub(crate) fn add(&self, place: Place, bits: Entry) {
        self.set(place, self.entry(place) | bits);
    }

    /// Makes an entry point to another frame.
    pub(crate) fn point(&self, place: Place, to: Pfn) {
        let flags = self.entry(place).get() & !0x000f_ffff_ffff_f000;
        self.set(place, Entry::pointing_to(to.base(), Entry::new(flags)));
    }

    /// A frame that nobody uses, all zero.
    pub(crate) fn free_frame(&self) -> Pfn {
        let taken = self.taken.get();
        self.taken.set(taken + 1);
        self.free[taken]
    }

    /// A copy of a table.
    pub(crate) fn copy_table(&self, table: Pfn) -> Pfn {
        let copy = self.free_frame();
        for index in 0..512 {
            let entry = self.entry(Place { table, index });
            if entry != Entry::ABSENT {
                let place = Place { table: copy, index };
                self.set(place, entry);
            }
        }
        copy
    }

    /// The first entry of a table that is empty, from `from` on.
    pub(crate) fn empty(&self, table: Pfn, from: u16) -> Place {
        (from..512)
            .map(|index| Place { table, index })
            .find(|place| self.entry(*place) == Entry::ABSENT)
            .unwrap()
    }

    /// The first page of an address space, from `from` on, that is as wanted.
    pub(crate) fn page(
        &self,
        root: PhysAddr,
        from: VirtAddr,
        wanted: impl Fn(&Mapping) -> bool,
    ) -> Mapping {
        let roots = self.snapshot.roots();
        let root = roots.iter().find(|found| found.address == root).unwrap();
        let range = VirtRange {
            first: from,
            last: VirtRange::ALL.last,
        };
        let mut pages = self.snapshot.leaves(root.id, range);
        pages.find(|page| wanted(page)).unwrap()
    }

    /// All pages of a root's kernel half.
    pub(crate) fn kernel_pages(&self, root: PhysAddr) -> Vec<Mapping> {
        let roots = self.snapshot.roots();
        let root = roots.iter().find(|found| found.address == root).unwrap();
        let pages = self.snapshot.leaves(root.id, VirtRange::half(Half::Kernel));
        pages.collect()
    }

    /// A 4 KiB page of the direct map, at `physical` or behind, that the kernel may write, its frame being no
    /// table.
    pub(crate) fn ordinary_page(&self, physical: u64) -> Mapping {
        let from = self.direct_map.wrapping_add(physical);
        self.page(self.kernel, from, |page| {
            page.size == PageSize::Size4KiB
                && page.rights.write
                && self.snapshot.levels_of(page.pa.pfn()).next().is_none()
        })
    }

    /// A 2 MiB page of the direct map that the kernel may write, with no table in it.
    pub(crate) fn large_page(&self) -> Mapping {
        self.page(self.kernel, self.direct_map, |page| {
            let first = page.pa.pfn().get();
            page.size == PageSize::Size2MiB
                && page.rights.write
                && (first..first + 512)
                    .all(|pfn| self.snapshot.levels_of(Pfn::new(pfn)).next().is_none())
        })
    }

    /// Every entry that was written since it was last restored.
    pub(crate) fn written(&self) -> BTreeSet<(Pfn, u64)> {
        let entry_of = |at: PhysAddr| (at.pfn(), at.get() % 4096 / 8);
        let undo = self.undo.borrow();
        undo.iter().map(|(at, _)| entry_of(*at)).collect()
    }

    /// Makes everything as it was.
    pub(crate) fn restore(&self) {
        for (at, before) in self.undo.borrow_mut().drain(..).rev() {
            self.core.write_u64(at, before);
        }
        self.taken.set(0);
    }
}

/// Whether a process may write to a page, and it is a small one.
pub(crate) fn is_users_own(page: &Mapping) -> bool {
    page.rights.user && page.rights.write && page.size == PageSize::Size4KiB
}

/// Free frames that hold nothing but zeroes; a few dozen are enough.
fn free_frames(core: &Core, is_free: impl Fn(Pfn) -> bool) -> Vec<Pfn> {
    let ram = core.ram().next().unwrap();
    let mut words = [0; 512];
    let frames = ram.whole_frames();
    // From the middle on: the first megabytes are special.
    let middle = Pfn::new(u64::midpoint(frames.start, frames.end) / 4096);
    (middle.get()..frames.end / 4096)
        .map(Pfn::new)
        .filter(|pfn| {
            core.read_table(*pfn, &mut words).is_ok() && words.iter().all(|word| *word == 0)
        })
        .filter(|pfn| is_free(*pfn))
        .take(32)
        .collect()
}
