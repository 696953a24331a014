//! Kernels with one address space, in the lower half, and no programs: a page that ring 3 could use is a mistake there,
//! and does not make the kernel's memory a process's.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr, VirtAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram, USER_CODE, kinds};

const MEMORY: u64 = 56 << 20;
const FRAMES: u64 = 0x380_0000;

/// Pages of a heap.
fn heap(ram: &mut Ram, root: PhysAddr, at: u64) {
    for page in (0..16).map(|page| page * PAGE) {
        ram.map(root, at + page, FRAMES + page, PageSize::Size4KiB, DATA);
    }
}

/// Memory at its own address, by large pages, and a heap; perhaps with a self-map.
fn identity(self_map: bool) -> (Ram, PhysAddr) {
    let mut ram = Ram::new(64, Depth::Four);
    let root = ram.root();
    for pa in (0..MEMORY).step_by(2 << 20) {
        let flags = if pa == LARGE { CODE } else { DATA };
        ram.map(root, pa, pa, PageSize::Size2MiB, flags);
    }
    heap(&mut ram, root, FRAMES);
    if self_map {
        let entry = Entry::pointing_to(root, Entry::new(0x63));
        ram.memory.poke(root.pfn(), 511, entry);
    }
    (ram, root)
}

/// All memory twice, at its own address and from 4 GiB on, as code and data; a heap.
fn twice() -> (Ram, PhysAddr, u64) {
    let mut ram = Ram::new(64, Depth::Four);
    let root = ram.root();
    for pa in (0..MEMORY).step_by(2 << 20) {
        for at in [0, 4 << 30] {
            ram.map(root, at + pa, pa, PageSize::Size2MiB, Entry::new(0x63));
        }
    }
    let at = (4 << 30) + FRAMES;
    heap(&mut ram, root, at);
    (ram, root, at)
}

fn open(ram: &mut Ram, root: PhysAddr, heap: u64) {
    let user = DATA | Entry::USER;
    let page = 3 * PAGE;
    ram.map(root, heap + page, FRAMES + page, PageSize::Size4KiB, user);
}

#[test]
fn a_page_for_ring_3_is_found_in_an_image_and_a_heap_under_one_entry() {
    let mut ram = Ram::new(64, Depth::Four);
    let root = ram.root();
    let at = 0x4000_0000;
    for (offset, flags) in [(0, CODE), (LARGE, DATA)] {
        let pa = 0x100_0000 + offset;
        ram.map(root, LARGE + offset, pa, PageSize::Size2MiB, flags);
    }
    heap(&mut ram, root, at);
    ram.run(root).rip = VirtAddr::new(LARGE + 0x10);
    assert_eq!(ram.broken(), []);
    open(&mut ram, root, at);
    assert_eq!(ram.discover().space_at(root).unwrap().kind, Kind::Kernel);
    assert_eq!(ram.broken(), [("kernel-not-user", 1)]);
    let found = ram.findings("kernel-not-user");
    assert_eq!(
        found[0].range.map(|range| range.first),
        Some(VirtAddr::new(at + 3 * PAGE))
    );
    // A program there makes it a process's memory, whose pages are nobody's mistake.
    ram.map(root, 0x8000_0000, 0x200_0000, PageSize::Size4KiB, USER_CODE);
    assert_eq!(ram.broken(), []);
    assert!(!ram.check().has_kernel_half);
}

#[test]
fn a_page_for_ring_3_hides_nothing_else_of_a_kernel_that_maps_all_memory_twice() {
    for runs in [true, false] {
        let (mut ram, root, at) = twice();
        if runs {
            ram.run(root).rip = VirtAddr::new(LARGE + 0x10);
        }
        let before = ram.broken();
        assert_eq!(before, [("write-xor-execute", 56)]);
        open(&mut ram, root, at);
        assert_eq!(
            ram.broken(),
            [before, vec![("kernel-not-user", 1)]].concat()
        );
    }
}

#[test]
fn an_identity_map_stays_one_and_the_page_is_told() {
    for (self_map, runs) in [(false, true), (false, false), (true, true), (true, false)] {
        let (mut ram, root) = identity(self_map);
        if runs {
            ram.run(root).rip = VirtAddr::new(LARGE + 0x10);
        }
        for is_open in [false, true] {
            if is_open {
                open(&mut ram, root, FRAMES);
            }
            let discovery = ram.discover();
            assert_eq!(kinds(&discovery), [(root, Kind::Identity)].into());
            let evidence = &discovery.space_at(root).unwrap().evidence;
            let told = evidence.contains("1 page that ring 3 may use");
            assert_eq!(told, is_open, "{evidence}");
            assert!(!ram.check().has_kernel_half);
        }
    }
}
