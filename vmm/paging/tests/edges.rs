//! Small things that a mistake could change without anybody's noticing: each of these failed no other test of this crate
//! when it was changed on purpose.

use heirloom_paging::{
    CpuState, Cr3, Depth, Entry, EntrySet, Half, Level, Mode, Pfn, PhysAddr, PhysBits, Rights,
    Unreadable, VirtAddr, VirtRange, translate,
};

#[test]
fn a_typical_mode_has_all_but_pcid() {
    let mode = Mode::typical(Depth::Five);
    let on = [mode.nxe, mode.wp, mode.pge, mode.smep, mode.smap];
    assert_eq!(on, [true; 5]);
    assert_eq!(
        (mode.depth, mode.gigabyte_pages, mode.pcide),
        (Depth::Five, true, false)
    );
    assert_eq!((mode.phys_bits.get(), mode.encryption), (46, Entry::ABSENT));
}

#[test]
fn each_bit_of_the_registers_is_one_of_the_mode_and_no_other() {
    const LONG_MODE: CpuState = CpuState {
        cr0: 1 << 31 | 1,
        cr2: VirtAddr::new(0),
        cr3: Cr3::new(0),
        cr4: 1 << 5,
        efer: 1 << 10 | 1 << 8,
        cpl: 0,
        rip: VirtAddr::new(0),
        rsp: VirtAddr::new(0),
        rbp: VirtAddr::new(0),
        rflags: 0,
        idt: None,
        gdt: None,
        tss: None,
    };
    let flags = |cpu: CpuState| {
        let mode = Mode::of_cpu(&cpu, PhysBits::new(46).unwrap(), true).unwrap();
        let Mode {
            nxe,
            wp,
            pge,
            smep,
            smap,
            pcide,
            ..
        } = mode;
        [nxe, wp, pge, smep, smap, pcide]
    };
    assert_eq!(flags(LONG_MODE), [false; 6]);
    let (cr0, cr4, efer) = (LONG_MODE.cr0, LONG_MODE.cr4, LONG_MODE.efer);
    for (number, cpu) in [
        CpuState {
            efer: efer | 1 << 11,
            ..LONG_MODE
        },
        CpuState {
            cr0: cr0 | 1 << 16,
            ..LONG_MODE
        },
        CpuState {
            cr4: cr4 | 1 << 7,
            ..LONG_MODE
        },
        CpuState {
            cr4: cr4 | 1 << 20,
            ..LONG_MODE
        },
        CpuState {
            cr4: cr4 | 1 << 21,
            ..LONG_MODE
        },
        CpuState {
            cr4: cr4 | 1 << 17,
            ..LONG_MODE
        },
    ]
    .into_iter()
    .enumerate()
    {
        let mut only = [false; 6];
        only[number] = true;
        assert_eq!(flags(cpu), only, "{number}");
    }
}

#[test]
fn what_is_taken_out_of_a_set_is_gone_and_nothing_else() {
    let mut set = EntrySet::default();
    for index in [0, 1, 65, 130, 511] {
        set.insert(index);
    }
    set.remove(65);
    set.remove(66);
    assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 130, 511]);
}

#[test]
fn cr3_without_the_encryption_bit_keeps_all_others() {
    let cr3 = Cr3::new(1 << 47 | 1 << 63 | 0x1234_5018);
    assert_eq!(
        cr3.without(Entry::new(1 << 47)),
        Cr3::new(1 << 63 | 0x1234_5018)
    );
}

#[test]
fn a_range_has_its_first_and_its_last_address_and_none_beside() {
    let range = VirtRange::new(VirtAddr::new(0x1000), 0x1000).unwrap();
    let has = [0xfff, 0x1000, 0x1fff, 0x2000].map(|at| range.contains(VirtAddr::new(at)));
    assert_eq!(has, [false, true, true, false]);
    for (first, bytes, overlaps) in [
        (0xf00, 0x100, false),
        (0xf00, 0x101, true),
        (0x1fff, 1, true),
        (0x2000, 1, false),
    ] {
        let other = VirtRange::new(VirtAddr::new(first), bytes).unwrap();
        assert_eq!(range.overlaps(&other), overlaps, "{first:#x}");
        assert_eq!(other.overlaps(&range), overlaps, "{first:#x}");
    }
}

#[test]
fn the_highest_bit_tells_the_half() {
    for (at, half) in [
        (0, Half::User),
        (0x7fff_ffff_ffff, Half::User),
        (1 << 62, Half::User),
        (1 << 63, Half::Kernel),
        (0xffff_8000_0000_0000, Half::Kernel),
    ] {
        assert_eq!(VirtAddr::new(at).half(), half, "{at:#x}");
    }
}

#[test]
fn ps_makes_a_leaf_in_two_levels_only() {
    let large = Entry::new(0x83);
    let plain = Entry::new(0x03);
    for (level, with, without) in [
        (Level::Pt, true, true),
        (Level::Pd, true, false),
        (Level::Pdpt, true, false),
        (Level::Pml4, false, false),
        (Level::Pml5, false, false),
    ] {
        assert_eq!(
            (large.is_leaf(level), plain.is_leaf(level)),
            (with, without)
        );
    }
}

#[test]
fn every_combination_of_rights_has_its_number() {
    let mut numbers = Vec::new();
    for bits in 0..8_u32 {
        let rights = Rights {
            write: bits & 1 != 0,
            user: bits & 2 != 0,
            execute: bits & 4 != 0,
        };
        numbers.push(rights.number());
    }
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_walk_is_drawn_entry_by_entry_with_where_each_was_read() {
    let words = [0x2067_u64, 0x3063, 0x4003, 0x8000_0000_0000_9163];
    let walk = |missing: bool| {
        let tables = |table: Pfn, _: Level, index: u16| {
            let at = usize::try_from(table.get() - 1).unwrap();
            assert_eq!(index, if at == 0 { 402 } else { 0 });
            match words.get(at) {
                Some(_) if missing && at == 2 => Err(Unreadable::OutsideMemory),
                Some(word) => Ok(Entry::new(*word)),
                None => Err(Unreadable::OutsideMemory),
            }
        };
        let va = VirtAddr::new(0xffff_c900_0000_0123);
        let mode = Mode::typical(Depth::Four);
        translate(&mode, PhysAddr::new(0x1000), va, tables).to_string()
    };
    assert_eq!(
        walk(false),
        "0xffffc90000000123 from root 0x1000\n\
         \x20 PGD[402]  = 0x0000000000002067 → table 0x2 (P RW US A D)\n\
         \x20 PDPT[0]   = 0x0000000000003063 → table 0x3 (P RW A D)\n\
         \x20 PD[0]     = 0x0000000000004003 → table 0x4 (P RW)\n\
         \x20 PT[0]     = 0x8000000000009163 → page 0x9000 (P RW A D G NX)\n\
         \x20 → 0x9123, 4 KiB page, rw--"
    );
    let cut = walk(true);
    assert!(
        cut.contains("PGD[402]  = 0x0000000000002067 → table 0x2 ")
            && cut.contains("PDPT[0]   = 0x0000000000003063 → table 0x3 "),
        "{cut}"
    );
}

#[test]
fn an_entry_of_a_root_translates_its_part_to_the_last_byte_and_256_is_the_kernels_first() {
    for (index, depth, first, last) in [
        (0, Depth::Four, 0, 0x7f_ffff_ffff),
        (255, Depth::Four, 0x7f80_0000_0000, 0x7fff_ffff_ffff),
        (
            256,
            Depth::Four,
            0xffff_8000_0000_0000,
            0xffff_807f_ffff_ffff,
        ),
        (511, Depth::Four, 0xffff_ff80_0000_0000, u64::MAX),
        (
            256,
            Depth::Five,
            0xff00_0000_0000_0000,
            0xff00_ffff_ffff_ffff,
        ),
    ] {
        let range = VirtRange::of_top_entry(index, depth);
        assert_eq!((range.first.get(), range.last.get()), (first, last));
    }
    let halves = [0, 255, 256, 511].map(Half::of_index);
    assert_eq!(halves, [Half::User, Half::User, Half::Kernel, Half::Kernel]);
}
