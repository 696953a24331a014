//! Kernels of few entries, and such as have pages below the same entries of the root as their processes: what one root
//! lacks is not told by the others of its entries.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr, VirtAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram, differing, expected, kinds};

/// A kernel with one entry of the root, and three processes that have it, too; where, and at which address the
/// processes are.
fn guest(depth: Depth, kernel_at: u64, process_at: u64) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(32, depth);
    let kernel = ram.root();
    ram.image(kernel, kernel_at);
    let mut processes = Vec::new();
    for number in 0..3 {
        let root = ram.root();
        ram.share(kernel, root, [ram.index(kernel_at)]);
        ram.user(root, process_at, 0x60_0000 + number * 0x1_0000);
        processes.push(root);
    }
    (ram, kernel, processes)
}

const GUESTS: [(Depth, u64, u64); 4] = [
    (Depth::Four, 0xffff_8000_0000_0000, 0x40_0000),
    (Depth::Four, 0xffff_ffff_8000_0000, 0x7fff_ffff_0000),
    (Depth::Four, 0xffff_ff80_0000_0000, 0x80_0000_0000),
    (Depth::Five, 0xff00_0000_0000_0000, 0x40_0000),
];

#[test]
fn a_process_that_lacks_the_only_entry_of_the_kernels_is_found_by_its_user_half() {
    for (depth, at, process_at) in GUESTS {
        let (sound, kernel, processes) = guest(depth, at, process_at);
        for lacking in &processes {
            let mut ram = sound.clone();
            ram.memory.poke(lacking.pfn(), ram.index(at), Entry::ABSENT);
            for from in processes
                .iter()
                .filter(|root| *root != lacking)
                .chain([&kernel])
            {
                ram.cpus.clear();
                ram.run(*from);
                assert_eq!(kinds(&ram.discover()), expected(kernel, &processes));
                assert_eq!(ram.broken(), [("kernel-mappings-equal", 1)], "{at:#x}");
                let finding = &ram.findings("kernel-mappings-equal")[0];
                assert_eq!(finding.spaces.roots, [*lacking]);
            }
            // Without a CPU's word, too.
            ram.cpus.clear();
            assert_eq!(ram.broken(), [("kernel-mappings-equal", 1)], "{at:#x}");
        }
    }
}

#[test]
fn a_cpu_on_a_root_that_lacks_it_does_not_hide_the_others() {
    for (depth, at, process_at) in GUESTS {
        let (mut ram, kernel, processes) = guest(depth, at, process_at);
        ram.memory
            .poke(processes[1].pfn(), ram.index(at), Entry::ABSENT);
        let in_user_space = [(3, process_at, Some(VirtAddr::new(at + LARGE)))];
        let in_the_kernel = [(0, at + 0x1234, None)];
        for (cpl, rip, idt) in in_user_space.into_iter().chain(in_the_kernel) {
            ram.cpus.clear();
            let cpu = ram.run(processes[1]);
            (cpu.cpl, cpu.rip, cpu.idt) = (cpl, VirtAddr::new(rip), idt);
            let discovery = ram.discover();
            assert_eq!(kinds(&discovery), expected(kernel, &processes));
            assert!(discovery.notes.join("\n").contains("no CPU finds its code"));
            assert_eq!(
                ram.broken(),
                [("kernel-mappings-equal", 1), ("cr3-known", 1)]
            );
        }
    }
}

#[test]
fn what_dead_processes_leave_is_no_process_without_the_kernel() {
    for (depth, at, process_at) in GUESTS {
        let (mut ram, kernel, processes) = guest(depth, at, process_at);
        // The tables of a user half, from the root down, where no root leads to them.
        let mut table = processes[0].pfn();
        let mut level = ram.top();
        while let Some(below) = level.next() {
            let index = VirtAddr::new(process_at).index(level);
            table = ram.memory.peek(table, index).address().pfn();
            level = below;
            ram.memory.copy_of(table);
        }
        // And a root of which nothing is left but an entry for a page of data.
        let page = ram.root();
        let to = Entry::pointing_to(PhysAddr::new(0x60_0000), Entry::new(0x67));
        ram.memory.poke(page.pfn(), ram.index(process_at), to);
        ram.run(kernel);
        assert_eq!(kinds(&ram.discover()), expected(kernel, &processes));
        assert_eq!(ram.broken(), []);
    }
}

/// A kernel whose image is below the same entry as its processes' pages, and that has all memory in its upper half:
/// the root of two processes, which have tables of their own for both.
fn mixed() -> (Ram, [PhysAddr; 3]) {
    let mut ram = Ram::new(32, Depth::Four);
    let mut roots = Vec::new();
    for number in 0..3 {
        let root = ram.root();
        ram.map(root, 0x20_0000, 0x100_0000, PageSize::Size2MiB, CODE);
        ram.map(root, 0x40_0000, 0x120_0000, PageSize::Size2MiB, DATA);
        ram.user(root, 0x5000_0000_0000, 0x60_0000 + number * 0x1_0000);
        ram.user(root, 0x80_0000, 0x68_0000 + number * 0x1_0000);
        match roots.first() {
            None => {
                ram.image(root, 0xffff_8000_0000_0000);
                ram.map(root, 0xffff_ff80_0000_0000, 0, PageSize::Size4KiB, CODE);
            }
            Some(first) => ram.share(*first, root, 256..512),
        }
        roots.push(root);
    }
    let cpu = ram.run(roots[0]);
    (cpu.rip, cpu.rsp) = (VirtAddr::new(0x20_1234), VirtAddr::new(0x40_8000));
    cpu.idt = Some(VirtAddr::new(0x40_0d00));
    (ram, roots.try_into().unwrap())
}

#[test]
fn an_image_below_the_entry_of_its_processes_is_looked_for_in_each_by_the_interrupt_table() {
    let (sound, roots) = mixed();
    assert_eq!(sound.broken(), []);
    assert!(
        kinds(&sound.discover())
            .values()
            .all(|kind| *kind == Kind::Process)
    );
    for root in &roots[1..] {
        // The entry of the root, or of a table below it.
        let pdpt = sound.memory.peek(root.pfn(), 0).address().pfn();
        let pd = sound.memory.peek(pdpt, 0).address().pfn();
        for (table, index) in [(root.pfn(), 0), (pdpt, 0), (pd, 2)] {
            let mut ram = sound.clone();
            ram.memory.poke(table, index, Entry::ABSENT);
            let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
            assert_eq!(rules, ["kernel-mappings-equal"], "{table} {index}");
            let found = ram.findings("kernel-mappings-equal");
            assert_eq!(found[0].place, "IDT of CPU 0");
            for finding in &found {
                assert_eq!(finding.spaces.roots, [*root]);
            }
            // By those alone that no CPU needs, too, where most have them.
            ram.cpus[0].idt = None;
            let others = ram.findings("kernel-mappings-equal");
            assert!(!others.is_empty());
            assert_eq!(others.len() + 1, found.len());
        }
        // Another frame is as bad.
        let mut ram = sound.clone();
        ram.map(*root, 0x40_0000, 0x140_0000, PageSize::Size2MiB, DATA);
        assert_eq!(ram.broken(), [("kernel-mappings-equal", 2)]);
    }
}

#[test]
fn entries_for_ring_0_alone_that_others_have_too_make_no_root_a_freed_one() {
    let (mut ram, roots) = mixed();
    // Tables without a page yet.
    for index in [20, 31, 40, 41] {
        let below = ram.memory.frame().base();
        for root in &roots {
            let entry = Entry::pointing_to(below, Entry::new(0x63));
            ram.memory.poke(root.pfn(), index, entry);
        }
    }
    ram.cpus.clear();
    assert!(
        kinds(&ram.discover())
            .values()
            .all(|kind| *kind == Kind::Process)
    );
    assert_eq!(ram.broken(), []);
}

#[test]
fn of_two_roots_with_one_user_half_that_lacks_an_entry_in_which_the_kernel_runs_is_no_user_root() {
    for lost in [0xffff_8000_0000_0000, 0xffff_ff80_0000_0000] {
        let (mut ram, roots) = mixed();
        ram.memory.poke(roots[2].pfn(), 0, Entry::ABSENT);
        ram.share(roots[0], roots[1], 0..256);
        ram.share(roots[0], roots[2], 0..256);
        ram.memory.poke(roots[2].pfn(), 0xa0, Entry::ABSENT);
        ram.user(roots[2], 0x5000_0000_0000, 0x6c_0000);
        let index = ram.index(lost);
        ram.memory.poke(roots[1].pfn(), index, Entry::ABSENT);
        let discovery = ram.discover();
        assert!(
            kinds(&discovery)
                .values()
                .all(|kind| *kind == Kind::Process)
        );
        assert_eq!(differing(discovery.space_at(roots[1]).unwrap()), [index]);
        let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
        assert!(rules.contains(&"kernel-mappings-equal"), "{rules:?}");
    }
}

#[test]
fn a_pair_among_many_processes_of_one_root_each_is_none() {
    let (mut ram, kernel, processes) = guest(Depth::Four, 0xffff_8000_0000_0000, 0x40_0000);
    let second = 0xffff_ff80_0000_0000;
    ram.map(kernel, second, 0x100_0000, PageSize::Size2MiB, DATA);
    let last = ram.root();
    for root in processes.iter().chain([&last]) {
        ram.share(kernel, *root, 256..512);
    }
    // As after a fork that has copied the root only.
    ram.share(processes[0], last, 0..256);
    ram.memory
        .poke(last.pfn(), ram.index(second), Entry::ABSENT);
    ram.run(kernel);
    let discovery = ram.discover();
    assert_eq!(kinds(&discovery)[&last], Kind::Process);
    assert_eq!(
        differing(discovery.space_at(last).unwrap()),
        [ram.index(second)]
    );
    let broken = ram.broken();
    assert!(broken.contains(&("kernel-mappings-equal", 1)), "{broken:?}");
}

#[test]
fn a_table_without_pages_that_two_processes_have_is_the_kernels_where_ring_3_cannot_get_through() {
    for (flags, is_broken) in [(0x63, false), (0x67, true)] {
        let (mut ram, kernel, processes) = guest(Depth::Four, 0xffff_8000_0000_0000, 0x40_0000);
        let empty = ram.memory.frame();
        for root in &processes[..2] {
            let entry = Entry::pointing_to(empty.base(), Entry::new(flags));
            ram.memory.poke(root.pfn(), 31, entry);
        }
        ram.run(kernel);
        let broken: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(
            broken.contains(&"user-tables-private"),
            is_broken,
            "{broken:?}"
        );
    }
}

#[test]
fn a_page_that_the_cpu_needs_thrice_counts_once() {
    // Private copies of all kernel tables; IDT, GDT and TSS on one page, which one copy lacks.
    let mut ram = Ram::new(64, Depth::Four);
    let at = 0xffff_8000_0000_0000;
    let roots: Vec<PhysAddr> = (0..4).map(|_| ram.root()).collect();
    for (number, root) in (0..).zip(&roots) {
        for page in 0..32 {
            let pa = page * LARGE;
            ram.map(*root, at + pa, pa, PageSize::Size2MiB, CODE);
        }
        if number > 0 {
            ram.user(*root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
        }
    }
    let cpu = ram.run(roots[1]);
    cpu.rip = VirtAddr::new(at + LARGE + PAGE);
    let needed = [0x100, 0x1000, 0x2000].map(|offset| VirtAddr::new(at + LARGE + offset));
    [cpu.idt, cpu.gdt, cpu.tss] = needed.map(Some);
    assert_eq!(ram.broken(), []);
    let pdpt = ram.memory.peek(roots[2].pfn(), 256).address().pfn();
    let pd = ram.memory.peek(pdpt, 0).address().pfn();
    ram.memory.poke(pd, 1, Entry::ABSENT);
    assert_eq!(kinds(&ram.discover()), expected(roots[0], &roots[1..]));
    assert_eq!(ram.broken(), [("kernel-mappings-equal", 1)]);
}

/// All below the first entry of the root: the kernel in pages of 2 MiB at their own addresses, and each process, whose
/// pages are beside the kernel's table or among its pages.
fn all_below_one(process_at: u64) -> (Ram, PhysAddr, Vec<PhysAddr>) {
    let mut ram = Ram::new(32, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, 0);
    let pdpt = ram.memory.peek(kernel.pfn(), 0).address().pfn();
    let pd = ram.memory.peek(pdpt, 0);
    let mut processes = Vec::new();
    for number in 0..4 {
        let root = ram.root();
        ram.user(root, process_at, 0x60_0000 + number * 0x1_0000);
        let pdpt = ram.memory.peek(root.pfn(), 0).address().pfn();
        if process_at >= 1 << 30 {
            ram.memory.poke(pdpt, 0, pd);
        } else {
            ram.image(root, 0);
        }
        processes.push(root);
    }
    let cpu = ram.run(processes[0]);
    (cpu.rip, cpu.rsp) = (VirtAddr::new(0x1234), VirtAddr::new(0x40_8000));
    (ram, kernel, processes)
}

#[test]
fn what_most_have_of_the_kernel_below_the_entry_of_its_processes_all_must_have() {
    for process_at in [0x4000_0000, 0x7f_c000_0000, 0x3000_0000] {
        let (sound, _, processes) = all_below_one(process_at);
        assert_eq!(sound.broken(), [], "{process_at:#x}");
        let check = sound.check();
        let mut rules = check.rules.iter();
        let equal = rules.find(|rule| rule.rule.name == "kernel-mappings-equal");
        assert!(equal.unwrap().checks > 0);
        for root in &processes[1..] {
            let pdpt = sound.memory.peek(root.pfn(), 0).address().pfn();
            let pd = sound.memory.peek(pdpt, 0).address().pfn();
            let is_shared = process_at >= 1 << 30;
            let (table, index) = if is_shared { (pdpt, 0) } else { (pd, 3) };
            let mut ram = sound.clone();
            ram.memory.poke(table, index, Entry::ABSENT);
            assert_eq!(
                ram.broken(),
                [("kernel-mappings-equal", 1)],
                "{process_at:#x}"
            );
            let finding = &ram.findings("kernel-mappings-equal")[0];
            assert_eq!(finding.spaces.roots, [*root]);
            assert_eq!(finding.entry.unwrap().table, table);
            assert_eq!(finding.entry.unwrap().index, index);
            // A copy of the same is none: its tables may be its own.
            if is_shared {
                let mut ram = sound.clone();
                let copy = Entry::pointing_to(ram.memory.copy_of(pd).base(), Entry::new(0x63));
                ram.memory.poke(pdpt, 0, copy);
                let broken = ram.broken();
                assert!(
                    !broken.contains(&("kernel-mappings-equal", 1)),
                    "{broken:?}"
                );
                // But with other rights at its last page.
                let page = ram.memory.peek(copy.address().pfn(), 15);
                let read_only = page.without(Entry::WRITABLE);
                ram.memory.poke(copy.address().pfn(), 15, read_only);
                let broken = ram.broken();
                assert!(broken.contains(&("kernel-mappings-equal", 1)), "{broken:?}");
            }
        }
    }
}

#[test]
fn a_guard_page_that_most_have_and_a_boot_map_that_some_have_are_no_kernels() {
    let (mut ram, _, processes) = all_below_one(0x4000_0000);
    // For ring 0 alone, and after a fork the same frame in most.
    for root in &processes[1..] {
        ram.map(*root, 0x4000_8000, 0x7f_0000, PageSize::Size4KiB, DATA);
    }
    assert_eq!(ram.broken(), []);

    let (mut ram, kernel, processes) = guest(Depth::Four, 0xffff_8000_0000_0000, 0x80_0000_0000);
    ram.image(kernel, 0);
    for root in &processes[..2] {
        ram.share(kernel, *root, [0]);
    }
    ram.user(processes[2], 0x40_0000, 0x6c_0000);
    ram.run(kernel);
    let broken = ram.broken();
    assert!(
        broken
            .iter()
            .all(|(rule, _)| *rule != "kernel-mappings-equal"),
        "{broken:?}"
    );
}
