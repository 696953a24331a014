//! Walks of single addresses: sizes, depths, rights, and everything that ends a walk early.

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Cr3, Depth, Entry, Fault, Level, Mode, PageSize, Pfn, PhysicalMemory, Rights, Translation,
    Walk, translate_in_memory,
};

use crate::{DIRECT_MAP, FIVE, FOUR, VMALLOC, id, pa, snapshot, va};

/// Walks in memory and in a snapshot, which must agree.
fn translate(memory: &FakeMemory, mode: Mode, root: heirloom_inspect::PhysAddr, at: u64) -> Walk {
    let live = translate_in_memory(memory, &mode, root, va(at));
    let snapshot = snapshot(memory, mode, &[root]);
    assert_eq!(snapshot.translate(id(&snapshot, 0), va(at)), live);
    live
}

#[test]
fn pages_of_all_three_sizes_translate_with_four_and_five_levels() {
    for mode in [FOUR, FIVE] {
        for size in PageSize::ALL {
            let mut memory = FakeMemory::new();
            let root = memory.root();
            let (at, to) = (0x7f12_4000_0000, 0x3_c000_0000);
            memory.map(
                mode.depth,
                root,
                va(at),
                pa(to),
                size,
                FakeMemory::USER_DATA,
            );
            for offset in [0, 0x123, size.bytes() - 1] {
                let walk = translate(&memory, mode, root, at + offset);
                assert_eq!(
                    walk.result,
                    Ok(Translation {
                        pa: pa(to + offset),
                        page: pa(to),
                        size,
                        rights: Rights {
                            write: true,
                            user: true,
                            execute: false
                        },
                        global: false,
                        accessed: false,
                        dirty: false,
                    }),
                    "{size} {:?}",
                    mode.depth
                );
                let from_top = walk.steps().iter().map(|step| step.level);
                let expected = Level::ALL
                    .into_iter()
                    .skip_while(|&level| level != mode.depth.top())
                    .take_while(|&level| level <= size.level());
                assert!(from_top.eq(expected));
            }
            for outside in [at - 1, at + size.bytes()] {
                assert!(translate(&memory, mode, root, outside).result.is_err());
            }
        }
    }
}

#[test]
fn write_user_and_execute_are_decided_by_all_levels_together() {
    let levels = [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];
    for (bit, expected) in [
        (
            Entry::WRITABLE,
            Rights {
                write: false,
                ..Rights::ALL
            },
        ),
        (
            Entry::USER,
            Rights {
                user: false,
                ..Rights::ALL
            },
        ),
    ] {
        for level in levels {
            let mut memory = FakeMemory::new();
            let root = memory.root();
            let all = FakeMemory::POINTER;
            memory.map(
                Depth::Four,
                root,
                VMALLOC,
                pa(0x5000),
                PageSize::Size4KiB,
                all,
            );
            memory.change(Depth::Four, root, VMALLOC, level, |entry| {
                entry.without(bit)
            });
            let walk = translate(&memory, FOUR, root, VMALLOC.get());
            assert_eq!(walk.translation().unwrap().rights, expected, "{level}");
        }
    }
    for level in levels {
        let mut memory = FakeMemory::new();
        let root = memory.root();
        let all = FakeMemory::POINTER;
        memory.map(
            Depth::Four,
            root,
            VMALLOC,
            pa(0x5000),
            PageSize::Size4KiB,
            all,
        );
        memory.change(Depth::Four, root, VMALLOC, level, |entry| {
            entry | Entry::NO_EXECUTE
        });
        let rights = translate(&memory, FOUR, root, VMALLOC.get())
            .translation()
            .unwrap()
            .rights;
        assert!(!rights.execute && rights.write && rights.user, "{level}");
    }
}

#[test]
fn a_user_bit_at_the_top_alone_gives_ring_3_nothing() {
    // Linux sets U/S on the kernel's top-level entries.
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::KERNEL_DATA;
    memory.map(
        Depth::Four,
        root,
        DIRECT_MAP,
        pa(0),
        PageSize::Size2MiB,
        flags,
    );
    let walk = translate(&memory, FOUR, root, DIRECT_MAP.get());
    assert!(walk.steps()[0].entry.user());
    assert!(!walk.translation().unwrap().rights.user);
}

#[test]
fn an_absent_entry_ends_the_walk_at_its_level() {
    for level in [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt] {
        let mut memory = FakeMemory::new();
        let root = memory.root();
        let flags = FakeMemory::KERNEL_DATA;
        memory.map(
            Depth::Four,
            root,
            VMALLOC,
            pa(0x5000),
            PageSize::Size4KiB,
            flags,
        );
        // The frame number stays, as in a PROT_NONE entry.
        memory.change(Depth::Four, root, VMALLOC, level, |entry| {
            entry.without(Entry::PRESENT)
        });
        let walk = translate(&memory, FOUR, root, VMALLOC.get());
        assert_eq!(walk.result, Err(Fault::NotPresent { level }));
        assert_eq!(walk.steps().last().unwrap().level, level);
    }
}

#[test]
fn nx_on_the_way_is_no_part_of_the_next_tables_address() {
    // KPTI marks the user half of a kernel root so.
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::USER_TEXT;
    memory.map(
        Depth::Four,
        root,
        va(0x1000),
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    memory.change(Depth::Four, root, va(0x1000), Level::Pml4, |entry| {
        entry | Entry::NO_EXECUTE | Entry::new(0x7ff << 52)
    });
    let walk = translate(&memory, FOUR, root, 0x1000);
    assert_eq!(walk.translation().unwrap().pa, pa(0x5000));
    assert!(!walk.translation().unwrap().rights.execute);
}

#[test]
fn reserved_bits_fault_at_every_level_and_depend_on_maxphyaddr() {
    for bits in [36, 40, 46] {
        let narrow = Mode {
            phys_bits: PhysBits::new(bits).unwrap(),
            ..FOUR
        };
        let wide = Mode {
            phys_bits: PhysBits::MAX,
            ..FOUR
        };
        for level in [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt] {
            let mut memory = FakeMemory::new();
            let root = memory.root();
            let flags = FakeMemory::KERNEL_DATA;
            memory.map(
                Depth::Four,
                root,
                VMALLOC,
                pa(0x5000),
                PageSize::Size4KiB,
                flags,
            );
            let stray = Entry::new(1 << bits);
            memory.change(Depth::Four, root, VMALLOC, level, |entry| entry | stray);
            assert_eq!(
                translate(&memory, narrow, root, VMALLOC.get()).result,
                Err(Fault::Reserved { level, bits: stray })
            );
            // The same bit is an address bit on a CPU that has more of them.
            let walk = translate(&memory, wide, root, VMALLOC.get());
            assert!(!matches!(walk.result, Err(Fault::Reserved { .. })));
        }
    }
}

#[test]
fn a_page_at_the_top_level_is_a_reserved_bit() {
    for (mode, level) in [(FOUR, Level::Pml4), (FIVE, Level::Pml5)] {
        let mut memory = FakeMemory::new();
        let root = memory.root();
        memory.poke(root.pfn(), 0, Entry::PRESENT | Entry::LARGE);
        assert_eq!(
            translate(&memory, mode, root, 0).result,
            Err(Fault::Reserved {
                level,
                bits: Entry::LARGE
            })
        );
    }
}

#[test]
fn a_table_outside_memory_is_evidence_at_every_level() {
    for level in [Level::Pdpt, Level::Pd, Level::Pt] {
        let mut memory = FakeMemory::new();
        let root = memory.root();
        let flags = FakeMemory::KERNEL_DATA;
        memory.map(
            Depth::Four,
            root,
            VMALLOC,
            pa(0x5000),
            PageSize::Size4KiB,
            flags,
        );
        let table = memory.table_for(Depth::Four, root, VMALLOC, level);
        memory.remove(table);
        assert_eq!(
            translate(&memory, FOUR, root, VMALLOC.get()).result,
            Err(Fault::TableOutsideMemory { level, table })
        );
    }
    let memory = FakeMemory::new();
    let walk = translate(&memory, FOUR, pa(0xffff_f000), 0);
    assert_eq!(
        walk.result,
        Err(Fault::TableOutsideMemory {
            level: Level::Pml4,
            table: Pfn::new(0xf_ffff)
        })
    );
    assert_eq!(walk.steps(), []);
}

#[test]
fn a_page_outside_memory_is_still_a_translation() {
    // Device memory: the tables are what counts.
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::KERNEL_DATA | Entry::CACHE_DISABLE;
    memory.map(
        Depth::Four,
        root,
        VMALLOC,
        pa(0xfee0_0000),
        PageSize::Size4KiB,
        flags,
    );
    let walk = translate(&memory, FOUR, root, VMALLOC.get());
    assert_eq!(walk.translation().unwrap().pa, pa(0xfee0_0000));
}

#[test]
fn a_non_canonical_address_is_refused_before_any_table_is_read() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    for index in 0..512 {
        // Everything leads somewhere.
        memory.poke(
            root.pfn(),
            index,
            Entry::pointing_to(root, FakeMemory::POINTER),
        );
    }
    for at in [0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63] {
        let walk = translate(&memory, FOUR, root, at);
        assert_eq!(walk.result, Err(Fault::NonCanonical { depth: Depth::Four }));
        assert_eq!(walk.steps(), []);
    }
    for at in [0x0000_7fff_ffff_ffff, 0xffff_8000_0000_0000] {
        assert!(translate(&memory, FOUR, root, at).result.is_ok());
    }
}

#[test]
fn a_five_level_root_read_as_four_levels_gives_another_answer() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::USER_DATA;
    memory.map(
        Depth::Five,
        root,
        va(0x1000),
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    let five = translate(&memory, FIVE, root, 0x1000);
    let four = translate(&memory, FOUR, root, 0x1000);
    assert_eq!(five.translation().unwrap().pa, pa(0x5000));
    assert_ne!(four.result, five.result);
}

#[test]
fn accessed_dirty_and_global_are_those_of_the_leaf() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::KERNEL_DATA | Entry::DIRTY;
    memory.map(
        Depth::Four,
        root,
        VMALLOC,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    memory.change(Depth::Four, root, VMALLOC, Level::Pd, |entry| {
        entry | Entry::ACCESSED
    });
    let found = *translate(&memory, FOUR, root, VMALLOC.get())
        .translation()
        .unwrap();
    assert!(found.global && found.dirty && !found.accessed);
}

#[test]
fn the_low_bits_of_cr3_do_not_move_the_root() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::USER_DATA;
    memory.map(
        Depth::Four,
        root,
        va(0),
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    let cr3 = Cr3::new(root.get() | 1 << 63 | 0x7ff);
    assert!(translate(&memory, FOUR, cr3.root(), 0).result.is_ok());
}

#[test]
fn a_table_that_points_to_itself_ends_as_a_page_of_itself() {
    // The recursive entry of the textbooks: four steps through the root, then the root is the page.
    let mut memory = FakeMemory::new();
    let root = memory.root();
    memory.poke(
        root.pfn(),
        510,
        Entry::pointing_to(root, FakeMemory::POINTER),
    );
    let walk = translate(&memory, FOUR, root, 0xffff_ff7f_bfdf_e000);
    assert_eq!(walk.steps().len(), 4);
    assert!(walk.steps().iter().all(|step| step.table == root.pfn()));
    assert_eq!(walk.translation().unwrap().page, root);
}

#[test]
fn a_walk_is_printed_entry_by_entry() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::KERNEL_DATA;
    memory.map(
        Depth::Four,
        root,
        VMALLOC,
        pa(0x9000),
        PageSize::Size4KiB,
        flags,
    );
    let walk = translate(&memory, FOUR, root, VMALLOC.get() + 0x123);
    assert_eq!(
        walk.to_string(),
        "0xffffc90000000123 from root 0x1000\n  \
         PGD[402]  = 0x0000000000002007 → table 0x2 (P RW US)\n  \
         PDPT[0]   = 0x0000000000003007 → table 0x3 (P RW US)\n  \
         PD[0]     = 0x0000000000004007 → table 0x4 (P RW US)\n  \
         PT[0]     = 0x8000000000009103 → page 0x9000 (P RW G NX)\n  \
         → 0x9123, 4 KiB page, rw--"
    );
    // Where a walk fails, the way there is printed the same.
    let way = "PGD[402]  = 0x0000000000002007 → table 0x2 (P RW US)\n  \
               PDPT[0]   = 0x0000000000003007 → table 0x3 (P RW US)\n  \
               PD[0]     = 0x0000000000004007 → table 0x4 (P RW US)\n";
    let nothing = translate(&memory, FOUR, root, VMALLOC.get() + 0x1000).to_string();
    assert_eq!(
        nothing,
        format!(
            "0xffffc90000001000 from root 0x1000\n  {way}  \
             PT[1]     = 0x0000000000000000 → nothing ()\n  → not present in the PT"
        )
    );
    memory.change(Depth::Four, root, VMALLOC, Level::Pt, |entry| {
        entry | Entry::new(1 << 51)
    });
    let reserved = translate(&memory, FOUR, root, VMALLOC.get()).to_string();
    assert_eq!(
        reserved,
        format!(
            "0xffffc90000000000 from root 0x1000\n  {way}  \
             PT[0]     = 0x8008000000009103 → reserved bits (P RW G NX)\n  \
             → reserved bits 0x0008000000000000 set in the PT entry"
        )
    );
    let lost = memory.table_for(Depth::Four, root, VMALLOC, Level::Pt);
    memory.remove(lost);
    let missing = translate(&memory, FOUR, root, VMALLOC.get()).to_string();
    assert_eq!(
        missing,
        format!(
            "0xffffc90000000000 from root 0x1000\n  {way}  \
             → the PT would be in frame 0x4, which is outside guest memory"
        )
    );
    let hole = translate(&memory, FOUR, root, 1 << 63).to_string();
    assert!(hole.ends_with("bits 63–47 are not all equal"), "{hole}");
}

#[test]
fn a_walk_serializes_with_its_steps() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    memory.poke(root.pfn(), 0, Entry::new(0x8000_0000_0000_0087));
    let json = serde_json::to_value(translate(&memory, FOUR, root, 0x1000)).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "va": "0x1000",
            "root": "0x1000",
            "steps": [{"level": "PML4", "table": "0x1", "index": 0, "entry": "0x8000000000000087"}],
            "fault": {"reserved": {"level": "PML4", "bits": "0x0000000000000080"}},
        })
    );
}

#[test]
fn memory_of_the_rust_vmm_family_can_be_walked() {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), 0x10_0000),
        (GuestAddress(0x1_0000_0000), 0x10_0000),
    ])
    .unwrap();
    let mut fake = FakeMemory::new();
    fake.add(Pfn::new(0x10_0000));
    let root = fake.root();
    let flags = FakeMemory::KERNEL_DATA;
    fake.map(
        Depth::Four,
        root,
        VMALLOC,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    for pfn in 0x10_0000..0x10_0005 {
        let mut frame = [0; 4096];
        fake.read_bytes(pa(pfn << 12), &mut frame).unwrap();
        memory.write_slice(&frame, GuestAddress(pfn << 12)).unwrap();
    }
    let walk = translate_in_memory(&memory, &FOUR, root, VMALLOC);
    assert_eq!(walk.translation().unwrap().pa, pa(0x5000));
}
