//! Roots whose tables have been used for something else, and roots with a mistake.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, Pfn, PhysAddr};

use super::ram::{DATA, Ram};

const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// A kernel, a process on the CPU, and one that is not.
fn guest() -> (Ram, PhysAddr, PhysAddr) {
    let mut ram = Ram::new(32, Depth::Four);
    let kernel = ram.root();
    ram.image(kernel, IMAGE);
    let mut processes = Vec::new();
    for number in 0..2 {
        let root = ram.root();
        ram.share(kernel, root, 256..512);
        ram.user(root, 0x40_0000, 0x60_0000 + number * 0x1_0000);
        processes.push(root);
    }
    ram.run(processes[0]);
    (ram, kernel, processes[1])
}

/// The tables on the way to the process's first page, its root first.
fn tables(ram: &Ram, root: PhysAddr) -> [Pfn; 4] {
    let below = |table: Pfn, index: u16| ram.memory.peek(table, index).address().pfn();
    let pdpt = below(root.pfn(), 0);
    let pd = below(pdpt, 0);
    [root.pfn(), pdpt, pd, below(pd, 2)]
}

/// What the words of a frame are, by their number.
type Words = fn(u16) -> u64;

/// What a frame may hold that was freed.
fn contents() -> [(&'static str, Words); 3] {
    [
        ("what kfree fills with", |_| 0x0101_0101_0101_0101),
        ("text", |at| 0x6f6c_6c65_6820_0a61 ^ u64::from(at) << 40),
        ("pointers", |at| {
            0xffff_8880_0123_4561 + u64::from(at) * 0x1_0008
        }),
    ]
}

#[test]
fn a_root_whose_pages_are_all_reached_by_what_is_no_table_any_more_is_freed() {
    for (what, word) in contents() {
        for level in 1..4 {
            let (mut ram, _, dead) = guest();
            let table = tables(&ram, dead)[level];
            for index in 0..512 {
                ram.memory.poke(table, index, Entry::new(word(index)));
            }
            let discovery = ram.discover();
            let space = discovery.space_at(dead).unwrap();
            assert_eq!(space.kind, Kind::Freed, "{what}, {level}: {space:?}");
            assert!(space.evidence.contains("used again"), "{space:?}");
            assert_eq!(ram.broken(), [], "{what}, {level}");
        }
    }
}

#[test]
fn one_that_still_has_pages_of_its_own_lives_and_is_judged() {
    for (what, word) in contents() {
        let (mut ram, _, process) = guest();
        ram.user(process, 0x7f00_0000_0000, 0x68_0000);
        let table = tables(&ram, process)[2];
        for index in 0..512 {
            ram.memory.poke(table, index, Entry::new(word(index)));
        }
        let kind = ram.discover().space_at(process).unwrap().kind;
        assert_eq!(kind, Kind::Process, "{what}");
        assert_ne!(ram.broken(), [], "{what}");
    }
}

/// What a kernel leaves that gives an address space's frames back as they are: its tables become roots.
#[test]
fn a_root_whose_pages_are_all_reached_by_other_roots_is_freed() {
    for level in 1..4 {
        let (mut ram, kernel, dead) = guest();
        let table = tables(&ram, dead)[level];
        for index in 0..512 {
            ram.memory.poke(table, index, Entry::ABSENT);
        }
        let other = table.base();
        ram.share(kernel, other, 256..512);
        ram.user(other, 0x40_0000, 0x68_0000);
        let discovery = ram.discover();
        assert_eq!(discovery.space_at(other).unwrap().kind, Kind::Process);
        let space = discovery.space_at(dead).unwrap();
        assert_eq!(space.kind, Kind::Freed, "{level}: {space:?}");
        assert_eq!(ram.broken(), [], "{level}");
    }
}

/// Where other freed roots show that tables are given back as they are, pages that are left to one tell nothing.
#[test]
fn a_root_that_has_pages_left_is_freed_like_others_whose_tables_have_become_roots() {
    for others in [2, 3] {
        let (mut ram, kernel, dead) = guest();
        ram.user(dead, 0x7f00_0000_0000, 0x68_0000);
        let live = ram.root();
        ram.share(kernel, live, 256..512);
        ram.user(live, 0x40_0000, 0x6c_0000);
        for _ in 0..others {
            let freed = ram.root();
            ram.share(kernel, freed, 256..512);
            let entry = Entry::pointing_to(live, Entry::new(0x67));
            ram.memory.poke(freed.pfn(), 0, entry);
        }
        let entry = Entry::pointing_to(live, Entry::new(0x67));
        ram.memory.poke(dead.pfn(), 9, entry);
        let discovery = ram.discover();
        let kind_of = |root: PhysAddr| discovery.space_at(root).unwrap().kind;
        assert_eq!(kind_of(live), Kind::Process);
        let is_clear = others == 3;
        assert_eq!(kind_of(dead) == Kind::Freed, is_clear, "{}", kind_of(dead));
        assert_eq!(ram.broken().is_empty(), is_clear, "{:?}", ram.broken());
    }
}

/// A table of another address space in one's own is a mistake where there is more than that.
#[test]
fn a_live_root_that_leads_to_another_root_is_judged() {
    let (mut ram, _, process) = guest();
    let on_cpu = ram.cpus[0].cr3.root();
    let entry = Entry::new(on_cpu.get() | 0x67);
    ram.memory.poke(process.pfn(), 9, entry);
    assert_eq!(
        ram.discover().space_at(process).unwrap().kind,
        Kind::Process
    );
    assert_ne!(ram.broken(), []);
}

#[test]
fn a_single_wrong_entry_is_a_mistake_and_no_other_use() {
    let (mut ram, _, process) = guest();
    let table = tables(&ram, process)[2];
    ram.memory.poke(table, 9, Entry::new(0x00ff_1234_5678_9067));
    assert_eq!(
        ram.discover().space_at(process).unwrap().kind,
        Kind::Process
    );
    assert_eq!(ram.broken(), [("tables-in-ram", 1)]);
}

#[test]
fn a_cpus_own_root_is_never_freed() {
    for (what, word) in contents() {
        let (mut ram, _, process) = guest();
        let table = tables(&ram, process)[2];
        for index in 0..512 {
            ram.memory.poke(table, index, Entry::new(word(index)));
        }
        ram.run(process);
        let kind = ram.discover().space_at(process).unwrap().kind;
        assert!(!matches!(kind, Kind::Freed | Kind::Idle), "{what}: {kind}");
    }
}

#[test]
fn a_root_whose_kernel_half_is_none_any_more_is_freed() {
    let (mut ram, kernel, _) = guest();
    // Its own PDPT for the kernel half, of which all but one entry are somebody's data.
    let boot = ram.root();
    ram.image(boot, IMAGE);
    let pdpt = ram.memory.peek(boot.pfn(), 511).address().pfn();
    ram.map(
        boot,
        0x1000,
        0x1000,
        heirloom_inspect::PageSize::Size4KiB,
        DATA,
    );
    for index in 0..9 {
        let text = 0x0001_0102_464c_457f + u64::from(index) * 0x1_0100_0000;
        ram.memory.poke(pdpt, 384 + index, Entry::new(text));
    }
    let discovery = ram.discover();
    assert_eq!(discovery.space_at(boot).unwrap().kind, Kind::Freed);
    assert_eq!(discovery.space_at(kernel).unwrap().kind, Kind::Kernel);
    assert_eq!(ram.broken(), []);
}
