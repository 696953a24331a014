//! Memory encryption: a bit of every entry that is no part of its address.

use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr, VirtAddr};

use super::ram::{DATA, Ram, expected, kinds};

/// A kernel and three processes, with `bit` on every entry but one that shows a page shared with the host.
fn guest(depth: Depth, bit: u32) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(64, depth);
    let kernel = ram.root();
    let direct = 0xffff_8880_0000_0000;
    for pa in (0..64 << 20).step_by(2 << 20) {
        ram.map(kernel, direct + pa, pa, PageSize::Size2MiB, DATA);
    }
    ram.image(kernel, 0xffff_ffff_8000_0000);
    let shared = 0xffff_c900_0000_0000;
    ram.map(kernel, shared, 0x3e0_0000, PageSize::Size4KiB, DATA);
    let mut processes = Vec::new();
    for number in 0..3 {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
        processes.push(root);
    }
    ram.run(kernel);
    let tables: Vec<_> = ram
        .discover()
        .snapshot
        .tables()
        .map(|table| (table.pfn(), table.present()))
        .collect();
    for (table, present) in tables {
        for index in present.iter() {
            let entry = ram.memory.peek(table, index);
            if entry.address() != PhysAddr::new(0x3e0_0000) || entry.has(Entry::LARGE) {
                ram.memory.poke(table, index, entry | Entry::new(1 << bit));
            }
        }
    }
    ram.encryption = Entry::new(1 << bit);
    ram.cpus.clear();
    (ram, kernel, processes)
}

#[test]
fn the_encryption_bit_is_no_part_of_any_address() {
    for (depth, bit) in [
        (Depth::Four, 47),
        (Depth::Four, 51),
        (Depth::Four, 43),
        (Depth::Five, 51),
    ] {
        let (mut ram, kernel, processes) = guest(depth, bit);
        for from in [processes[1], kernel] {
            ram.cpus.clear();
            ram.run(from);
            let discovery = ram.discover();
            assert_eq!(kinds(&discovery), expected(kernel, &processes), "bit {bit}");
            assert_eq!(discovery.space_at(from).unwrap().cpus, [0]);
            assert_eq!(ram.broken(), []);
            for (va, pa) in [
                (0xffff_8880_0000_1000, 0x1000),
                (0xffff_c900_0000_0123, 0x3e0_0123),
            ] {
                let root = discovery.space_at(from).unwrap().root;
                let walk = discovery.snapshot.translate(root, VirtAddr::new(va));
                assert_eq!(walk.translation().unwrap().pa, PhysAddr::new(pa));
                // Nor in what people read.
                let text = walk.to_string();
                assert!(!text.contains("table 0x8"), "{text}");
            }
        }
        // Without a CR3, too.
        ram.cpus.clear();
        assert_eq!(kinds(&ram.discover()).len(), 4, "bit {bit}");
    }
}

#[test]
fn where_it_is_not_known_every_entry_leads_out_of_ram() {
    let (mut ram, kernel, _) = guest(Depth::Four, 47);
    ram.encryption = Entry::ABSENT;
    ram.run(kernel);
    assert!(ram.discover().problem().is_some() || !ram.broken().is_empty());
}
