//! One page that terabytes of addresses show.

use heirloom_inspect::layout::Area;
use heirloom_inspect::{Depth, Entry, PageSize, Pfn, PhysAddr};

use super::ram::{CODE, DATA, LARGE, PAGE, Ram, TABLE};

const ZERO_PAGE: u64 = 0x30_0000;

/// A kernel with all memory in a line and a shadow below the entries `slots` of the root, of which each of
/// `real` pages of it has memory of its own.
fn guest(depth: Depth, slots: std::ops::Range<u16>, real: u64) -> (Ram, PhysAddr) {
    let mut ram = Ram::new(32, depth);
    let kernel = ram.root();
    for page in 0..16 {
        let pa = page * LARGE;
        let flags = if page == 0 { CODE } else { DATA };
        ram.map(
            kernel,
            0xffff_9000_0000_0000 + pa,
            pa,
            PageSize::Size2MiB,
            flags,
        );
    }
    // A table of each level below the root, all entries of which are the same.
    let zero = Entry::pointing_to(PhysAddr::new(ZERO_PAGE), DATA);
    let mut below = zero;
    let levels = if depth == Depth::Four { 3 } else { 4 };
    for _ in 0..levels {
        let table = ram.memory.frame();
        for index in 0..512 {
            ram.memory.poke(table, index, below);
        }
        below = Entry::pointing_to(table.base(), TABLE);
    }
    for slot in slots.clone() {
        ram.memory.poke(kernel.pfn(), slot, below);
    }
    if real > 0 {
        // The way to them is made of tables of its own, otherwise full of the shadow's.
        let mut table = kernel.pfn();
        for _ in 0..levels {
            let index = if table == kernel.pfn() {
                slots.start
            } else {
                0
            };
            let shared = ram.memory.peek(table, index).address().pfn();
            let copy: Pfn = ram.memory.copy_of(shared);
            ram.memory
                .poke(table, index, Entry::pointing_to(copy.base(), TABLE));
            table = copy;
        }
        for page in 0..real {
            let pa = PhysAddr::new(0x80_0000 + page * PAGE);
            let index = u16::try_from(page).unwrap();
            ram.memory.poke(table, index, Entry::pointing_to(pa, DATA));
        }
    }
    ram.run(kernel);
    (ram, kernel)
}

#[test]
fn a_shadow_is_let_pass_by_name_and_hides_nothing_else() {
    for (depth, slots, real) in [
        (Depth::Four, 472..504, 0),
        (Depth::Four, 300..301, 7),
        (Depth::Four, 472..480, 400),
        (Depth::Five, 479..483, 3),
    ] {
        let (mut ram, kernel) = guest(depth, slots.clone(), real);
        let discovery = ram.discover();
        let map = discovery.layout.direct_map.unwrap();
        assert_eq!(map.ram_bytes, 32 << 20, "{slots:?}");
        assert_eq!(ram.broken(), [], "{slots:?}");
        let let_pass = ram.let_pass();
        let shadow = let_pass.iter().find(|met| met.0 == "one-page-shadow");
        assert!(shadow.is_some_and(|met| met.1 > 500), "{let_pass:?}");
        if real > 0 {
            let areas = discovery.layout.regions.iter().map(|region| region.area);
            assert!(areas.into_iter().any(|area| area == Area::Kernel));
        }
        // A table with several pages at two addresses is a fault as ever.
        let at = 0xffff_fd00_0000_0000;
        for page in 0..2 {
            let va = at + page * PAGE;
            let pa = 0x90_0000 + page * PAGE;
            ram.map(kernel, va, pa, PageSize::Size4KiB, DATA);
        }
        let table = ram.memory.table_for(
            depth,
            kernel,
            heirloom_inspect::VirtAddr::new(at),
            heirloom_inspect::Level::Pd,
        );
        let entry = ram.memory.peek(table, 0);
        ram.memory.poke(table, 9, entry);
        assert_eq!(ram.broken(), [("kernel-tables-once", 1)], "{slots:?}");
    }
}
