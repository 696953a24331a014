//! Recursive paging.

use heirloom_inspect::discover::SelfMap;
use heirloom_inspect::layout::Area;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr};

use super::ram::{DATA, Ram, TABLE, expected, kinds};

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
