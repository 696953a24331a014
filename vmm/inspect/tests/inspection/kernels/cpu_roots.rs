//! What a CPU runs on: never freed, never foreign; either a root, or not understood.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Discovery, Entry, PageSize, PhysAddr, VirtAddr};

use super::ram::{CODE, DATA, Ram, broken};

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
