//! Names for addresses: the regions of Linux's layout, which our own guest has too.

pub use heirloom_abi::layout::Region;

use heirloom_inspect::paging::addr::{VirtAddr, VirtRange};
use heirloom_inspect::paging::level::Depth;

/// The named region that an address lies in, where page tables are so deep.
pub fn region_of(va: VirtAddr, depth: Depth) -> Option<Region> {
    Region::ALL
        .into_iter()
        .find(|&region| range_of_region(region, depth).contains(va))
}

/// Where `region` lies. The kernel image reaches to the end of the address space.
pub const fn range_of_region(region: Region, depth: Depth) -> VirtRange {
    VirtRange {
        first: VirtAddr::new(region.start(depth)),
        last: VirtAddr::new(match region {
            Region::KernelImage => u64::MAX,
            _ => region.end(depth) - 1,
        }),
    }
}

/// The named regions that entry `index` of a root translates at least a part of.
pub fn regions_of_top_entry(index: u16, depth: Depth) -> impl Iterator<Item = Region> {
    let entry = VirtRange::of_top_entry(index, depth);
    Region::ALL
        .into_iter()
        .filter(move |&region| range_of_region(region, depth).overlaps(&entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_of_the_address_space_belongs_to_the_kernel_image() {
        let last = VirtAddr::new(u64::MAX);
        assert_eq!(region_of(last, Depth::Four), Some(Region::KernelImage));
        assert_eq!(region_of(VirtAddr::new(1 << 63), Depth::Four), None);
        assert_eq!(
            VirtRange::of_top_entry(511, Depth::Four).last,
            VirtAddr::new(u64::MAX)
        );
    }

    #[test]
    fn a_pgd_entry_has_the_regions_of_the_layout() {
        for index in 0..512 {
            let names: Vec<_> = regions_of_top_entry(index, Depth::Four).collect();
            assert_eq!(
                names.first().copied(),
                Region::of_pgd_entry(usize::from(index), Depth::Four),
                "PGD[{index}]"
            );
            assert!(names.len() <= 1, "PGD[{index}] {names:?}");
        }
    }

    #[test]
    fn with_five_levels_the_last_entry_holds_entry_area_and_image() {
        let names: Vec<_> = regions_of_top_entry(511, Depth::Five).collect();
        assert_eq!(names, [Region::CpuEntryArea, Region::KernelImage]);
        assert_eq!(
            regions_of_top_entry(0, Depth::Five).collect::<Vec<_>>(),
            [Region::User]
        );
    }
}
