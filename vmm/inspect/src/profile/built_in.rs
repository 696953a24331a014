//! The profiles that are built in.
//!
//! ```text
//! Linux, 4 levels      5 levels
//! 0xffff880000000000   0xff10000000000000   LDT remap, per address space
//! 0xffff888000000000   0xff11000000000000   direct map, and behind it vmalloc and vmemmap: KASLR moves them
//! 0xffffec0000000000   0xffdf000000000000   KASAN shadow
//! 0xfffffe0000000000   the same             cpu entry area
//! 0xffffff0000000000   the same             espfix stacks
//! 0xffffffef00000000   the same             EFI runtime
//! 0xffffffff80000000   the same             kernel image: linear, then modules
//! 0xffffffffff000000   the same             fixmap, with the vsyscall page
//!
//! Xen
//! 0xffff800000000000   machine-to-physical table, as guests read it
//! 0xffff810000000000   self-map of the running root, and of a shadowed one
//! 0xffff820000000000   per domain
//! 0xffff828000000000   machine-to-physical table
//! 0xffff82c000000000   vmap, ioremap, fixmap
//! 0xffff82d040000000   Xen's text and data
//! 0xffff82e000000000   page-frame information
//! 0xffff830000000000   direct map
//! 0xffff880000000000   a paravirtualized guest's own kernel
//! ```

use super::{AreaPlace, LayoutStyle, Mark, Name, PagePass, Profile};
use crate::layout::{Area, FIXMAP, KERNEL_IMAGE, KERNEL_IMAGE_LAST, VSYSCALL};
use crate::rules::exceptions as pass;
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::level::Depth;
use heirloom_paging::rights::Rights;

const fn range(first: u64, last: u64) -> VirtRange {
    VirtRange {
        first: VirtAddr::new(first),
        last: VirtAddr::new(last),
    }
}

const fn at(area: Area, first: u64, last: u64) -> AreaPlace {
    AreaPlace {
        area,
        range: range(first, last),
        depth: None,
        private: false,
    }
}

const fn with(depth: Depth, place: AreaPlace) -> AreaPlace {
    AreaPlace {
        depth: Some(depth),
        ..place
    }
}

const fn private(place: AreaPlace) -> AreaPlace {
    AreaPlace {
        private: true,
        ..place
    }
}

const fn other(name: &'static str) -> Area {
    Area::Other(Name::fixed(name))
}

const IMAGE: VirtRange = VirtRange {
    first: KERNEL_IMAGE,
    last: KERNEL_IMAGE_LAST,
};
const CPU_ENTRY_AREA: VirtRange = range(0xffff_fe00_0000_0000, 0xffff_fe7f_ffff_ffff);
/// Where Linux may have its direct map.
const LINUX_MEMORY: [(Depth, VirtRange); 2] = [
    (
        Depth::Four,
        range(0xffff_8880_0000_0000, 0xffff_ebff_ffff_ffff),
    ),
    (
        Depth::Five,
        range(0xff11_0000_0000_0000, 0xffdf_ffff_ffff_ffff),
    ),
];
/// All that is Xen's.
const XEN: VirtRange = range(0xffff_8000_0000_0000, 0xffff_87ff_ffff_ffff);
/// With what Xen reserves behind it: all of an entry of the root.
const XEN_GUEST_TABLE: VirtRange = range(0xffff_8000_0000_0000, 0xffff_807f_ffff_ffff);
const XEN_TEXT: VirtRange = range(0xffff_82d0_4000_0000, 0xffff_82d0_bfff_ffff);
const READ_ONLY_FOR_ALL: Rights = Rights {
    write: false,
    user: true,
    execute: false,
};

impl Profile {
    /// Linux (Documentation/arch/x86/x86_64/mm.rst).
    pub fn linux() -> Profile {
        Profile {
            name: Name::fixed("linux"),
            marks: vec![
                Mark::Text {
                    text: "Linux version ".into(),
                    digit_follows: true,
                    range: Some(IMAGE),
                },
                Mark::All(vec![
                    Mark::Code(IMAGE),
                    Mark::Pages(CPU_ENTRY_AREA),
                    Mark::Memory(LINUX_MEMORY.to_vec()),
                ]),
            ],
            areas: linux_areas(),
            names: Vec::new(),
            layout: LayoutStyle::Linux,
            self_maps: Vec::new(),
            exceptions: vec![
                pass::LDT_REMAP,
                pass::VSYSCALL,
                pass::GLOBAL_IMAGE,
                pass::CPU_TSS,
                pass::ESPFIX,
                pass::SHADOW,
                pass::HUGETLB,
                pass::TRAMPOLINE,
                pass::ISA_HOLE,
                pass::LINUX_EARLY_BOOT,
            ],
            pages: Vec::new(),
            kernel_half: None,
        }
    }

    /// Xen 4 (its include/asm-x86/config.h).
    pub fn xen() -> Profile {
        Profile {
            name: Name::fixed("xen"),
            marks: vec![Mark::Code(XEN_TEXT)],
            areas: vec![
                private(AreaPlace {
                    range: XEN_GUEST_TABLE,
                    ..at(other("machine-to-physical table for guests"), 0, 0)
                }),
                at(
                    other("PCI configuration"),
                    0xffff_8080_0000_0000,
                    0xffff_80ff_ffff_ffff,
                ),
                private(at(
                    other("per domain"),
                    0xffff_8200_0000_0000,
                    0xffff_827f_ffff_ffff,
                )),
                at(
                    other("machine-to-physical table"),
                    0xffff_8280_0000_0000,
                    0xffff_82bf_ffff_ffff,
                ),
                at(
                    other("vmap and fixmap"),
                    0xffff_82c0_0000_0000,
                    0xffff_82cf_ffff_ffff,
                ),
                at(
                    other("compatibility table"),
                    0xffff_82d0_0000_0000,
                    0xffff_82d0_3fff_ffff,
                ),
                AreaPlace {
                    range: XEN_TEXT,
                    ..at(Area::KernelImage, 0, 0)
                },
                at(
                    other("page-frame table"),
                    0xffff_82e0_0000_0000,
                    0xffff_82ff_ffff_ffff,
                ),
                at(
                    Area::DirectMap,
                    0xffff_8300_0000_0000,
                    0xffff_87ff_ffff_ffff,
                ),
                at(other("guest kernel"), 0xffff_8800_0000_0000, u64::MAX),
            ],
            names: vec![(Area::KernelImage, Name::fixed("Xen's image"))],
            layout: LayoutStyle::ByContent,
            self_maps: vec![258, 259],
            exceptions: vec![
                pass::ISA_HOLE,
                pass::EARLY_BOOT,
                pass::PRIVATE_AREA,
                pass::PV_PAIR,
                pass::TRAMPOLINE,
                pass::WRITABLE_DIRECT_MAP,
            ],
            pages: vec![
                PagePass {
                    exception: pass::GUEST_TABLE,
                    rule: Name::fixed("kernel-not-user"),
                    range: XEN_GUEST_TABLE,
                    at_most: READ_ONLY_FOR_ALL,
                },
                PagePass {
                    exception: pass::PV_TABLES_READ,
                    rule: Name::fixed("tables-not-user-mapped"),
                    range: range(0xffff_8800_0000_0000, u64::MAX),
                    at_most: READ_ONLY_FOR_ALL,
                },
            ],
            kernel_half: Some(XEN),
        }
    }

    /// The guest kernel of this project, which has Linux's layout without KASLR.
    pub fn heirloom() -> Profile {
        Profile {
            name: Name::fixed("heirloom"),
            marks: vec![Mark::Text {
                text: "heirloom guest kernel ".into(),
                digit_follows: true,
                range: Some(IMAGE),
            }],
            areas: linux_areas(),
            names: Vec::new(),
            layout: LayoutStyle::Linux,
            self_maps: Vec::new(),
            exceptions: vec![pass::PRIVATE_COPIES, pass::ISA_HOLE],
            pages: Vec::new(),
            kernel_half: None,
        }
    }

    /// A kernel of which nothing is known.
    pub fn generic() -> Profile {
        Profile {
            name: Name::fixed("generic"),
            marks: Vec::new(),
            areas: Vec::new(),
            names: vec![
                (
                    Area::DirectMap,
                    Name::fixed("linear map of physical memory"),
                ),
                (Area::KernelImage, Name::fixed("kernel code")),
                (Area::Kernel, Name::fixed("kernel memory")),
            ],
            layout: LayoutStyle::ByContent,
            self_maps: Vec::new(),
            exceptions: vec![
                pass::BEYOND_RAM,
                pass::BOOT_MAP,
                pass::ENTRY_FLAGS,
                pass::PRIVATE_COPIES,
                pass::EACH_ITS_OWN,
                pass::NO_NX_GUARD,
                pass::WRITABLE_DIRECT_MAP,
                pass::SHADOW,
            ],
            pages: Vec::new(),
            kernel_half: None,
        }
    }
}

/// The areas of Linux that have the same place on every boot.
fn linux_areas() -> Vec<AreaPlace> {
    vec![
        with(
            Depth::Four,
            at(Area::Ldt, 0xffff_8800_0000_0000, 0xffff_887f_ffff_ffff),
        ),
        with(
            Depth::Five,
            at(Area::Ldt, 0xff10_0000_0000_0000, 0xff10_ffff_ffff_ffff),
        ),
        with(
            Depth::Four,
            at(Area::SHADOW, 0xffff_ec00_0000_0000, 0xffff_fbff_ffff_ffff),
        ),
        with(
            Depth::Five,
            at(Area::SHADOW, 0xffdf_0000_0000_0000, 0xffff_fbff_ffff_ffff),
        ),
        AreaPlace {
            range: CPU_ENTRY_AREA,
            ..at(Area::CpuEntryArea, 0, 0)
        },
        at(Area::EspFix, 0xffff_ff00_0000_0000, 0xffff_ff7f_ffff_ffff),
        at(Area::Efi, 0xffff_ffef_0000_0000, 0xffff_fffe_ffff_ffff),
        at(Area::Fixmap, FIXMAP.get(), VSYSCALL.get() - 1),
        at(Area::Vsyscall, VSYSCALL.get(), VSYSCALL.get() + 0xfff),
    ]
}
