//! Entries against the manual's tables.

use super::*;
use crate::level::Depth;
use crate::mode::PhysBits;
use std::prelude::rust_2024::*;

fn mode(phys_bits: u32) -> Mode {
    Mode {
        phys_bits: PhysBits::new(phys_bits).unwrap(),
        ..Mode::typical(Depth::Four)
    }
}

#[test]
fn an_entry_without_p_is_absent_even_with_a_frame_number() {
    // PROT_NONE: P clear, the global bit as marker, a frame number.
    let prot_none = Entry::pointing_to(PhysAddr::new(0x1234_5000), Entry::GLOBAL);
    for level in Level::ALL {
        assert_eq!(prot_none.decode(level, &mode(46)), Decoded::Absent);
        // Not even reserved bits matter.
        assert_eq!(
            Entry::new(!1).decode(level, &mode(32)),
            Decoded::Absent,
            "{level}"
        );
    }
}

#[test]
fn the_encryption_bit_is_no_part_of_an_address_and_not_reserved() {
    for bit in [40, 47, 51] {
        let encrypted = Entry::new(1 << bit);
        let mode = mode(40).with_encryption(encrypted);
        let entry = Entry::pointing_to(PhysAddr::new(0x60_0000), Entry::PRESENT) | encrypted;
        for level in Level::ALL {
            assert_eq!(entry.reserved_bits(level, &mode), Entry::ABSENT, "{level}");
        }
        assert_eq!(
            entry.decode(Level::Pd, &mode),
            Decoded::Table(Pfn::new(0x600))
        );
        let leaf = Leaf {
            pa: PhysAddr::new(0x60_0000),
            size: PageSize::Size2MiB,
        };
        let large = entry | Entry::LARGE;
        assert_eq!(large.decode(Level::Pd, &mode), Decoded::Leaf(leaf));
        assert_eq!(entry.address_in(&mode), PhysAddr::new(0x60_0000));
        // The other bits above the CPU's width are reserved as ever.
        let wrong = entry | Entry::new(1 << 45);
        assert_eq!(wrong.reserved_bits(Level::Pt, &mode), Entry::new(1 << 45));
    }
}

#[test]
fn software_bits_and_nx_never_reach_the_next_table() {
    let dressed = Entry::new(0x7ff0_0000_0000_0000) | Entry::NO_EXECUTE;
    let entry = Entry::pointing_to(PhysAddr::new(0x5000), Entry::PRESENT) | dressed;
    for level in [Level::Pml5, Level::Pml4, Level::Pdpt, Level::Pd] {
        assert_eq!(
            entry.decode(level, &mode(52)),
            Decoded::Table(Pfn::new(5)),
            "{level}"
        );
    }
}

#[test]
fn bits_from_maxphyaddr_to_51_are_reserved_at_every_level() {
    for phys_bits in [32, 36, 39, 46, 48, 51] {
        let mode = mode(phys_bits);
        for level in Level::ALL {
            for bit in 12..52 {
                let entry = Entry::PRESENT | Entry::new(1 << bit);
                let reserved = bit >= phys_bits;
                assert_eq!(
                    entry.reserved_bits(level, &mode),
                    Entry::new(u64::from(reserved) << bit),
                    "{level} bit {bit} of {phys_bits}"
                );
            }
        }
    }
}

#[test]
fn nx_is_reserved_until_efer_nxe_is_set() {
    let entry = Entry::PRESENT | Entry::NO_EXECUTE;
    let off = Mode {
        nxe: false,
        ..mode(46)
    };
    for level in Level::ALL {
        assert_eq!(
            entry.decode(level, &off),
            Decoded::Reserved {
                bits: Entry::NO_EXECUTE
            }
        );
        assert_eq!(entry.reserved_bits(level, &mode(46)), Entry::ABSENT);
    }
}

#[test]
fn bit_7_is_reserved_at_the_top_a_page_below_and_pat_at_the_bottom() {
    let entry = Entry::PRESENT | Entry::LARGE;
    let decode = |level| entry.decode(level, &mode(46));
    let reserved = Decoded::Reserved { bits: Entry::LARGE };
    let leaf = |size| {
        Decoded::Leaf(Leaf {
            pa: PhysAddr::new(0),
            size,
        })
    };
    assert_eq!(decode(Level::Pml5), reserved);
    assert_eq!(decode(Level::Pml4), reserved);
    assert_eq!(decode(Level::Pdpt), leaf(PageSize::Size1GiB));
    assert_eq!(decode(Level::Pd), leaf(PageSize::Size2MiB));
    assert_eq!(decode(Level::Pt), leaf(PageSize::Size4KiB));
    assert!(entry.pat(Level::Pt));
    assert!(!entry.pat(Level::Pd));
}

#[test]
fn a_gigabyte_leaf_is_reserved_where_the_cpu_has_none() {
    let without = Mode {
        gigabyte_pages: false,
        ..mode(46)
    };
    let entry = Entry::PRESENT | Entry::LARGE;
    assert_eq!(
        entry.decode(Level::Pdpt, &without),
        Decoded::Reserved { bits: Entry::LARGE }
    );
    assert!(matches!(
        entry.decode(Level::Pd, &without),
        Decoded::Leaf(_)
    ));
}

#[test]
fn a_large_leaf_is_masked_to_its_size_and_its_pat_bit_is_no_address() {
    let flags = Entry::PRESENT | Entry::LARGE | Entry::new(1 << 12);
    let entry = Entry::pointing_to(PhysAddr::new(0x8000_0000), flags);
    for (level, size) in [
        (Level::Pd, PageSize::Size2MiB),
        (Level::Pdpt, PageSize::Size1GiB),
    ] {
        assert!(entry.pat(level));
        assert_eq!(
            entry.decode(level, &mode(46)),
            Decoded::Leaf(Leaf {
                pa: PhysAddr::new(0x8000_0000),
                size
            })
        );
    }
}

#[test]
fn the_low_address_bits_of_a_large_leaf_are_reserved() {
    for (level, last) in [(Level::Pd, 20), (Level::Pdpt, 29)] {
        for bit in 12..40 {
            let entry = Entry::PRESENT | Entry::LARGE | Entry::new(1 << bit);
            let reserved = (13..=last).contains(&bit);
            assert_eq!(
                entry.reserved_bits(level, &mode(46)).get() != 0,
                reserved,
                "{level} bit {bit}"
            );
        }
    }
}

#[test]
fn what_software_wrote_excludes_a_and_d_only() {
    assert_eq!(
        Entry::new(u64::MAX).as_written(),
        Entry::new(!(1 << 5 | 1 << 6))
    );
}

#[test]
fn every_bit_of_an_entry_has_one_name_but_bit_7_and_the_pat_of_a_large_leaf() {
    let named = [
        Entry::PRESENT,
        Entry::WRITABLE,
        Entry::USER,
        Entry::WRITE_THROUGH,
        Entry::CACHE_DISABLE,
        Entry::ACCESSED,
        Entry::DIRTY,
        Entry::LARGE,
        Entry::GLOBAL,
        Entry::SOFTWARE_9,
        Entry::SOFTWARE_10,
        Entry::SOFTWARE_11,
        Entry::SOFTWARE_HIGH,
        Entry::PROTECTION_KEY,
        Entry::NO_EXECUTE,
    ];
    let mut all = Entry::ABSENT;
    for bits in named {
        assert_eq!(all.get() & bits.get(), 0, "{bits}");
        all = all.with(bits);
    }
    assert_eq!(all, Entry::ATTRIBUTES);
    assert_eq!(Entry::PAT, Entry::LARGE);
    assert!(Entry::LARGE_PAT.pat(Level::Pd) && Entry::PAT.pat(Level::Pt));
}

#[test]
fn attributes_change_and_the_address_stays() {
    let old = Entry::pointing_to(PhysAddr::new(0x7000), Entry::PRESENT | Entry::WRITABLE);
    let new = old.with_attributes(Entry::PRESENT | Entry::NO_EXECUTE);
    assert_eq!(new.address(), old.address());
    assert_eq!(new.attributes(), Entry::PRESENT | Entry::NO_EXECUTE);
    assert_eq!(
        old.with_attributes(Entry::new(u64::MAX)).address(),
        old.address()
    );
    assert_eq!(Entry::new(0xb << 59).protection_key(), 0xb);
}

#[test]
fn flags_are_named() {
    let entry = Entry::PRESENT | Entry::WRITABLE | Entry::NO_EXECUTE;
    assert_eq!(entry.flags().to_string(), "P RW NX");
    assert_eq!(entry.to_string(), "0x8000000000000003");
}
