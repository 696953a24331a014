//! Each process has copies of all kernel tables, as in teaching kernels.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, Mappings, PageSize, PhysAddr};

use super::ram::{DATA, PAGE, Ram, USER_DATA, broken, differing, expected, kinds};

/// A kernel at `at` and three processes, each root with tables of its own.
fn guest(depth: Depth, at: u64, mib: u64) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(mib, depth);
    let kernel = ram.root();
    ram.image(kernel, at);
    let mut processes = Vec::new();
    for number in 0..3 {
        let root = ram.root();
        ram.image(root, at);
        ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
        processes.push(root);
    }
    (ram, kernel, processes)
}

fn guests() -> Vec<(Ram, PhysAddr, Vec<PhysAddr>)> {
    vec![
        guest(Depth::Four, 0xffff_ffff_8000_0000, 8),
        guest(Depth::Four, 0xffff_8000_0000_0000, 64),
        guest(Depth::Four, 0xffff_ff80_0000_0000, 16),
        guest(Depth::Five, 0xff00_0000_0000_0000, 16),
    ]
}

#[test]
fn all_address_spaces_are_found_from_any_of_them_and_the_copies_are_told() {
    for (mut ram, kernel, processes) in guests() {
        for from in processes.iter().copied().chain([kernel]) {
            ram.cpus.clear();
            ram.run(from);
            let discovery = ram.discover();
            assert_eq!(kinds(&discovery), expected(kernel, &processes));
            let differing = discovery.spaces.iter().flat_map(|space| &space.differences);
            let differing: Vec<_> = differing.map(|found| found.mappings).collect();
            assert_eq!(differing, [Mappings::Same; 3]);
            let check = ram.check();
            assert_eq!(broken(&check), [], "{check:?}");
            let told = check.notes.join("\n");
            assert!(
                told.contains("private copies of all kernel tables"),
                "{told}"
            );
        }
    }
}

#[test]
fn a_copy_that_has_become_another_is_found() {
    for (mut ram, kernel, processes) in guests() {
        ram.run(kernel);
        // A page more, in one process alone.
        let at = 0xffff_fff0_0000_0000;
        ram.map(processes[1], at, 0x70_0000, PageSize::Size4KiB, DATA);
        let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(rules, ["kernel-mappings-equal"]);
        let discovery = ram.discover();
        let space = discovery.space_at(processes[1]).unwrap();
        assert!(differing(space).contains(&ram.index(at)), "{space:?}");
    }
}

#[test]
fn a_copy_that_lacks_an_entry_is_found_whatever_is_missing_below() {
    const AREAS: [u64; 4] = [
        0xffff_8000_0000_0000,
        0xffff_a000_0000_0000,
        0xffff_c000_0000_0000,
        0xffff_e000_0000_0000,
    ];
    // The areas are mostly a large one, or alike.
    for pages in [[900, 2, 2, 2], [3, 3, 3, 3], [2, 2, 600, 1]] {
        for missing in AREAS {
            let (mut ram, kernel, processes) = guest(Depth::Four, 0xffff_ffff_8000_0000, 64);
            for root in processes.iter().copied().chain([kernel]) {
                for (area, pages) in AREAS.into_iter().zip(pages) {
                    for page in 0..pages {
                        let pa = 0x100_0000 + page * PAGE;
                        ram.map(root, area + page * PAGE, pa, PageSize::Size4KiB, DATA);
                    }
                }
            }
            ram.run(kernel);
            assert_eq!(ram.broken(), []);
            let index = ram.index(missing);
            ram.memory.poke(processes[1].pfn(), index, Entry::ABSENT);
            assert_eq!(kinds(&ram.discover()), expected(kernel, &processes));
            let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
            assert_eq!(rules, ["kernel-mappings-equal"], "{pages:?} {missing:#x}");
        }
    }
}

#[test]
fn where_some_share_the_others_private_copies_are_a_fault() {
    let (mut ram, kernel, processes) = guests().remove(0);
    for _ in 0..2 {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, 0x40_0000, 0x68_0000);
    }
    ram.run(kernel);
    let found = ram.broken();
    assert_eq!(found, [("kernel-tables-shared", 3)]);
    assert_eq!(ram.discover().spaces.len(), 3 + processes.len());
}

#[test]
fn other_flags_of_an_entry_part_no_root_from_its_kernel() {
    // US, A and D, and the bits that the CPU ignores, differ from process to process.
    for bits in [1 << 2, 1 << 5 | 1 << 6, 0x7f << 52, 1 << 9 | 1 << 11] {
        let mut ram = Ram::new(32, Depth::Four);
        let kernel = ram.root();
        ram.image(kernel, 0xffff_ffff_8000_0000);
        ram.map(
            kernel,
            0xffff_8000_0000_0000,
            0x40_0000,
            PageSize::Size2MiB,
            DATA,
        );
        let mut processes = Vec::new();
        for number in 0..3 {
            let root = ram.root();
            for index in [256, 511] {
                let entry = ram.memory.peek(kernel.pfn(), index);
                let entry = if number == 0 {
                    entry
                } else {
                    entry | Entry::new(bits)
                };
                ram.memory.poke(root.pfn(), index, entry);
            }
            ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
            processes.push(root);
        }
        ram.run(processes[0]);
        assert_eq!(
            kinds(&ram.discover()),
            expected(kernel, &processes),
            "{bits:#x}"
        );
    }
}

#[test]
fn data_that_leads_elsewhere_is_no_root() {
    let (mut ram, kernel, processes) = guests().remove(0);
    ram.run(kernel);
    // A table that has an entry where the kernel's is, and another kernel's pages below.
    let stranger = ram.root();
    for page in 0..4 {
        let va = 0xffff_ffff_8000_0000 + page * PAGE;
        ram.map(
            stranger,
            va,
            0x50_0000 + page * PAGE,
            PageSize::Size4KiB,
            USER_DATA,
        );
    }
    assert_eq!(kinds(&ram.discover()), expected(kernel, &processes));
    // The CPU's being in ring 3 changes nothing.
    ram.cpus[0].cpl = 3;
    assert_eq!(ram.discover().space_at(kernel).unwrap().kind, Kind::Kernel);
}
