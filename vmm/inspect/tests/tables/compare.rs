//! Comparisons: a private copy of a table is one thing, another translation is another.

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Comparer, Depth, Entry, EntryDifference, EntryDifferenceKind, Half, Level, Mappings, PageSize,
    PhysAddr, Snapshot, VirtRange,
};

use crate::{DIRECT_MAP, FIVE, FOUR, TEXT, VMALLOC, family, id, pa, snapshot};

/// The differences of the first two roots' kernel halves: index, kind, mappings.
fn kernel_halves(snapshot: &Snapshot) -> Vec<(u16, EntryDifferenceKind, Mappings)> {
    let mut comparer = Comparer::within(snapshot);
    let found = comparer.compare(id(snapshot, 0), id(snapshot, 1), Half::Kernel);
    let told =
        |difference: &EntryDifference| (difference.index, difference.kind, difference.mappings);
    found.iter().map(told).collect()
}

/// Gives the second process private copies of the tables for `at`, down to `level`.
fn make_private(
    memory: &mut FakeMemory,
    root: PhysAddr,
    at: heirloom_inspect::VirtAddr,
    level: Level,
) {
    let mut table = root.pfn();
    for above in [Level::Pml4, Level::Pdpt, Level::Pd] {
        let entry = memory.peek(table, at.index(above));
        let copy = memory.copy_of(entry.address().pfn());
        let flags = Entry::new(entry.get() & 0xfff);
        memory.poke(
            table,
            at.index(above),
            Entry::pointing_to(copy.base(), flags),
        );
        table = copy;
        if above.next() == Some(level) {
            break;
        }
    }
}

#[test]
fn an_inherited_kernel_half_differs_in_nothing() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    memory.change(Depth::Four, roots[1], VMALLOC, Level::Pml4, |entry| {
        entry | Entry::ACCESSED
    });
    let snapshot = snapshot(&memory, FOUR, &roots);
    assert_eq!(kernel_halves(&snapshot), []);
    let mut comparer = Comparer::within(&snapshot);
    let user = comparer.compare(id(&snapshot, 0), id(&snapshot, 1), Half::User);
    assert_eq!(user.len(), 1);
    assert_eq!(user[0].mappings, Mappings::Differ { first: TEXT });
    let itself = comparer.compare(id(&snapshot, 0), id(&snapshot, 0), Half::User);
    assert_eq!(itself, []);
}

#[test]
fn a_private_copy_differs_in_its_frame_and_maps_the_same() {
    for level in [Level::Pdpt, Level::Pd, Level::Pt] {
        let mut memory = FakeMemory::new();
        let roots = family(&mut memory, 2);
        make_private(&mut memory, roots[1], VMALLOC, level);
        assert_eq!(
            kernel_halves(&snapshot(&memory, FOUR, &roots)),
            [(402, EntryDifferenceKind::Frame, Mappings::Same)],
            "{level}"
        );
    }
}

#[test]
fn the_first_change_in_a_private_copy_is_a_mapping_divergence() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    make_private(&mut memory, roots[1], VMALLOC, Level::Pt);
    let page = VMALLOC.wrapping_add(0x9000);
    let flags = FakeMemory::KERNEL_DATA;
    memory.map(
        Depth::Four,
        roots[1],
        page,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    assert_eq!(
        kernel_halves(&snapshot(&memory, FOUR, &roots)),
        [(
            402,
            EntryDifferenceKind::Frame,
            Mappings::Differ { first: page }
        )]
    );
}

#[test]
fn another_frame_or_other_rights_in_the_leaf_are_mapping_divergences() {
    type Change = fn(Entry) -> Entry;
    let changes: [Change; 4] = [
        |entry| Entry::new(entry.get() + 0x1000),
        |entry| entry.without(Entry::WRITABLE),
        |entry| entry | Entry::USER,
        |entry| entry.without(Entry::NO_EXECUTE),
    ];
    for change in changes {
        let mut memory = FakeMemory::new();
        let roots = family(&mut memory, 2);
        make_private(&mut memory, roots[1], VMALLOC, Level::Pt);
        memory.change(Depth::Four, roots[1], VMALLOC, Level::Pt, change);
        let expected = Mappings::Differ { first: VMALLOC };
        assert_eq!(
            kernel_halves(&snapshot(&memory, FOUR, &roots)),
            [(402, EntryDifferenceKind::Frame, expected)]
        );
    }
}

#[test]
fn accessed_and_dirty_below_are_no_divergence() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    make_private(&mut memory, roots[1], VMALLOC, Level::Pt);
    memory.change(Depth::Four, roots[1], VMALLOC, Level::Pt, |entry| {
        entry | Entry::ACCESSED | Entry::DIRTY
    });
    assert_eq!(
        kernel_halves(&snapshot(&memory, FOUR, &roots)),
        [(402, EntryDifferenceKind::Frame, Mappings::Same)]
    );
}

#[test]
fn an_entry_that_one_lacks_is_absent_there() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    memory.poke(roots[1].pfn(), 402, Entry::ABSENT);
    let gone = [(
        402,
        EntryDifferenceKind::OnlyLeft,
        Mappings::Differ { first: VMALLOC },
    )];
    assert_eq!(kernel_halves(&snapshot(&memory, FOUR, &roots)), gone);
    let swapped = [roots[1], roots[0]];
    assert_eq!(
        kernel_halves(&snapshot(&memory, FOUR, &swapped)),
        [(402, EntryDifferenceKind::OnlyRight, gone[0].2)]
    );
}

#[test]
fn an_empty_table_that_one_lacks_maps_nothing_more() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    let empty = memory.frame();
    memory.poke(
        roots[0].pfn(),
        403,
        Entry::pointing_to(empty.base(), FakeMemory::POINTER),
    );
    assert_eq!(
        kernel_halves(&snapshot(&memory, FOUR, &roots)),
        [(403, EntryDifferenceKind::OnlyLeft, Mappings::Same)]
    );
}

#[test]
fn flags_at_the_top_count_only_as_far_as_they_are_effective() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    // No leaf below has U/S, so it means nothing at the top …
    memory.change(Depth::Four, roots[1], VMALLOC, Level::Pml4, |entry| {
        entry.without(Entry::USER)
    });
    // … but R/W does.
    memory.change(Depth::Four, roots[1], DIRECT_MAP, Level::Pml4, |entry| {
        entry.without(Entry::WRITABLE)
    });
    assert_eq!(
        kernel_halves(&snapshot(&memory, FOUR, &roots)),
        [
            (
                273,
                EntryDifferenceKind::Flags,
                Mappings::Differ { first: DIRECT_MAP }
            ),
            (402, EntryDifferenceKind::Flags, Mappings::Same),
        ]
    );
}

#[test]
fn a_large_page_equals_the_small_pages_that_map_the_same() {
    let mut memory = FakeMemory::new();
    let roots = [memory.root(), memory.root()];
    let flags = FakeMemory::KERNEL_DATA;
    memory.map(
        Depth::Four,
        roots[0],
        DIRECT_MAP,
        pa(0),
        PageSize::Size2MiB,
        flags,
    );
    for page in 0..512 {
        let at = DIRECT_MAP.wrapping_add(page << 12);
        memory.map(
            Depth::Four,
            roots[1],
            at,
            pa(page << 12),
            PageSize::Size4KiB,
            flags,
        );
    }
    let split = [(273, EntryDifferenceKind::Frame, Mappings::Same)];
    assert_eq!(kernel_halves(&snapshot(&memory, FOUR, &roots)), split);

    let hole = DIRECT_MAP.wrapping_add(300 << 12);
    memory.change(Depth::Four, roots[1], hole, Level::Pt, |_| Entry::ABSENT);
    assert_eq!(
        kernel_halves(&snapshot(&memory, FOUR, &roots)),
        [(
            273,
            EntryDifferenceKind::Frame,
            Mappings::Differ { first: hole }
        )]
    );
}

#[test]
fn a_root_outside_memory_counts_as_empty() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 1);
    let snapshot = snapshot(&memory, FOUR, &[roots[0], pa(0x7777_7000)]);
    let kinds: Vec<_> = kernel_halves(&snapshot)
        .iter()
        .map(|&(index, kind, _)| (index, kind))
        .collect();
    assert_eq!(
        kinds,
        [
            (273, EntryDifferenceKind::OnlyLeft),
            (402, EntryDifferenceKind::OnlyLeft)
        ]
    );
}

#[test]
fn between_two_moments_a_change_below_an_equal_entry_is_found() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    let before = snapshot(&memory, FOUR, &roots);
    let page = VMALLOC.wrapping_add(0x3000);
    let flags = FakeMemory::KERNEL_DATA;
    memory.map(
        Depth::Four,
        roots[0],
        page,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    let after = snapshot(&memory, FOUR, &roots);
    let mut comparer = Comparer::between(&before, &after).unwrap();
    for root in 0..2 {
        let found = comparer.compare(id(&before, root), id(&after, root), Half::Kernel);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].kind, EntryDifferenceKind::Below);
        assert_eq!(found[0].mappings, Mappings::Differ { first: page });
    }
    let five = snapshot(&memory, FIVE, &roots);
    assert!(Comparer::between(&before, &five).is_none());
}

/// A root whose every walk, 2^36 of them, ends at the page `pa`, in four frames.
fn bomb(memory: &mut FakeMemory, page: PhysAddr) -> PhysAddr {
    let frames = [(); 4].map(|()| memory.frame());
    let targets = [frames[1].base(), frames[2].base(), frames[3].base(), page];
    for (table, target) in frames.into_iter().zip(targets) {
        for index in 0..512 {
            let entry = Entry::pointing_to(target, FakeMemory::POINTER);
            memory.poke(table, index, entry);
        }
    }
    frames[0].base()
}

#[test]
fn equal_bombs_are_found_equal_because_each_pair_of_tables_is_compared_once() {
    let mut memory = FakeMemory::new();
    let roots = [0x5000, 0x5000].map(|page| bomb(&mut memory, pa(page)));
    let found = kernel_halves(&snapshot(&memory, FOUR, &roots));
    assert_eq!(found.len(), 256);
    for (_, kind, mappings) in found {
        assert_eq!(
            (kind, mappings),
            (EntryDifferenceKind::Frame, Mappings::Same)
        );
    }
}

#[test]
fn bombs_that_differ_do_so_below_every_entry() {
    let mut memory = FakeMemory::new();
    let roots = [0x5000, 0x6000].map(|page| bomb(&mut memory, pa(page)));
    let found = kernel_halves(&snapshot(&memory, FOUR, &roots));
    assert_eq!(found.len(), 256);
    for (index, _, mappings) in found {
        let first = VirtRange::of_top_entry(index, Depth::Four).first;
        assert_eq!(mappings, Mappings::Differ { first });
    }
}
