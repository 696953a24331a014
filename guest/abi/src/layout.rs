//! The guest's virtual address space: Linux's layouts for four and for five levels
//! (Documentation/arch/x86/x86_64/mm.rst), so that one set of names serves both kernels. Which of the two holds is
//! a value, the [`Depth`] of the page tables: 5 levels where the CPU has them.
//!
//! Four levels, where an entry of the PGD has 512 GiB:
//!
//! ```text
//!                        PGD entries
//! 0x0000000000000000 ┬─  0 … 255    user half: each process its own
//! 0x0000800000000000 ┴─
//!        …                          the canonical hole: bits 63–47 must be equal
//! 0xffff800000000000 ┬─  256        kernel half: inherited by every process
//! 0xffff880000000000 ├─  272        LDT: per address space
//! 0xffff888000000000 ├─  273 … 400  direct map: all of physical memory
//! 0xffffc90000000000 ├─  402 … 465  vmalloc: pages mapped one by one
//! 0xffffea0000000000 ├─  468 … 469  vmemmap: one `struct page` per frame
//! 0xfffffe0000000000 ├─  508        cpu entry area: what ring 3's entry needs
//! 0xffffffff80000000 ├─  511        kernel image
//! 0xffffffffffffffff ┴─
//! ```
//!
//! Five levels, where an entry of the PML5, which is the PGD then, has 256 TiB. The last one holds both the CPU
//! entry area and the kernel image, which lie where they lie with four:
//!
//! ```text
//!                        PGD entries
//! 0x0000000000000000 ┬─  0 … 255    user half
//! 0x0100000000000000 ┴─
//!        …                          the canonical hole: bits 63–56 must be equal
//! 0xff00000000000000 ┬─  256        kernel half
//! 0xff10000000000000 ├─  272        LDT
//! 0xff11000000000000 ├─  273 … 400  direct map
//! 0xffa0000000000000 ├─  416 … 465  vmalloc
//! 0xffd4000000000000 ├─  468 … 469  vmemmap
//! 0xfffffe0000000000 ├─  511        cpu entry area
//! 0xffffffff80000000 ├─  511        kernel image
//! 0xffffffffffffffff ┴─
//! ```

pub use heirloom_paging::Depth;
use heirloom_paging::{Half, VirtAddr, VirtRange};

/// Where the kernel image is linked minus where it is loaded: virtual = physical + this.
pub const KERNEL_IMAGE_OFFSET: u64 = Region::KernelImage.start(Depth::Four);

/// Where the CPU entry area begins, with four levels and with five.
pub const CPU_ENTRY_AREA: u64 = Region::CpuEntryArea.start(Depth::Four);

/// First PGD entry of the kernel half.
pub const KERNEL_HALF_FIRST_ENTRY: usize = Half::KERNEL_FIRST as usize;

/// First virtual address that ring 3 never owns; the end of the 47-bit or 56-bit user half.
#[must_use]
pub const fn user_end(depth: Depth) -> u64 {
    Region::User.end(depth)
}

/// First virtual address of the kernel half.
#[must_use]
pub const fn kernel_half(depth: Depth) -> u64 {
    VirtRange::of_top_entry(Half::KERNEL_FIRST, depth)
        .first
        .get()
}

/// Which entry of a PGD translates a virtual address.
#[must_use]
pub const fn pgd_index(va: u64, depth: Depth) -> usize {
    VirtAddr::new(va).index(depth.top()) as usize
}

/// A named part of the virtual address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// The user half: ring 3's memory, each process its own.
    User,
    /// Linux's local descriptor tables; this kernel has none.
    Ldt,
    /// All of physical memory, each frame at its number.
    DirectMap,
    /// Kernel memory that comes and goes, page by page.
    Vmalloc,
    /// What the kernel knows of each frame.
    Vmemmap,
    /// What the CPU needs to get from ring 3 into the kernel.
    CpuEntryArea,
    /// Text, constants and data of the kernel.
    KernelImage,
}

impl Region {
    /// All regions in ascending address order.
    pub const ALL: [Region; 7] = [
        Region::User,
        Region::Ldt,
        Region::DirectMap,
        Region::Vmalloc,
        Region::Vmemmap,
        Region::CpuEntryArea,
        Region::KernelImage,
    ];

    /// First virtual address of the region.
    #[must_use]
    pub const fn start(self, depth: Depth) -> u64 {
        match (self, depth) {
            (Region::User, _) => 0,
            (Region::Ldt, Depth::Four) => 0xffff_8800_0000_0000,
            (Region::Ldt, Depth::Five) => 0xff10_0000_0000_0000,
            (Region::DirectMap, Depth::Four) => 0xffff_8880_0000_0000,
            (Region::DirectMap, Depth::Five) => 0xff11_0000_0000_0000,
            (Region::Vmalloc, Depth::Four) => 0xffff_c900_0000_0000,
            (Region::Vmalloc, Depth::Five) => 0xffa0_0000_0000_0000,
            (Region::Vmemmap, Depth::Four) => 0xffff_ea00_0000_0000,
            (Region::Vmemmap, Depth::Five) => 0xffd4_0000_0000_0000,
            (Region::CpuEntryArea, _) => 0xffff_fe00_0000_0000,
            (Region::KernelImage, _) => 0xffff_ffff_8000_0000,
        }
    }

    /// First virtual address after the region. The kernel image's is its last page, because its
    /// true end is 2^64.
    #[must_use]
    pub const fn end(self, depth: Depth) -> u64 {
        match (self, depth) {
            (Region::User, Depth::Four) => 0x0000_8000_0000_0000,
            (Region::User, Depth::Five) => 0x0100_0000_0000_0000,
            (Region::Ldt, Depth::Four) => 0xffff_8880_0000_0000,
            (Region::Ldt, Depth::Five) => 0xff11_0000_0000_0000,
            (Region::DirectMap, Depth::Four) => 0xffff_c880_0000_0000,
            (Region::DirectMap, Depth::Five) => 0xff91_0000_0000_0000,
            (Region::Vmalloc, Depth::Four) => 0xffff_e900_0000_0000,
            (Region::Vmalloc, Depth::Five) => 0xffd2_0000_0000_0000,
            (Region::Vmemmap, Depth::Four) => 0xffff_eb00_0000_0000,
            (Region::Vmemmap, Depth::Five) => 0xffd6_0000_0000_0000,
            (Region::CpuEntryArea, _) => 0xffff_fe80_0000_0000,
            (Region::KernelImage, _) => 0xffff_ffff_ffff_f000,
        }
    }

    /// The name people use for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Region::User => "user",
            Region::Ldt => "LDT",
            Region::DirectMap => "direct map",
            Region::Vmalloc => "vmalloc",
            Region::Vmemmap => "vmemmap",
            Region::CpuEntryArea => "cpu entry area",
            Region::KernelImage => "kernel image",
        }
    }

    /// The PGD entries it spans, first and last.
    #[must_use]
    pub const fn pgd_entries(self, depth: Depth) -> (usize, usize) {
        (
            pgd_index(self.start(depth), depth),
            pgd_index(self.end(depth) - 1, depth),
        )
    }

    /// Whether `va` lies in the region.
    #[must_use]
    pub const fn contains(self, va: u64, depth: Depth) -> bool {
        self.start(depth) <= va && va < self.end(depth)
    }

    /// The region that `va` lies in, if it has a name.
    #[must_use]
    pub fn of(va: u64, depth: Depth) -> Option<Region> {
        let mut regions = Region::ALL.into_iter();
        regions.find(|region| region.contains(va, depth))
    }

    /// The region that PGD entry `index` belongs to, if it has a name; the lowest of several.
    #[must_use]
    pub fn of_pgd_entry(index: usize, depth: Depth) -> Option<Region> {
        Region::ALL.into_iter().find(|region| {
            let (first, last) = region.pgd_entries(depth);
            (first..=last).contains(&index)
        })
    }
}

// The tables of entries above are arithmetic, not prose.
const _: () = {
    assert!(matches!(Region::User.pgd_entries(Depth::Four), (0, 255)));
    assert!(matches!(Region::Ldt.pgd_entries(Depth::Four), (272, 272)));
    assert!(matches!(
        Region::DirectMap.pgd_entries(Depth::Four),
        (273, 400)
    ));
    assert!(matches!(
        Region::Vmalloc.pgd_entries(Depth::Four),
        (402, 465)
    ));
    assert!(matches!(
        Region::Vmemmap.pgd_entries(Depth::Four),
        (468, 469)
    ));
    assert!(matches!(
        Region::CpuEntryArea.pgd_entries(Depth::Four),
        (508, 508)
    ));
    assert!(matches!(
        Region::KernelImage.pgd_entries(Depth::Four),
        (511, 511)
    ));
    assert!(matches!(Region::User.pgd_entries(Depth::Five), (0, 255)));
    assert!(matches!(Region::Ldt.pgd_entries(Depth::Five), (272, 272)));
    assert!(matches!(
        Region::DirectMap.pgd_entries(Depth::Five),
        (273, 400)
    ));
    assert!(matches!(
        Region::Vmalloc.pgd_entries(Depth::Five),
        (416, 465)
    ));
    assert!(matches!(
        Region::Vmemmap.pgd_entries(Depth::Five),
        (468, 469)
    ));
    assert!(matches!(
        Region::CpuEntryArea.pgd_entries(Depth::Five),
        (511, 511)
    ));
    assert!(matches!(
        Region::KernelImage.pgd_entries(Depth::Five),
        (511, 511)
    ));
};

#[cfg(test)]
mod tests {
    use super::*;

    const DEPTHS: [Depth; 2] = [Depth::Four, Depth::Five];

    #[test]
    fn regions_ascend_and_never_overlap() {
        for depth in DEPTHS {
            for pair in Region::ALL.windows(2) {
                assert!(pair[0].end(depth) <= pair[1].start(depth), "{pair:?}");
            }
        }
    }

    #[test]
    fn every_region_finds_itself_by_address_and_by_entry() {
        for depth in DEPTHS {
            for region in Region::ALL {
                assert_eq!(Region::of(region.start(depth), depth), Some(region));
                assert_eq!(Region::of(region.end(depth) - 1, depth), Some(region));
                let found = Region::of_pgd_entry(region.pgd_entries(depth).0, depth);
                // The last entry of five levels holds two.
                let expected = match (region, depth) {
                    (Region::KernelImage, Depth::Five) => Region::CpuEntryArea,
                    _ => region,
                };
                assert_eq!(found, Some(expected));
            }
            assert_eq!(Region::of_pgd_entry(256, depth), None);
        }
        assert_eq!(Region::of(0xffff_8000_0000_0000, Depth::Four), None);
        assert_eq!(Region::of(0xff00_0000_0000_0000, Depth::Five), None);
    }
}
