//! The parts of a kernel half by name, and the places that Linux gives to some of them.

use std::fmt;

use serde::Serialize;

use super::Layout;
use crate::snapshot::Snapshot;
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::level::Depth;

/// A part of the virtual address space, by the name that people use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// The lower half: what processes map.
    User,
    /// Linux: the page of local descriptor tables and what else belongs to one address space.
    Ldt,
    /// All physical memory, linearly.
    DirectMap,
    /// Dynamically mapped kernel memory.
    Vmalloc,
    /// The array of `struct page`.
    Vmemmap,
    /// Linux: what stays mapped of the kernel while ring 3 runs.
    CpuEntryArea,
    /// Linux: stacks for returns to 16-bit segments.
    EspFix,
    /// Linux: run-time services of the firmware.
    Efi,
    /// The kernel's own text and data.
    KernelImage,
    /// Loadable modules.
    Modules,
    /// Linux: addresses fixed at compile time.
    Fixmap,
    /// Linux: the legacy page of system calls.
    Vsyscall,
    /// Entries of roots that point to roots: recursive paging.
    SelfMap,
    /// What a kernel has in the lower half, for ring 0 alone.
    Kernel,
}

impl Area {
    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Area::User => "user",
            Area::Ldt => "LDT",
            Area::DirectMap => "direct map",
            Area::Vmalloc => "vmalloc",
            Area::Vmemmap => "vmemmap",
            Area::CpuEntryArea => "cpu entry area",
            Area::EspFix => "espfix",
            Area::Efi => "EFI",
            Area::KernelImage => "kernel image",
            Area::Modules => "modules",
            Area::Fixmap => "fixmap",
            Area::Vsyscall => "vsyscall",
            Area::SelfMap => "self-map",
            Area::Kernel => "kernel",
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

pub(super) const FIXMAP: VirtAddr = VirtAddr::new(0xffff_ffff_ff00_0000);
/// The page of the legacy system calls.
pub(crate) const VSYSCALL: VirtAddr = VirtAddr::new(0xffff_ffff_ff60_0000);
/// `page_offset_base` without KASLR.
pub(super) const fn default_direct_map(depth: Depth) -> u64 {
    match depth {
        Depth::Four => 0xffff_8880_0000_0000,
        Depth::Five => 0xff11_0000_0000_0000,
    }
}

/// Where Linux maps the LDT of a process that has one.
pub(crate) fn ldt_area(depth: Depth) -> VirtRange {
    fixed_areas(depth)[0].1
}

/// Where Linux maps what ring 3's way into the kernel needs.
pub(crate) fn cpu_entry_area(depth: Depth) -> VirtRange {
    fixed_areas(depth)[1].1
}

/// The area that `va` lies in: of those that the layout's kernel half uses, or else by Linux's fixed
/// addresses, which only some address spaces may use.
pub(crate) fn area_at(layout: &Layout, snapshot: &Snapshot, va: VirtAddr) -> Option<Area> {
    layout.area_of(va).or_else(|| {
        fixed_areas(snapshot.mode().depth)
            .into_iter()
            .find(|(_, range)| range.contains(va))
            .map(|(area, _)| area)
    })
}

/// The areas that have the same place on every boot.
pub(super) fn fixed_areas(depth: Depth) -> [(Area, VirtRange); 6] {
    let range = |first: u64, last: u64| VirtRange {
        first: VirtAddr::new(first),
        last: VirtAddr::new(last),
    };
    let ldt = match depth {
        Depth::Four => range(0xffff_8800_0000_0000, 0xffff_887f_ffff_ffff),
        Depth::Five => range(0xff10_0000_0000_0000, 0xff10_ffff_ffff_ffff),
    };
    [
        (Area::Ldt, ldt),
        (
            Area::CpuEntryArea,
            range(0xffff_fe00_0000_0000, 0xffff_fe7f_ffff_ffff),
        ),
        (
            Area::EspFix,
            range(0xffff_ff00_0000_0000, 0xffff_ff7f_ffff_ffff),
        ),
        (
            Area::Efi,
            range(0xffff_ffef_0000_0000, 0xffff_fffe_ffff_ffff),
        ),
        (Area::Fixmap, range(FIXMAP.get(), VSYSCALL.get() - 1)),
        (
            Area::Vsyscall,
            range(VSYSCALL.get(), VSYSCALL.get() + 0xfff),
        ),
    ]
}
