//! Recursive paging.

use heirloom_inspect::discover::{Kind, SelfMap};
use heirloom_inspect::layout::Area;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram, TABLE, expected, kinds};

/// A kernel whose roots lead back to themselves by entry `slot`; the other kernel entries are shared.
fn guest(depth: Depth, slot: u16, at: u64, processes: u64) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(16, depth);
    let kernel = ram.root();
    ram.image(kernel, at);
    ram.map(
        kernel,
        0xffff_fe00_0000_0000,
        0x40_0000,
        PageSize::Size4KiB,
        DATA,
    );
    let mut roots = Vec::new();
    for number in 0..processes {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
        roots.push(root);
    }
    for root in roots.iter().copied().chain([kernel]) {
        ram.memory
            .poke(root.pfn(), slot, Entry::pointing_to(root, TABLE));
    }
    (ram, kernel, roots)
}

fn guests() -> Vec<(Ram, PhysAddr, Vec<PhysAddr>, u16)> {
    [
        (Depth::Four, 510, 0xffff_ffff_8000_0000, 3),
        (Depth::Four, 256, 0xffff_ffff_8000_0000, 1),
        (Depth::Four, 511, 0xffff_8000_0000_0000, 5),
        (Depth::Four, 0x1ed, 0xffff_ffff_8000_0000, 2),
        (Depth::Four, 255, 0xffff_ffff_8000_0000, 2),
        (Depth::Five, 300, 0xff11_0000_0000_0000, 3),
    ]
    .into_iter()
    .map(|(depth, slot, at, processes)| {
        let (ram, kernel, roots) = guest(depth, slot, at, processes);
        (ram, kernel, roots, slot)
    })
    .collect()
}

#[test]
fn a_self_map_is_named_and_breaks_nothing() {
    for (mut ram, kernel, processes, slot) in guests() {
        for from in [processes[0], kernel] {
            ram.cpus.clear();
            ram.run(from);
            let discovery = ram.discover();
            assert_eq!(kinds(&discovery), expected(kernel, &processes), "{slot}");
            for space in &discovery.spaces {
                let own = SelfMap {
                    index: slot,
                    to: space.address,
                    user: false,
                };
                assert_eq!(space.self_maps, [own]);
                assert_eq!(space.differences, []);
                let users = if space.address == kernel { 0 } else { 4 };
                assert_eq!(space.user_pages, users, "{slot}");
            }
            assert_eq!(ram.broken(), [], "{slot}");
            let notes = ram.notes();
            assert!(
                notes.contains(&format!("[{slot}] of {}", processes.len() + 1)),
                "{notes}"
            );
            let area = discovery
                .layout
                .regions
                .iter()
                .find(|region| region.area == Area::SelfMap);
            assert_eq!(ram.index(area.unwrap().range.first.get()), slot);
            assert!(
                discovery
                    .layout
                    .regions
                    .iter()
                    .all(|region| region.area != Area::EspFix)
            );
            for pair in discovery.layout.regions.windows(2) {
                assert!(pair[0].range.last < pair[1].range.first, "{pair:?}");
            }
        }
    }
}

#[test]
fn an_entry_that_points_to_anothers_root_for_a_moment_is_one_too() {
    for (mut ram, kernel, processes, slot) in guests() {
        ram.run(kernel);
        // As fork does: the child's tables are seen by another entry.
        let child = processes[0];
        ram.memory
            .poke(kernel.pfn(), 290, Entry::pointing_to(child, TABLE));
        assert_eq!(ram.broken(), [], "{slot}");
        let discovery = ram.discover();
        let maps = &discovery.space_at(kernel).unwrap().self_maps;
        assert!(
            maps.iter().any(|map| map.index == 290 && map.to == child),
            "{maps:?}"
        );
    }
}

#[test]
fn a_cpu_may_be_on_the_root_that_shows_anothers_tables_for_a_moment() {
    for (mut ram, kernel, processes, slot) in guests() {
        let (parent, child) = (processes[0], *processes.last().unwrap());
        let child = if parent == child { kernel } else { child };
        for at in [290, 130, 509] {
            let mut ram = ram.clone();
            ram.memory
                .poke(parent.pfn(), at, Entry::pointing_to(child, TABLE));
            ram.run(parent);
            let discovery = ram.discover();
            let expected = expected(kernel, &processes);
            assert_eq!(kinds(&discovery), expected, "{slot} {at}");
            assert_eq!(ram.broken(), [], "{slot} {at}");
            let notes = ram.notes();
            assert!(notes.contains(&format!("[{at}] of 1 root")), "{notes}");
            ram.cpus.clear();
            assert_eq!(kinds(&ram.discover()), expected, "{slot} {at}");
        }
        ram.run(parent);
        assert_eq!(ram.broken(), [], "{slot}");
    }
}

#[test]
fn a_self_map_that_was_copied_and_not_set_is_told() {
    for (mut ram, kernel, processes, slot) in guests() {
        ram.run(kernel);
        assert!(!ram.notes().contains("another root than its own"));
        // Where hardly any root leads back to itself, it is a loop.
        let [root, .., of] = processes[..] else {
            continue;
        };
        ram.memory
            .poke(root.pfn(), slot, Entry::pointing_to(of, TABLE));
        assert_eq!(ram.broken(), [], "{slot}");
        let told = format!("[{slot}] of {root} to {of}");
        let notes = ram.notes();
        assert!(notes.contains(&told), "{notes}");
    }
}

/// A kernel in the lower half that shows hardly any of RAM: pages of its own here and there, and recursive paging.
/// Before it, memory at its own address, on which the machine booted.
fn small_kernel(slot: u16, at: u64, memory: Option<u64>) -> (Ram, PhysAddr, PhysAddr) {
    let mut ram = Ram::new(64, Depth::Four);
    let boot = ram.root();
    for page in 0..32 {
        let flags = Entry::new(0x63);
        ram.map(boot, page * LARGE, page * LARGE, PageSize::Size2MiB, flags);
    }
    let root = ram.root();
    for page in 0..12 {
        let flags = if page < 4 { CODE } else { DATA };
        let pa = 0x300_0000 + page * PAGE;
        ram.map(root, at + page * PAGE, pa, PageSize::Size4KiB, flags);
    }
    ram.map(root, 0x20_0000, 0x20_0000, PageSize::Size4KiB, CODE);
    match memory {
        Some(memory) => {
            for page in 0..64 {
                let pa = page * LARGE;
                ram.map(root, memory + pa, pa, PageSize::Size2MiB, DATA);
            }
        }
        None => ram
            .memory
            .poke(root.pfn(), slot, Entry::pointing_to(root, TABLE)),
    }
    (ram, boot, root)
}

#[test]
fn a_kernel_that_shows_no_memory_in_a_line_is_found_by_its_self_map_alone() {
    for (slot, at) in [
        (5, 0x100_0000_0000),
        (510, 0x100_0000_0000),
        (300, 0xffff_ffff_8000_0000),
        (511, 0x7f00_0000_0000),
    ] {
        let (ram, _, root) = small_kernel(slot, at, None);
        let discovery = ram.discover();
        let found: Vec<_> = kinds(&discovery).into_iter().collect();
        assert_eq!(found, [(root, Kind::Kernel)], "{slot}");
        let notes = discovery.notes.join("\n");
        assert!(notes.contains("leads back to itself"), "{notes}");
        assert_eq!(ram.broken(), [], "{slot}");
    }
}

#[test]
fn memory_at_its_own_address_is_not_taken_for_the_kernel_that_booted_on_it() {
    for (at, memory) in [
        (0x100_0000_0000, 0x4000_0000_0000),
        (0x280_0000_0000, 0x180_0000_0000),
        (0x7f80_0000_0000, 0x80_0000_0000),
    ] {
        let (ram, boot, root) = small_kernel(0, at, Some(memory));
        let found: Vec<_> = kinds(&ram.discover()).into_iter().collect();
        assert_eq!(found, [(root, Kind::Kernel)], "{at:#x}");
        // Where there is nothing else, it is what there is.
        let mut ram = ram;
        for index in 0..512 {
            ram.memory.poke(root.pfn(), index, Entry::ABSENT);
        }
        let found: Vec<_> = kinds(&ram.discover()).into_iter().collect();
        assert_eq!(found, [(boot, Kind::Identity)], "{at:#x}");
    }
}

#[test]
fn memory_at_its_own_address_with_a_self_map_is_no_kernel() {
    for (slot, size, pages) in [
        (511, PageSize::Size2MiB, 32),
        (510, PageSize::Size1GiB, 4),
        (256, PageSize::Size4KiB, 4096),
        (100, PageSize::Size2MiB, 20),
    ] {
        let mut ram = Ram::new(64, Depth::Four);
        let root = ram.root();
        for page in 0..pages {
            let at = page * size.bytes();
            ram.map(root, at, at, size, Entry::new(0x63));
        }
        ram.memory
            .poke(root.pfn(), slot, Entry::pointing_to(root, TABLE));
        for _ in 0..2 {
            let found: Vec<_> = kinds(&ram.discover()).into_iter().collect();
            assert_eq!(found, [(root, Kind::Identity)], "{slot}");
            ram.run(root);
        }
    }
}

#[test]
fn a_self_map_for_ring_3_is_a_fault_of_its_own() {
    for (mut ram, kernel, processes, slot) in guests() {
        ram.run(kernel);
        let root = *processes.last().unwrap();
        let entry = Entry::pointing_to(root, TABLE | Entry::USER);
        ram.memory.poke(root.pfn(), slot, entry);
        assert_eq!(ram.broken(), [("self-map-supervisor", 1)], "{slot}");
        let found = ram.findings("self-map-supervisor");
        assert_eq!(found[0].entry.unwrap().index, slot);
        assert_eq!(found[0].spaces.roots, [root]);
    }
}

#[test]
fn a_root_without_the_self_map_lacks_it_and_one_with_a_second_loop_has_a_loop() {
    let (mut ram, kernel, processes, slot) = guests().remove(2);
    ram.run(kernel);
    ram.memory.poke(processes[1].pfn(), slot, Entry::ABSENT);
    assert_eq!(ram.broken(), [("kernel-mappings-equal", 1)]);
    let (mut ram, kernel, processes, _) = guests().remove(0);
    ram.run(kernel);
    // A table that leads to itself is none of this.
    let table = ram.memory.peek(processes[0].pfn(), 0).address();
    ram.memory
        .poke(table.pfn(), 7, Entry::pointing_to(table, TABLE));
    let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    assert!(rules.contains(&"no-loop"), "{rules:?}");
}
