//! The guest's virtual address space: Linux's 4-level layout (Documentation/arch/x86/x86_64/mm.rst),
//! so that one set of names serves both kernels.
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

use heirloom_paging::{Depth, Half, VirtAddr};

/// How many levels the guest's page tables have: this layout is the one for four. All that depends on
/// the level of the root follows from here.
pub const DEPTH: Depth = Depth::Four;

/// Virtual bytes below one PGD entry: 2^39, 512 GiB.
pub const PGD_ENTRY_SPAN: u64 = DEPTH.top().entry_span();

/// Where the kernel image is linked minus where it is loaded: virtual = physical + this.
pub const KERNEL_IMAGE_OFFSET: u64 = Region::KernelImage.start();

/// First PGD entry of the kernel half.
pub const KERNEL_HALF_FIRST_ENTRY: usize = Half::KERNEL_FIRST as usize;

/// First virtual address that ring 3 never owns; the end of the 47-bit user half.
pub const USER_END: u64 = Region::User.end();

/// Which entry of a PGD translates a virtual address.
#[must_use]
pub const fn pgd_index(va: u64) -> usize {
    VirtAddr::new(va).index(DEPTH.top()) as usize
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
    pub const fn start(self) -> u64 {
        match self {
            Region::User => 0,
            Region::Ldt => 0xffff_8800_0000_0000,
            Region::DirectMap => 0xffff_8880_0000_0000,
            Region::Vmalloc => 0xffff_c900_0000_0000,
            Region::Vmemmap => 0xffff_ea00_0000_0000,
            Region::CpuEntryArea => 0xffff_fe00_0000_0000,
            Region::KernelImage => 0xffff_ffff_8000_0000,
        }
    }

    /// First virtual address after the region. The kernel image's is its last page, because its
    /// true end is 2^64.
    #[must_use]
    pub const fn end(self) -> u64 {
        match self {
            Region::User => 0x0000_8000_0000_0000,
            Region::Ldt => 0xffff_8880_0000_0000,
            Region::DirectMap => 0xffff_c880_0000_0000,
            Region::Vmalloc => 0xffff_e900_0000_0000,
            Region::Vmemmap => 0xffff_eb00_0000_0000,
            Region::CpuEntryArea => 0xffff_fe80_0000_0000,
            Region::KernelImage => 0xffff_ffff_ffff_f000,
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
    pub const fn pgd_entries(self) -> (usize, usize) {
        (pgd_index(self.start()), pgd_index(self.end() - 1))
    }

    /// Whether `va` lies in the region.
    #[must_use]
    pub const fn contains(self, va: u64) -> bool {
        self.start() <= va && va < self.end()
    }

    /// The region that `va` lies in, if it has a name.
    #[must_use]
    pub fn of(va: u64) -> Option<Region> {
        Region::ALL.into_iter().find(|region| region.contains(va))
    }

    /// The region that PGD entry `index` belongs to, if it has a name.
    #[must_use]
    pub fn of_pgd_entry(index: usize) -> Option<Region> {
        Region::ALL.into_iter().find(|region| {
            let (first, last) = region.pgd_entries();
            (first..=last).contains(&index)
        })
    }
}

// The table of entries above is arithmetic, not prose.
const _: () = {
    assert!(matches!(Region::User.pgd_entries(), (0, 255)));
    assert!(matches!(Region::Ldt.pgd_entries(), (272, 272)));
    assert!(matches!(Region::DirectMap.pgd_entries(), (273, 400)));
    assert!(matches!(Region::Vmalloc.pgd_entries(), (402, 465)));
    assert!(matches!(Region::Vmemmap.pgd_entries(), (468, 469)));
    assert!(matches!(Region::CpuEntryArea.pgd_entries(), (508, 508)));
    assert!(matches!(Region::KernelImage.pgd_entries(), (511, 511)));
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_ascend_and_never_overlap() {
        for pair in Region::ALL.windows(2) {
            assert!(pair[0].end() <= pair[1].start(), "{pair:?}");
        }
    }

    #[test]
    fn every_region_finds_itself_by_address_and_by_entry() {
        for region in Region::ALL {
            assert_eq!(Region::of(region.start()), Some(region));
            assert_eq!(Region::of(region.end() - 1), Some(region));
            assert_eq!(Region::of_pgd_entry(region.pgd_entries().0), Some(region));
        }
        assert_eq!(Region::of(0xffff_8000_0000_0000), None);
        assert_eq!(Region::of_pgd_entry(256), None);
    }
}
