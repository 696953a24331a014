//! The parts of a kernel half by name.

use std::fmt;

use serde::Serialize;

use super::Layout;
use crate::profile::Name;
use heirloom_paging::addr::VirtAddr;
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
    /// What else a kernel has, for ring 0 alone.
    Kernel,
    /// Nothing but what is no RAM.
    Devices,
    /// A part that only some kernels have, by their own name.
    #[serde(untagged)]
    Other(Name),
}

impl Area {
    /// Those that all kernels may have.
    pub const KNOWN: [Area; 15] = [
        Area::User,
        Area::Ldt,
        Area::DirectMap,
        Area::Vmalloc,
        Area::Vmemmap,
        Area::CpuEntryArea,
        Area::EspFix,
        Area::Efi,
        Area::KernelImage,
        Area::Modules,
        Area::Fixmap,
        Area::Vsyscall,
        Area::SelfMap,
        Area::Kernel,
        Area::Devices,
    ];

    /// What says of memory whether it may be accessed, for sanitizers.
    pub(crate) const SHADOW: Area = Area::Other(Name::fixed("KASAN shadow"));

    /// As JSON and profiles have it.
    pub const fn word(self) -> &'static str {
        match self {
            Area::User => "user",
            Area::Ldt => "ldt",
            Area::DirectMap => "direct-map",
            Area::Vmalloc => "vmalloc",
            Area::Vmemmap => "vmemmap",
            Area::CpuEntryArea => "cpu-entry-area",
            Area::EspFix => "esp-fix",
            Area::Efi => "efi",
            Area::KernelImage => "kernel-image",
            Area::Modules => "modules",
            Area::Fixmap => "fixmap",
            Area::Vsyscall => "vsyscall",
            Area::SelfMap => "self-map",
            Area::Kernel => "kernel",
            Area::Devices => "devices",
            Area::Other(name) => name.as_str(),
        }
    }

    /// As it is printed, where the kernel's profile has no other name for it.
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
            Area::Devices => "device window",
            Area::Other(name) => name.as_str(),
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Linux's mappings that are made at compile time.
pub(crate) const FIXMAP: VirtAddr = VirtAddr::new(0xffff_ffff_ff00_0000);
/// The page of the legacy system calls.
pub(crate) const VSYSCALL: VirtAddr = VirtAddr::new(0xffff_ffff_ff60_0000);
/// `page_offset_base` without KASLR.
pub(super) const fn default_direct_map(depth: Depth) -> u64 {
    match depth {
        Depth::Four => 0xffff_8880_0000_0000,
        Depth::Five => 0xff11_0000_0000_0000,
    }
}

/// The area that `va` lies in: of those that the layout's kernel half uses, or else by the profile's
/// places, which only some address spaces may use.
pub(crate) fn area_at(layout: &Layout, va: VirtAddr) -> Option<Area> {
    layout.area_of(va).or_else(|| {
        let mut places = layout.places.iter();
        let place = places.find(|(_, range)| range.contains(va));
        place.map(|(area, _)| *area)
    })
}
