//! Kernels in the lower half.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::layout::Area;
use heirloom_inspect::{Depth, Discovery, Entry, PageSize, PhysAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram, differing, expected, kinds};

/// Where a kernel has what, and its processes their pages.
#[derive(Clone, Copy)]
struct Places {
    depth: Depth,
    image: u64,
    memory: u64,
    heap: u64,
    process: u64,
}

const PLACES: [Places; 4] = [
    Places {
        depth: Depth::Four,
        image: 0x20_0000,
        memory: 0x180_0000_0000,
        heap: 0x4000_0000_0000,
        process: 0x5000_0000_0000,
    },
    Places {
        depth: Depth::Four,
        image: 0x7f00_0020_0000,
        memory: 0x7000_0000_0000,
        heap: 0x80_0000_0000,
        process: 0x40_0000,
    },
    // All memory and the image by one entry of the root.
    Places {
        depth: Depth::Four,
        image: 0x1_0000_0000,
        memory: 0,
        heap: 0x1000_0000_0000,
        process: 0x2000_0000_0000,
    },
    Places {
        depth: Depth::Five,
        image: 0x20_0000,
        memory: 5 << 48,
        heap: 9 << 48,
        process: 0x80 << 48,
    },
];

/// A kernel's root and so many processes that have all its entries.
fn guest(places: Places, processes: usize) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(64, places.depth);
    let kernel = ram.root();
    for (page, flags) in [(0, CODE), (1, DATA)] {
        let offset = page * LARGE;
        ram.map(
            kernel,
            places.image + offset,
            0x100_0000 + offset,
            PageSize::Size2MiB,
            flags,
        );
    }
    for pa in (0..64 << 20).step_by(2 << 20) {
        ram.map(kernel, places.memory + pa, pa, PageSize::Size2MiB, DATA);
    }
    for page in 0..8 {
        let pa = 0x300_0000 + page * PAGE;
        ram.map(
            kernel,
            places.heap + page * PAGE,
            pa,
            PageSize::Size4KiB,
            DATA,
        );
    }
    let mut roots = Vec::new();
    for number in 0..processes as u64 {
        let root = ram.root();
        ram.share(kernel, root, 0..256);
        ram.user(root, places.process, 0x200_0000 + number * 0x1_0000);
        roots.push(root);
    }
    (ram, kernel, roots)
}

#[test]
fn what_all_share_for_ring_0_is_the_kernels_and_no_process_has_anothers_table() {
    for places in PLACES {
        for processes in 1..4 {
            let (mut ram, kernel, roots) = guest(places, processes);
            for from in [roots[0], kernel] {
                ram.cpus.clear();
                ram.run(from);
                let discovery = ram.discover();
                assert_eq!(kinds(&discovery), expected(kernel, &roots));
                for va in [places.image, places.memory, places.heap] {
                    assert!(discovery.kernel_part.contains(ram.index(va)), "{va:#x}");
                }
                assert!(!discovery.kernel_part.contains(ram.index(places.process)));
                let check = ram.check();
                assert!(check.has_kernel_half);
                assert_eq!(ram.broken(), []);
                for pair in discovery.layout.regions.windows(2) {
                    assert!(pair[0].range.last < pair[1].range.first, "{pair:?}");
                }
                let areas: Vec<_> = discovery
                    .layout
                    .regions
                    .iter()
                    .map(|region| region.area)
                    .collect();
                assert!(areas.contains(&Area::Kernel) && areas.contains(&Area::DirectMap));
            }
        }
    }
}

#[test]
fn a_process_that_lacks_a_kernel_entry_is_the_one_fault() {
    for places in PLACES {
        for (processes, lacking) in [(1, 0), (2, 1), (3, 0)] {
            let (mut ram, kernel, roots) = guest(places, processes);
            let index = ram.index(places.heap);
            ram.memory.poke(roots[lacking].pfn(), index, Entry::ABSENT);
            for from in roots.iter().copied().chain([kernel]) {
                ram.cpus.clear();
                ram.run(from);
                let found = ram.findings("kernel-mappings-equal");
                assert_eq!(ram.broken(), [("kernel-mappings-equal", 1)], "{from}");
                assert_eq!(found[0].entry.unwrap().index, index);
                assert_eq!(found[0].spaces.roots, [roots[lacking]]);
                let discovery = ram.discover();
                assert_eq!(kinds(&discovery), expected(kernel, &roots));
                let space = discovery.space_at(roots[lacking]).unwrap();
                assert_eq!(differing(space), [index]);
            }
        }
    }
}

#[test]
fn a_table_of_a_process_that_another_has_too_is_still_found() {
    for places in PLACES {
        let (mut ram, kernel, roots) = guest(places, 3);
        ram.run(kernel);
        ram.share(roots[0], roots[2], [ram.index(places.process)]);
        let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(rules, ["user-tables-private"]);
    }
}

#[test]
fn a_page_of_the_kernel_for_ring_3_is_found_in_the_lower_half_too() {
    for places in PLACES {
        let (mut ram, kernel, roots) = guest(places, 3);
        ram.run(roots[0]);
        // A table of the heap with a page for ring 3, by entries that let it through in one process.
        let heap = places.heap + 9 * PAGE;
        let user = DATA | Entry::USER;
        ram.map(kernel, heap, 0x310_0000, PageSize::Size4KiB, user);
        for root in &roots {
            ram.share(kernel, *root, [ram.index(heap)]);
        }
        assert!(!ram.broken().is_empty());
    }
}

#[test]
fn an_identity_map_alone_is_an_address_space_of_its_own_kind() {
    for (depth, size, pages) in [
        (Depth::Four, PageSize::Size2MiB, 32),
        (Depth::Four, PageSize::Size1GiB, 4),
        (Depth::Five, PageSize::Size2MiB, 512),
    ] {
        let mut ram = Ram::new(64, depth);
        let root = ram.root();
        for page in 0..pages {
            let at = page * size.bytes();
            ram.map(root, at, at, size, Entry::new(0x63));
        }
        for rip in [0, 0x10_0000] {
            ram.cpus.clear();
            ram.run(root).rip = heirloom_inspect::VirtAddr::new(rip);
            let discovery = ram.discover();
            let space = discovery.space_at(root).unwrap();
            assert_eq!(space.kind, Kind::Identity, "{space:?}");
            assert!(space.evidence.contains("to their own address"), "{space:?}");
            assert_eq!(discovery.problem(), None);
            // There is no kernel half to judge, and nobody says that it holds.
            assert!(!ram.check().has_kernel_half);
            assert_eq!(ram.broken(), []);
        }
    }
}

/// As NuttX has it: RAM at its own address for devices and firmware, and the kernel at 4 GiB.
#[test]
fn where_a_cpu_finds_its_code_at_another_address_the_map_is_a_kernels() {
    let rip = heirloom_inspect::VirtAddr::new(0x1_0010_0000);
    let mut ram = Ram::new(64, Depth::Four);
    let root = ram.root();
    for page in 0..64 {
        let at = page * PageSize::Size2MiB.bytes();
        ram.map(root, at, at, PageSize::Size2MiB, Entry::new(0x63));
    }
    let kernel = 0x1_0000_0000;
    ram.map(root, kernel, 0, PageSize::Size1GiB, Entry::new(0x63));
    ram.run(root).rip = rip;
    let kind = ram.discover().space_at(root).unwrap().kind;
    assert_eq!(kind, Kind::Kernel);
    assert!(ram.check().has_kernel_half);
    assert_eq!(ram.broken(), [("write-xor-execute", 1)]);
    // What ring 3 may use is taken for a program's; then no kernel is left that the CPU could be in.
    let pdpt = ram.memory.peek(root.pfn(), 0).address().pfn();
    for (table, index) in [(root.pfn(), 0), (pdpt, 4)] {
        let entry = ram.memory.peek(table, index) | Entry::USER;
        ram.memory.poke(table, index, entry);
    }
    assert_eq!(ram.broken(), [("cr3-known", 1)]);
}

#[test]
fn a_kernel_in_the_lower_half_is_found_without_a_cr3_too() {
    for places in PLACES {
        let (ram, kernel, roots) = guest(places, 3);
        let discovery = ram.discover();
        assert_eq!(kinds(&discovery), expected(kernel, &roots));
        assert_eq!(discovery.mode().depth, places.depth);
        assert_eq!(ram.broken(), []);
    }
}

#[test]
fn tables_of_an_identity_map_are_no_roots_whatever_they_look_like() {
    for (flags, gigabyte_pages) in [
        (Entry::new(0x63), None),
        (Entry::new(0x63), Some(false)),
        (Entry::new(0x67), Some(true)),
    ] {
        let mut ram = Ram::new(64, Depth::Four);
        let root = ram.root();
        for page in 0..512 {
            let at = page * LARGE;
            ram.map(root, at, at, PageSize::Size2MiB, Entry::new(0x63));
        }
        // A table whose entries let ring 3 through, as some loaders have them, in the frame behind the root.
        let below = ram.memory.peek(root.pfn(), 0).address();
        ram.memory
            .poke(root.pfn(), 0, Entry::pointing_to(below, flags));
        // What is left of the loader before it moved, the same tables once more.
        for table in [root, below] {
            ram.memory.copy_of(table.pfn());
        }
        ram.run(root);
        let mut target = ram.target();
        target.gigabyte_pages = gigabyte_pages;
        let discovery = Discovery::of(&target).unwrap();
        let found = kinds(&discovery);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [(root, Kind::Identity)]
        );
        assert_eq!(discovery.layout.regions.len(), 1);
    }
}

#[test]
fn an_identity_map_that_ring_3_could_use_is_one_too_where_ring_0_runs_in_it() {
    // Twice as much as there is RAM.
    for (depth, size, pages) in [
        (Depth::Four, PageSize::Size2MiB, 64),
        (Depth::Five, PageSize::Size2MiB, 64),
        (Depth::Four, PageSize::Size1GiB, 4),
    ] {
        let mut ram = Ram::new(64, depth);
        let root = ram.root();
        for page in 0..pages {
            let at = page * size.bytes();
            ram.map(root, at, at, size, Entry::new(0x67));
        }
        let cpu = ram.run(root);
        cpu.rip = heirloom_inspect::VirtAddr::new(0x30_0000);
        let discovery = ram.discover();
        let space = discovery.space_at(root).unwrap();
        assert_eq!(space.kind, Kind::Identity, "{space:?}");
        assert!(space.evidence.contains("ring 0 runs there"), "{space:?}");
        let regions = discovery.layout.regions.iter();
        let areas: Vec<String> = regions.map(|region| region.name.to_string()).collect();
        assert_eq!(areas, ["identity map"]);
        // Who can write the tables has all of memory; what is no RAM is no process's.
        let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(rules, ["tables-not-user-mapped"]);
        // What ring 3 runs on is none.
        ram.cpus[0].cpl = 3;
        assert_ne!(kinds(&ram.discover())[&root], Kind::Identity);
    }
}

#[test]
fn a_kernel_that_shows_its_tables_in_the_lower_half_alone_is_found_without_a_cr3() {
    let mut ram = Ram::new(64, Depth::Four);
    let root = ram.root();
    for page in 0..16 {
        let (at, pa) = (page * LARGE, (16 + page) * LARGE);
        ram.map(root, at, at, PageSize::Size2MiB, Entry::new(0x63));
        let at = 0xffff_8000_0000_0000 + at;
        ram.map(root, at, pa, PageSize::Size2MiB, Entry::new(0x63));
    }
    let found: Vec<_> = kinds(&ram.discover()).into_iter().collect();
    assert_eq!(found, [(root, Kind::Kernel)]);
}

#[test]
fn processes_side_by_side_are_no_pair_of_a_kernel_root_and_a_user_root() {
    for places in PLACES {
        for lacking in 0..4 {
            let (mut ram, kernel, roots) = guest(places, 4);
            let index = ram.index(places.heap);
            let lacks = roots[lacking];
            ram.memory.poke(lacks.pfn(), index, Entry::ABSENT);
            ram.run(roots[(lacking + 1) % 4]);
            let discovery = ram.discover();
            assert_eq!(kinds(&discovery), expected(kernel, &roots));
            assert_eq!(ram.broken(), [("kernel-mappings-equal", 1)]);
            assert_eq!(differing(discovery.space_at(lacks).unwrap()), [index]);
        }
    }
}

/// A kernel below the first entry of each root, and its processes' pages below it, too: the PDPT is each one's own.
fn in_one_entry(user: u64) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(64, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, 0);
    ram.map(kernel, 5 << 30, 0x300_0000, PageSize::Size4KiB, DATA);
    let shared = ram.memory.peek(kernel.pfn(), 0).address().pfn();
    let mut roots = Vec::new();
    for number in 0..3 {
        let root = ram.root();
        ram.user(root, user, 0x310_0000 + number * 0x1_0000);
        let own = ram.memory.peek(root.pfn(), 0).address().pfn();
        for index in [0, 5] {
            let entry = ram.memory.peek(shared, index);
            ram.memory.poke(own, index, entry);
        }
        roots.push(root);
    }
    (ram, kernel, roots)
}

#[test]
fn a_kernel_in_the_same_entry_as_its_processes_is_no_false_alarm_and_is_held_to_what_most_have() {
    for user in [2 << 30, 100 << 30, 7 << 30] {
        let (mut ram, kernel, roots) = in_one_entry(user);
        for from in roots.iter().copied().chain([kernel]) {
            ram.cpus.clear();
            ram.run(from);
            assert_eq!(kinds(&ram.discover()), expected(kernel, &roots));
            let check = ram.check();
            assert_eq!(super::ram::broken(&check), []);
            let rules = check.rules.iter();
            let equal = rules
                .clone()
                .find(|rule| rule.rule.name == "kernel-mappings-equal");
            assert!(equal.unwrap().checks > 0);
            // Of all other rules about the kernel half it is said that they were not tried.
            let shared = rules
                .clone()
                .find(|rule| rule.rule.name == "kernel-tables-shared");
            assert_eq!(shared.unwrap().checks, 0);
            let notes = check.notes.join("\n");
            assert!(notes.contains("not told apart"), "{notes}");
            let pdpt = ram.memory.peek(roots[1].pfn(), 0).address().pfn();
            let mut lacking = ram.clone();
            lacking.memory.poke(pdpt, 0, Entry::ABSENT);
            assert_eq!(lacking.broken(), [("kernel-mappings-equal", 1)]);
        }
    }
}

#[test]
fn of_two_depths_that_fit_the_kernel_half_the_one_that_fits_all_of_the_root_is_taken() {
    for (memory, pages) in [(0x4000_0000_0000, 32), (0x8000_0000_0000 - (1 << 39), 5)] {
        let mut ram = Ram::new(8, Depth::Four);
        let kernel = ram.root();
        for page in 0..pages {
            let pa = page * LARGE;
            ram.map(kernel, memory + pa, pa, PageSize::Size2MiB, DATA);
        }
        ram.map(kernel, 0xffff_ffff_8000_0000, 0, PageSize::Size2MiB, CODE);
        let mut roots = Vec::new();
        for number in 0..2 {
            let root = ram.root();
            let index = ram.index(memory);
            ram.share(kernel, root, [index, 511]);
            ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
            roots.push(root);
        }
        let discovery = ram.discover();
        assert_eq!(kinds(&discovery), expected(kernel, &roots));
        assert_eq!(discovery.mode().depth, Depth::Four);
    }
}

#[test]
fn small_pages_of_all_memory_are_no_tables_of_five_levels() {
    for missing in [1, 77, 300] {
        let mut ram = Ram::new(8, Depth::Four);
        let kernel = ram.root();
        ram.map(kernel, 0xffff_ffff_8000_0000, 0, PageSize::Size2MiB, CODE);
        for page in (0..2048).filter(|page| *page != missing) {
            let (va, pa) = (0xffff_8880_0000_0000 + page * PAGE, page * PAGE);
            ram.map(kernel, va, pa, PageSize::Size4KiB, DATA);
        }
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, 0x40_0000, 0x60_0000);
        let discovery = ram.discover();
        assert_eq!(discovery.mode().depth, Depth::Four);
        assert_eq!(kinds(&discovery), expected(kernel, &[root]));
    }
}
