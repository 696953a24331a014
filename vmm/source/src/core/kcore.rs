//! `/proc/kcore`: the memory of the kernel that runs here, as an ELF core.
//!
//! Its segments are ranges of virtual addresses. Those of the direct map and of the kernel's image have the
//! physical address with them; vmalloc and the like have -1. Kernels before 4.20 say 0 for all; there the
//! direct map is the lowest area, and begins at a multiple of 1 GiB, with KASLR, too.
//!
//! The image's pages come behind those of the direct map: what the kernel has freed of it can be read there alone.

use heirloom_inspect::PhysAddr;

use super::elf::Segment;

/// Where the kernel's image is mapped (__START_KERNEL_map).
const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// The kernel's half.
const KERNEL: u64 = 0xff00_0000_0000_0000;
const GIB: u64 = 1 << 30;
/// No machine has so much RAM in one range; vmalloc has 32 TiB or more.
const NO_RAM: u64 = 16 << 40;

/// Whether a core with these segments is one. Nobody else gives kernel addresses without a physical one.
pub(super) fn is_one(segments: &[Segment]) -> bool {
    let is_virtual = |segment: &Segment| {
        let physical = segment.physical.get();
        segment.address >= KERNEL && physical == u64::MAX && segment.file_bytes >= NO_RAM
    };
    segments.iter().any(is_virtual) || is_old(segments)
}

/// Whether all are said to be at 0, as they cannot be.
fn is_old(segments: &[Segment]) -> bool {
    let is_there = |segment: &Segment| segment.physical.get() == 0 && segment.address >= KERNEL;
    segments.len() > 2
        && segments.iter().all(is_there)
        && segments.iter().any(|segment| segment.file_bytes >= NO_RAM)
}

/// The segments that are physical memory, the best first.
pub(super) fn physical(segments: &[Segment]) -> Vec<Segment> {
    let mut found: Vec<Segment> = if is_old(segments) {
        direct_map(segments)
    } else {
        let all = segments.iter().copied();
        all.filter(|segment| segment.physical.get() != u64::MAX && segment.file_bytes < NO_RAM)
            .collect()
    };
    found.sort_by_key(|segment| (segment.address >= IMAGE, segment.address));
    found
}

/// Of a kernel that says no physical addresses: the lowest area, up to the first that can be no RAM.
fn direct_map(segments: &[Segment]) -> Vec<Segment> {
    let mut sorted = segments.to_vec();
    sorted.sort_by_key(|segment| segment.address);
    let base = sorted.first().map_or(0, |first| first.address & !(GIB - 1));
    sorted
        .into_iter()
        .take_while(|segment| segment.file_bytes < NO_RAM && segment.address < IMAGE)
        .map(|segment| Segment {
            physical: PhysAddr::new(segment.address - base),
            ..segment
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(address: u64, physical: u64, bytes: u64) -> Segment {
        Segment {
            address,
            physical: PhysAddr::new(physical),
            offset: address & 0x7fff_ffff_ffff,
            file_bytes: bytes,
            memory_bytes: bytes,
        }
    }

    /// With KASLR: image, vmalloc, RAM below and above the hole of a PC, vmemmap.
    fn kcore(has_physical: bool) -> Vec<Segment> {
        let base = 0xffff_9a40_0000_0000;
        let or = |physical| if has_physical { physical } else { 0 };
        vec![
            segment(0xffff_ffff_9b00_0000, or(0x1b00_0000), 0x300_0000),
            segment(0xffff_a980_0000_0000, or(u64::MAX), (32 << 40) - 1),
            segment(base + 0x1000, or(0x1000), 0x9_e000),
            segment(base + 0x10_0000, or(0x10_0000), 0x1fef_0000),
            segment(0xffff_e6c0_0000_0000, or(u64::MAX), 0x80_0000),
        ]
    }

    #[test]
    fn the_direct_map_comes_before_the_image_and_vmalloc_is_no_ram() {
        let all = kcore(true);
        assert!(is_one(&all));
        let found: Vec<u64> = physical(&all).iter().map(|it| it.physical.get()).collect();
        assert_eq!(found, [0x1000, 0x10_0000, 0x1b00_0000]);
    }

    #[test]
    fn a_kernel_that_says_no_physical_addresses_has_the_direct_map_lowest() {
        let all = kcore(false);
        assert!(is_one(&all));
        let found: Vec<u64> = physical(&all).iter().map(|it| it.physical.get()).collect();
        assert_eq!(found, [0x1000, 0x10_0000]);
    }

    #[test]
    fn cores_of_guests_are_none() {
        assert!(!is_one(&[
            segment(0, 0, 640 << 10),
            segment(0, 1 << 20, 1 << 30)
        ]));
        let kernel = 0xffff_8880_0000_0000;
        let vmcore = [
            segment(0xffff_ffff_8100_0000, 0x100_0000, 0x300_0000),
            segment(kernel, 0, 640 << 10),
            segment(kernel + (1 << 20), 1 << 20, 1 << 30),
        ];
        assert!(!is_one(&vmcore));
        assert!(!is_one(&[]));
    }
}
