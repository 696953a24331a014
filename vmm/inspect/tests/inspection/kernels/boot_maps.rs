//! What kernels leave behind that they booted on: memory at its own address, by the tables of the kernel half.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr, VirtAddr};

use super::ram::{DATA, LARGE, PAGE, Ram, TABLE, kinds};

const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// A kernel at `IMAGE` that has all its entries in `kernel`, and in each process.
fn guest(processes: u64) -> (Ram, PhysAddr) {
    let mut ram = Ram::new(32, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, IMAGE);
    for number in 0..processes {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
    }
    (ram, kernel)
}

/// A root whose lower half has the PDPT of its upper one, at these entries, with these flags; the map begins at
/// 0 and at `IMAGE`.
fn boot_root(ram: &mut Ram, lower: u16, flags: Entry) -> PhysAddr {
    let root = ram.root();
    let pages = ram.mib / 2;
    for page in 0..pages {
        let pa = page * LARGE;
        let flags = DATA.without(Entry::NO_EXECUTE) | flags;
        ram.map(root, pa, pa, PageSize::Size2MiB, flags);
    }
    let pdpt = ram.memory.peek(root.pfn(), 0).address();
    let pd = ram.memory.peek(pdpt.pfn(), 0).address();
    let table = TABLE | flags;
    ram.memory
        .poke(pdpt.pfn(), 510, Entry::pointing_to(pd, table));
    for index in [lower, 511] {
        ram.memory
            .poke(root.pfn(), index, Entry::pointing_to(pdpt, table));
    }
    root
}

#[test]
fn a_boot_root_that_is_open_to_ring_3_is_no_process_and_is_not_judged() {
    for (processes, lower) in [(1, 0), (3, 0), (2, 256)] {
        let (mut ram, kernel) = guest(processes);
        let boot = boot_root(&mut ram, lower, Entry::USER);
        ram.run(kernel);
        let discovery = ram.discover();
        let space = discovery.space_at(boot).unwrap();
        assert_eq!(space.kind, Kind::Idle, "{space:?}");
        assert!(space.evidence.contains("booted on"), "{space:?}");
        assert_eq!(space.differences, []);
        assert_eq!(ram.broken(), []);
    }
}

#[test]
fn a_cpu_on_it_makes_it_a_root_that_is_judged() {
    let (mut ram, _) = guest(1);
    let boot = boot_root(&mut ram, 0, Entry::USER);
    ram.run(boot);
    assert_ne!(ram.discover().space_at(boot).unwrap().kind, Kind::Idle);
    let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    assert!(rules.contains(&"kernel-not-user"), "{rules:?}");
}

#[test]
fn a_lower_half_of_ring_0_that_has_the_kernels_tables_is_let_pass_by_name() {
    for on_a_cpu in [false, true] {
        let (mut ram, kernel) = guest(2);
        let boot = boot_root(&mut ram, 0, Entry::ABSENT);
        ram.run(if on_a_cpu { boot } else { kernel });
        let met = ram.let_pass();
        assert!(met.iter().any(|(name, _)| *name == "boot-map"), "{met:?}");
        let broken = ram.broken();
        let separate = broken.iter().find(|(rule, _)| *rule == "halves-separate");
        assert_eq!(separate, None, "{broken:?}");
    }
}

#[test]
fn a_process_that_has_a_table_of_the_kernels_in_its_lower_half_is_not() {
    let (mut ram, kernel) = guest(2);
    let root = ram.root();
    ram.share(kernel, root, 256..512);
    ram.user(root, 0x40_0000, 0x70_0000);
    let kernels = ram.memory.peek(kernel.pfn(), 511);
    ram.memory.poke(root.pfn(), 7, kernels | Entry::USER);
    ram.run(root);
    assert_eq!(ram.broken(), [("halves-separate", 1)]);
}

#[test]
fn entries_that_lead_to_one_table_with_other_flags_are_let_pass_by_name() {
    for bits in [Entry::USER, Entry::new(1 << 9), Entry::new(1 << 55)] {
        let (mut ram, kernel) = guest(3);
        let entry = ram.memory.peek(kernel.pfn(), 511);
        ram.memory.poke(kernel.pfn(), 511, entry | bits);
        ram.run(kernel);
        assert_eq!(ram.broken(), [], "{bits}");
        assert_eq!(ram.let_pass(), [("entry-flags", 1)], "{bits}");
    }
    // One that takes a right away maps something else.
    let (mut ram, kernel) = guest(3);
    let entry = ram.memory.peek(kernel.pfn(), 511);
    ram.memory
        .poke(kernel.pfn(), 511, entry.without(Entry::WRITABLE));
    ram.run(kernel);
    assert_eq!(ram.broken(), [("kernel-mappings-equal", 1)]);
}

#[test]
fn the_kernels_root_is_found_from_a_root_that_has_its_window_by_tables_of_its_own() {
    for window in [1, 2, 3] {
        let mut ram = Ram::new(64, Depth::Four);
        let kernel = ram.root();
        ram.image(kernel, IMAGE);
        let memory = 0xffff_8000_0000_0000;
        for pa in (0..64 << 20).step_by(2 << 20) {
            ram.map(kernel, memory + pa, pa, PageSize::Size2MiB, DATA);
        }
        let boot = boot_root(&mut ram, 0, Entry::USER);
        let mut users = Vec::new();
        for number in 0..3 {
            let root = ram.root();
            for page in 0..window {
                let flags = DATA.without(Entry::NO_EXECUTE);
                let flags = if page == 0 {
                    flags.without(Entry::WRITABLE)
                } else {
                    DATA
                };
                ram.map(
                    root,
                    IMAGE + page * LARGE,
                    page * LARGE,
                    PageSize::Size2MiB,
                    flags,
                );
            }
            ram.user(root, 0x40_0000, 0x200_0000 + number * 0x1_0000);
            users.push(root);
        }
        let cpu = ram.run(users[1]);
        cpu.cpl = 3;
        cpu.idt = Some(VirtAddr::new(IMAGE + 5 * PAGE));
        let discovery = ram.discover();
        let found = kinds(&discovery);
        assert_eq!(
            found.get(&kernel),
            Some(&Kind::Kernel),
            "{window}: {found:?}"
        );
        assert_eq!(found.get(&boot), Some(&Kind::Idle), "{window}: {found:?}");
        for root in users {
            assert_eq!(
                found.get(&root),
                Some(&Kind::UserRoot),
                "{window}: {found:?}"
            );
        }
        assert_eq!(found.len(), 5);
        assert_eq!(ram.broken(), [], "{window}");
    }
}
