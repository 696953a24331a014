//! What a CPU runs on: never freed, never foreign; either a root, or not understood.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Discovery, Entry, PageSize, PhysAddr, VirtAddr};

use super::ram::{CODE, DATA, PAGE, Ram, broken};

const IMAGE: u64 = 0xffff_ffff_8000_0000;

fn guest() -> (Ram, PhysAddr) {
    let mut ram = Ram::new(32, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, IMAGE);
    (ram, kernel)
}

#[test]
fn a_cr3_that_leads_nowhere_is_never_sound() {
    for nowhere in [0x100_0000, 0x7_0000_0000, 0xf_ffff_ffff_f000] {
        let (mut ram, kernel) = guest();
        ram.run(PhysAddr::new(nowhere));
        let problem = ram.discover().problem().unwrap();
        assert!(problem.contains("of CPU 0 is not understood"), "{problem}");
        assert_eq!(ram.broken(), [("cr3-known", 1)]);
        // Beside one that is a root, too.
        ram.run(kernel);
        let problem = ram.discover().problem().unwrap();
        assert!(problem.contains("no page table stands there"), "{problem}");
        assert_eq!(ram.broken(), [("cr3-known", 1)]);
    }
}

#[test]
fn two_kernels_are_told_apart_and_each_cpu_is_on_its_own() {
    for at in [
        0xffff_8000_0000_0000,
        0xffff_ffff_9000_0000,
        0xffff_f000_0000_0000,
    ] {
        let (mut ram, kernel) = guest();
        let second = ram.root();
        ram.map(second, at, 0x180_0000, PageSize::Size2MiB, CODE);
        ram.map(second, at + (2 << 20), 0x1a0_0000, PageSize::Size2MiB, DATA);
        ram.run(kernel).rip = VirtAddr::new(IMAGE + 0x1234);
        ram.run(second).rip = VirtAddr::new(at + 0x1234);
        let discovery = ram.discover();
        assert_eq!(discovery.space_at(kernel).unwrap().kind, Kind::Kernel);
        assert_eq!(discovery.space_at(second).unwrap().kind, Kind::Separate);
        assert_eq!(discovery.problem(), None);
        let rules: Vec<_> = broken(&ram.check())
            .into_iter()
            .map(|(rule, _)| rule)
            .collect();
        assert!(!rules.contains(&"cr3-known"), "{rules:?}");
        assert!(!rules.contains(&"kernel-mappings-equal"), "{rules:?}");
    }
}

#[test]
fn a_root_that_the_user_names_is_walked_though_it_was_not_found() {
    let (mut ram, kernel) = guest();
    ram.run(kernel);
    let stranger = ram.root();
    ram.map(
        stranger,
        0x1234_5000,
        0x70_0000,
        PageSize::Size4KiB,
        Entry::new(0x67),
    );
    let found = ram.discover();
    assert!(found.space_at(stranger).is_none());
    let with = Discovery::including(&ram.target(), &[stranger]).unwrap();
    let space = with.space_at(stranger).unwrap();
    let walk = with
        .snapshot
        .translate(space.root, VirtAddr::new(0x1234_5678));
    assert_eq!(walk.translation().unwrap().pa, PhysAddr::new(0x70_0678));
    // The others are what they were.
    for space in &found.spaces {
        assert_eq!(with.space_at(space.address).unwrap().kind, space.kind);
    }
}

#[test]
fn a_cpu_in_a_lower_half_of_ring_0_beside_a_kernel_half_is_on_the_kernels_root() {
    // What a loader runs on, at their own addresses and elsewhere, and the kernel that it has loaded.
    for (levels, at) in [
        (Depth::Four, 0),
        (Depth::Five, 0),
        (Depth::Four, 0xdead << 28),
    ] {
        let mut ram = Ram::new(64, levels);
        let root = ram.root();
        let all = CODE | Entry::WRITABLE;
        for page in 0..256 {
            ram.map(root, page * PAGE, page * PAGE, PageSize::Size4KiB, all);
            let again = (1 << 20) + page * PAGE;
            ram.map(root, again, page * PAGE, PageSize::Size4KiB, all);
        }
        ram.map(root, at + (4 << 20), 0x30_0000, PageSize::Size4KiB, all);
        for page in 0..96 {
            let pa = 0x1a_0000 + page * PAGE;
            ram.map(root, IMAGE + page * PAGE, pa, PageSize::Size4KiB, all);
        }
        ram.run(root).rip = VirtAddr::new(0x8d35);
        let discovery = ram.discover();
        let space = discovery.space_at(root).unwrap();
        assert_eq!(space.kind, Kind::Kernel, "{space:?}");
        assert_eq!(discovery.problem(), None);
        // 96 pages of 64 MiB are no linear map of memory.
        let names: Vec<String> = discovery
            .layout
            .regions
            .iter()
            .map(|region| region.name.to_string())
            .collect();
        assert!(names.contains(&"kernel code".to_owned()), "{names:?}");
        assert!(
            !names.iter().any(|name| name.contains("linear")),
            "{names:?}"
        );
    }
}
