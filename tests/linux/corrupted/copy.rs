//! A copy of a Linux guest's core whose page tables are corrupted on purpose and restored.

use std::ops::Deref;
use std::path::PathBuf;

use heirloom_inspect::{Half, Mapping, PageSize, PhysAddr, RootId, VirtAddr, VirtRange};
use tempfile::TempDir;

use crate::command::core;
use crate::common::corrupted::{Tables, free_frames, is_users_own};
use crate::common::linux::Variant;
use crate::common::linux::core::Core;
use crate::image::{Image, Partner, partner_of};

/// The copy.
pub(crate) struct CorruptedImage {
    path: PathBuf,
    pub(crate) variant: Variant,
    tables: Tables,
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
    _folder: TempDir,
}

impl Deref for CorruptedImage {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.tables
    }
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
            path,
            variant,
            _folder: folder,
            tables: Tables::new(core, snapshot, free),
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

    /// Makes `root` the root of the last CPU.
    pub(crate) fn set_last_cr3(&self, root: PhysAddr) {
        let cpus = &Image::of(self.variant).moment.cpus;
        let cr3 = cpus[cpus.len() - 1].cr3.get();
        self.replace_last_cr3(cr3, root);
    }

    /// A 4 KiB page of the direct map, at `physical` or behind, that the kernel may write, its frame being no
    /// table.
    pub(crate) fn ordinary_page(&self, physical: u64) -> Mapping {
        let from = self.direct_map.wrapping_add(physical);
        self.page(self.kernel, from, |page| {
            page.size == PageSize::Size4KiB && page.rights.write && self.has_no_table(page)
        })
    }

    /// A 2 MiB page of the direct map that the kernel may write, with no table in it.
    pub(crate) fn large_page(&self) -> Mapping {
        self.page(self.kernel, self.direct_map, |page| {
            page.size == PageSize::Size2MiB && page.rights.write && self.has_no_table(page)
        })
    }
}
