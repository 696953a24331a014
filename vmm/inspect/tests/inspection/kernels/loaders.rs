//! What a kernel begins on that a boot loader with tables of its own has started.

use heirloom_inspect::discover::Kind;
use heirloom_inspect::{Depth, Entry, PageSize, PhysAddr};

use super::ram::{CODE, DATA, PAGE, Ram, kinds};

const IMAGE: u64 = 0xffff_ffff_8000_0000;
const MEMORY: u64 = 0xffff_8000_0000_0000;
const GIB: u64 = 1 << 30;
const ALL: Entry = Entry::new(0x63);

/// A root with all addresses below 4 GiB in a line, writable and executable, the last GiB of them in small pages,
/// and a kernel's code, constants and data where it is linked. The tables lie before the root.
fn guest() -> (Ram, PhysAddr) {
    let mut ram = Ram::new(64, Depth::Four);
    let tables = ram.root();
    for number in 0..3 {
        let pa = number * GIB;
        ram.map(tables, MEMORY + pa, pa, PageSize::Size1GiB, ALL);
    }
    for page in 0..GIB / PAGE {
        let pa = 3 * GIB + page * PAGE;
        ram.map(tables, MEMORY + pa, pa, PageSize::Size4KiB, ALL);
    }
    let constants = Entry::new(1 << 63 | 0x21);
    for (page, flags) in (0..).zip([CODE, CODE, constants, DATA]) {
        let (va, pa) = (IMAGE + page * PAGE, 0x300_0000 + page * PAGE);
        ram.map(tables, va, pa, PageSize::Size4KiB, flags);
    }
    let root = ram.root();
    ram.share(tables, root, 256..512);
    for index in 256..512 {
        ram.memory.poke(tables.pfn(), index, Entry::ABSENT);
    }
    (ram, root)
}

#[test]
fn its_root_is_found_without_a_cr3_though_a_table_of_device_memory_looks_like_one() {
    let (mut ram, root) = guest();
    let found: Vec<_> = kinds(&ram.discover()).into_iter().collect();
    assert_eq!(found, [(root, Kind::Kernel)]);
    ram.run(root);
    let found: Vec<_> = kinds(&ram.discover()).into_iter().collect();
    assert_eq!(found, [(root, Kind::Kernel)]);
}

#[test]
fn that_all_memory_is_writable_and_executable_makes_the_kernels_data_no_text() {
    let (mut ram, root) = guest();
    ram.run(root);
    let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules, ["write-xor-execute"]);
    // What is executable and not writable is text, wherever else it is writable.
    ram.map(root, IMAGE + 9 * PAGE, 0x300_0000, PageSize::Size4KiB, DATA);
    let rules: Vec<_> = ram.broken().into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules, ["write-xor-execute", "no-writable-text-alias"]);
}
