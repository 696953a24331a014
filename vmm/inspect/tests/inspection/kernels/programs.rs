//! Where programs are: as far up as some kernels let them reach, and by roots for ring 3 whose way into the kernel has
//! tables of its own.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr};

use super::ram::{CODE, DATA, PAGE, Ram, USER_CODE, expected, kinds};

const IMAGE: u64 = 0xffff_ffff_8000_0000;
const HEAP: u64 = 0xffff_ff00_0000_0000;
const PROGRAM: u64 = 0x40_0000;

/// A kernel and so many processes, with libraries and a stack at `high` as well.
fn guest(processes: u64, high: Option<u64>) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(64, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, IMAGE);
    ram.map(kernel, HEAP, 0x300_0000, PageSize::Size4KiB, DATA);
    let mut roots = Vec::new();
    for number in 0..processes {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, PROGRAM, 0x200_0000 + number * 0x1_0000);
        if let Some(high) = high {
            ram.user(root, high, 0x280_0000 + number * 0x1_0000);
        }
        roots.push(root);
    }
    (ram, kernel, roots)
}

#[test]
fn programs_may_reach_into_the_upper_half() {
    for (high, processes) in [
        (0xffff_fd7f_ff00_0000, 3),
        (0xffff_8000_0000_0000, 2),
        (0xffff_fd00_1234_5000, 5),
    ] {
        let (mut ram, kernel, roots) = guest(processes, Some(high));
        for from in [kernel, roots[0]] {
            ram.cpus.clear();
            ram.run(from);
            let discovery = ram.discover();
            assert_eq!(kinds(&discovery), expected(kernel, &roots));
            assert!(!discovery.kernel_part.contains(ram.index(high)));
            assert_eq!(discovery.space_at(roots[1]).unwrap().user_pages, 8);
            assert_eq!(ram.broken(), [], "{high:#x}");
        }
        let rules = |ram: &Ram| -> Vec<_> { ram.broken().iter().map(|(rule, _)| *rule).collect() };
        // The kernel's own memory is judged as ever.
        let mut lacking = ram.clone();
        let heap = ram.index(HEAP);
        lacking.memory.poke(roots[1].pfn(), heap, Entry::ABSENT);
        assert_eq!(rules(&lacking), ["kernel-mappings-equal"]);
        let mut open = ram.clone();
        open.map(
            kernel,
            HEAP,
            0x300_0000,
            PageSize::Size4KiB,
            DATA | Entry::USER,
        );
        for root in &roots {
            open.share(kernel, *root, [heap]);
        }
        assert_eq!(rules(&open), ["kernel-not-user"]);
        // Two processes have one table, one has a page of the kernel's there, the kernel has the entry, too.
        let mut shared = ram.clone();
        shared.share(roots[0], roots[1], [ram.index(high)]);
        assert!(rules(&shared).contains(&"kernel-not-user"));
        let mut mixed = ram.clone();
        let above = high + 8 * PAGE;
        mixed.map(roots[0], above, 0x310_0000, PageSize::Size4KiB, DATA);
        assert!(rules(&mixed).contains(&"kernel-not-user"));
        let mut own = ram.clone();
        own.map(kernel, high, 0x310_0000, PageSize::Size4KiB, USER_CODE);
        assert!(rules(&own).contains(&"kernel-not-user"));
    }
    let (mut ram, kernel, _) = guest(1, Some(0xffff_fd7f_ff00_0000));
    ram.run(kernel);
    assert!(!ram.broken().is_empty());
}

#[test]
fn a_root_for_ring_3_with_its_own_tables_for_the_way_in_is_its_process_s() {
    for processes in [2, 4] {
        let (mut ram, kernel, roots) = guest(processes, None);
        let way_in = ram.root();
        for (va, pa, flags) in [(IMAGE, 0, CODE), (HEAP, 0x300_0000, DATA)] {
            ram.map(way_in, va, pa, PageSize::Size4KiB, flags);
        }
        let mut pairs = Vec::new();
        for root in &roots {
            let user = ram.root();
            ram.share(way_in, user, 256..512);
            ram.share(*root, user, 0..256);
            let entry = ram.memory.peek(root.pfn(), 0);
            ram.memory.poke(root.pfn(), 0, entry | Entry::new(1 << 63));
            pairs.push((*root, user));
        }
        for index in 256..512 {
            ram.memory.poke(way_in.pfn(), index, Entry::ABSENT);
        }
        for from in [kernel, roots[0]] {
            ram.cpus.clear();
            ram.run(from);
            let discovery = ram.discover();
            for (root, user) in &pairs {
                let space = discovery.space_at(*user).unwrap();
                assert_eq!(space.kind, Kind::UserRoot);
                assert_eq!(space.partner, Some(*root));
            }
            assert_eq!(ram.broken(), []);
        }
        // Ring 3 of one process on another's tables.
        ram.share(roots[1], pairs[0].1, 0..256);
        assert!(!ram.broken().is_empty());
    }
}
