//! Memory at its own address, open to ring 3, too: what kernels without processes run on.

use heirloom_inspect::check::{Check, Outcome, Strictness};
use heirloom_inspect::discover::Kind;
use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{Depth, Discovery, Entry, PageSize, PhysAddr, VirtAddr};

use super::ram::{DATA, LARGE, PAGE, Ram, TABLE, kinds};

const OPEN: Entry = Entry::new(0x67);
const GIB: u64 = 1 << 30;

/// 1 GiB at its own address for everybody.
fn guest(depth: Depth) -> (Ram, PhysAddr) {
    let mut ram = Ram::new(64, depth);
    let root = ram.root();
    for page in 0..512 {
        ram.map(root, page * LARGE, page * LARGE, PageSize::Size2MiB, OPEN);
    }
    (ram, root)
}

/// A second root whose first entry leads to a frame.
fn above(ram: &mut Ram, below: PhysAddr, flags: Entry) -> PhysAddr {
    let root = ram.root();
    let entry = Entry::pointing_to(below, flags);
    ram.memory.poke(root.pfn(), 0, entry);
    root
}

#[track_caller]
fn assert_alone(ram: &Ram, root: PhysAddr) {
    let discovery = ram.discover();
    let found: Vec<_> = kinds(&discovery).into_iter().collect();
    assert_eq!(found, [(root, Kind::Identity)]);
    let notes = discovery.notes.join("\n");
    assert!(notes.contains("mapped to their own address"), "{notes}");
    let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules, ["tables-not-user-mapped"]);
}

#[test]
fn it_is_found_without_a_cr3() {
    for depth in [Depth::Four, Depth::Five] {
        let (ram, root) = guest(depth);
        let discovery = ram.discover();
        // Of five levels the root of four right below reads the same, and four are more common.
        let four = match depth {
            Depth::Four => root,
            Depth::Five => ram.memory.peek(root.pfn(), 0).address(),
        };
        assert_eq!(discovery.mode().depth, Depth::Four);
        assert_alone(&ram, four);
    }
}

#[test]
fn a_root_of_five_levels_that_lies_before_it_is_none() {
    let mut ram = Ram::new(64, Depth::Four);
    let five = ram.root();
    let root = ram.root();
    for page in 0..512 {
        ram.map(root, page * LARGE, page * LARGE, PageSize::Size2MiB, OPEN);
    }
    ram.memory
        .poke(five.pfn(), 0, Entry::pointing_to(root, OPEN));
    assert_alone(&ram, root);
}

#[test]
fn a_table_that_somebody_left_lying_is_no_root_beside_it() {
    // One page of 1 GiB for ring 0 alone, as somebody tried it; and a root above that of the kernel.
    let (mut ram, root) = guest(Depth::Four);
    for page in 0..4 {
        let at = (1 + page) * GIB;
        ram.map(root, at, at, PageSize::Size1GiB, OPEN);
    }
    let pdpt = ram.memory.frame();
    let page = Entry::pointing_to(PhysAddr::new(0), Entry::new(0xe3));
    ram.memory.poke(pdpt, 0, page);
    above(&mut ram, pdpt.base(), TABLE);
    above(&mut ram, root, OPEN);
    assert_alone(&ram, root);
}

#[test]
fn a_page_in_the_upper_half_makes_it_no_process() {
    let (mut ram, root) = guest(Depth::Four);
    let tried = 0xffff_9234_0000_0000;
    ram.map(root, tried, 0x200_0000, PageSize::Size2MiB, DATA);
    assert_alone(&ram, root);
    ram.run(root).rip = VirtAddr::new(0x30_0000);
    let discovery = ram.discover();
    let space = discovery.space_at(root).unwrap();
    assert_eq!(space.kind, Kind::Identity, "{space:?}");
    assert!(
        space.evidence.contains("1 page in the upper half"),
        "{space:?}"
    );
    // As much as there is below, for ring 3, too: whoever does that knows no processes.
    for page in 0..512 {
        let at = 0xffff_ffff_f000_0000 + page * PAGE;
        ram.map(root, at, 0x300_0000 - page * PAGE, PageSize::Size4KiB, OPEN);
    }
    ram.memory.poke(root.pfn(), 292, Entry::ABSENT);
    assert_eq!(kinds(&ram.discover())[&root], Kind::Identity);
    let cpus = std::mem::take(&mut ram.cpus);
    assert_eq!(kinds(&ram.discover())[&root], Kind::Identity);
    // No page below is a process's that would have to be RAM.
    let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    let open = [
        "write-xor-execute",
        "kernel-not-user",
        "tables-not-user-mapped",
    ];
    assert_eq!(rules, open);
    ram.cpus = cpus;
    // A kernel half is another matter.
    for page in 0..64 {
        let at = 0xffff_8000_0000_0000 + page * PAGE;
        ram.map(root, at, page * PAGE, PageSize::Size4KiB, DATA);
    }
    let discovery = ram.discover();
    assert_ne!(kinds(&discovery)[&root], Kind::Identity);
    let mut regions = discovery.layout.regions.iter();
    let open = regions.find(|region| region.range.contains(VirtAddr::new(0xffff_ffff_f000_0000)));
    assert!(
        open.unwrap().evidence.contains("for ring 3, too"),
        "{open:?}"
    );
}

/// How a rule comes out where MAXPHYADDR and 1 GiB pages are known so.
fn outcome(
    ram: &Ram,
    rule: &str,
    bits: Option<u32>,
    gigabyte_pages: Option<bool>,
) -> (Outcome, String) {
    let mut target = ram.target();
    target.phys_bits = bits.map(|bits| PhysBits::new(bits).unwrap());
    target.gigabyte_pages = gigabyte_pages;
    let check = Check::of(&Discovery::of(&target).unwrap(), Strictness::default());
    let found = check.rules.iter().find(|found| found.rule.name == rule);
    (found.unwrap().outcome, check.notes.join("\n"))
}

#[test]
fn whether_long_addresses_are_reserved_is_not_tried_where_nobody_tells_how_wide_the_cpus_are() {
    let rule = "reserved-bits-clear";
    let (mut ram, root) = guest(Depth::Four);
    ram.run(root).rip = VirtAddr::new(0x30_0000);
    assert_eq!(outcome(&ram, rule, None, None).0, Outcome::Holds);
    ram.map(root, 4 * GIB, (1 << 40) - GIB, PageSize::Size1GiB, OPEN);
    assert_eq!(outcome(&ram, rule, None, None).0, Outcome::Holds);
    assert_eq!(outcome(&ram, rule, Some(39), None).0, Outcome::Broken);
    ram.map(root, 5 * GIB, 1 << 40, PageSize::Size1GiB, OPEN);
    let (found, notes) = outcome(&ram, rule, None, None);
    assert!(matches!(found, Outcome::NotTried { .. }), "{found:?}");
    assert!(
        notes.contains("1 entry has addresses of more than 40 bits"),
        "{notes}"
    );
    assert_eq!(outcome(&ram, rule, Some(40), None).0, Outcome::Broken);
    assert_eq!(outcome(&ram, rule, Some(41), None).0, Outcome::Holds);
    // A table there is broken on any CPU.
    let table = Entry::pointing_to(PhysAddr::new(1 << 45), OPEN);
    ram.memory.poke(root.pfn(), 9, table);
    for (rule, bits) in [
        (rule, Some(40)),
        ("tables-in-ram", None),
        ("tables-in-ram", Some(52)),
    ] {
        assert_eq!(outcome(&ram, rule, bits, None).0, Outcome::Broken, "{rule}");
    }
}

#[test]
fn pages_of_1_gib_are_told_where_the_cpu_has_none_and_only_there() {
    let (mut ram, root) = guest(Depth::Four);
    ram.run(root).rip = VirtAddr::new(0x30_0000);
    let told = |ram: &Ram, known| {
        let (found, notes) = outcome(ram, "reserved-bits-clear", Some(40), known);
        assert_eq!(found, Outcome::Holds);
        notes.contains("pages of 1 GiB, which this CPU has not")
    };
    assert!(!told(&ram, Some(false)));
    ram.map(root, 4 * GIB, 4 * GIB, PageSize::Size1GiB, OPEN);
    assert!(told(&ram, Some(false)));
    assert!(!told(&ram, Some(true)));
    assert!(!told(&ram, None));
}
