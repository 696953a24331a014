//! Listings of whole address spaces: in order, with effective rights, cut to a range, and merged.

use heirloom_inspect::ranges::PageCounts;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Depth, Entry, Half, Level, MappedRange, Mapping, PageSize, Rights, Snapshot, VirtAddr,
    VirtRange,
};
use proptest::prelude::*;

use crate::{DIRECT_MAP, FIVE, FOUR, TEXT, VMALLOC, family, id, pa, snapshot, va};

fn addresses(snapshot: &Snapshot, range: VirtRange) -> Vec<VirtAddr> {
    let leaves = snapshot.leaves(id(snapshot, 0), range);
    leaves.map(|leaf| leaf.va).collect()
}

#[test]
fn leaves_ascend_from_the_user_half_to_the_kernel_half() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 1);
    let snapshot = snapshot(&memory, FOUR, &roots);
    let direct = [DIRECT_MAP, DIRECT_MAP.wrapping_add(1 << 21)];
    assert_eq!(
        addresses(&snapshot, VirtRange::ALL),
        [TEXT, direct[0], direct[1], VMALLOC]
    );
    assert_eq!(addresses(&snapshot, VirtRange::half(Half::User)), [TEXT]);
    assert_eq!(
        addresses(&snapshot, VirtRange::half(Half::Kernel)),
        [direct[0], direct[1], VMALLOC]
    );
}

#[test]
fn a_range_yields_the_pages_that_it_touches() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 1);
    let snapshot = snapshot(&memory, FOUR, &roots);
    let at = |offset, bytes| {
        let first = VirtAddr::new(DIRECT_MAP.get().wrapping_add_signed(offset));
        addresses(&snapshot, VirtRange::new(first, bytes).unwrap())
    };
    let second = DIRECT_MAP.wrapping_add(1 << 21);
    assert_eq!(at(0, 1), [DIRECT_MAP]);
    assert_eq!(at(0x1f_ffff, 1), [DIRECT_MAP]);
    assert_eq!(at(0x1f_ffff, 2), [DIRECT_MAP, second]);
    assert_eq!(at(-1, 1), []);
    assert_eq!(at(-1, 2), [DIRECT_MAP]);
    assert_eq!(at(0x40_0000, 1 << 30), []);
}

#[test]
fn the_last_page_of_the_address_space_is_listed() {
    for mode in [FOUR, FIVE] {
        let mut memory = FakeMemory::new();
        let root = memory.root();
        let last = va(0xffff_ffff_ffff_f000);
        let flags = FakeMemory::KERNEL_TEXT;
        memory.map(
            mode.depth,
            root,
            last,
            pa(0x5000),
            PageSize::Size4KiB,
            flags,
        );
        let snapshot = snapshot(&memory, mode, &[root]);
        assert_eq!(addresses(&snapshot, VirtRange::ALL), [last]);
        let ranges: Vec<_> = snapshot.ranges(id(&snapshot, 0), VirtRange::ALL).collect();
        assert_eq!(ranges[0].range.last, va(u64::MAX));
    }
}

#[test]
fn a_mapping_tells_where_its_entry_stands() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let at = VMALLOC.wrapping_add(0x7000);
    let flags = FakeMemory::KERNEL_DATA | Entry::ACCESSED | Entry::DIRTY;
    memory.map(Depth::Four, root, at, pa(0x5000), PageSize::Size4KiB, flags);
    let table = memory.table_for(Depth::Four, root, at, Level::Pt);
    let snapshot = snapshot(&memory, FOUR, &[root]);
    let leaves: Vec<_> = snapshot.leaves(id(&snapshot, 0), VirtRange::ALL).collect();
    assert_eq!(
        leaves,
        [Mapping {
            va: at,
            pa: pa(0x5000),
            size: PageSize::Size4KiB,
            rights: Rights {
                write: true,
                user: false,
                execute: false
            },
            global: true,
            accessed: true,
            dirty: true,
            entry: memory.peek(table, 7),
            table,
            index: 7,
        }]
    );
}

#[test]
fn neighbours_merge_across_page_sizes_and_tables() {
    // 1 GiB, then 2 MiB pages, then 4 KiB pages: one direct map.
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::KERNEL_DATA;
    let mut map = |offset: u64, size| {
        let at = DIRECT_MAP.wrapping_add(offset);
        memory.map(Depth::Four, root, at, pa(offset), size, flags);
    };
    map(0, PageSize::Size1GiB);
    for page in 0..3 {
        map((1 << 30) + (page << 21), PageSize::Size2MiB);
    }
    for page in 0..5 {
        map((1 << 30) + (3 << 21) + (page << 12), PageSize::Size4KiB);
    }
    let snapshot = snapshot(&memory, FOUR, &[root]);
    let bytes = (1 << 30) + (3 << 21) + (5 << 12);
    assert_eq!(
        snapshot
            .ranges(id(&snapshot, 0), VirtRange::ALL)
            .collect::<Vec<_>>(),
        [MappedRange {
            range: VirtRange::new(DIRECT_MAP, bytes).unwrap(),
            pa: pa(0),
            rights: Rights {
                write: true,
                user: false,
                execute: false
            },
            pages: PageCounts {
                size_4_kib: 5,
                size_2_mib: 3,
                size_1_gib: 1
            },
        }]
    );
}

#[test]
fn a_gap_another_frame_or_other_rights_begin_a_new_range() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let data = FakeMemory::KERNEL_DATA;
    for (page, frame, flags) in [
        (0, 0x10, data),
        (1, 0x11, data),
        (2, 0x13, data),
        (3, 0x14, FakeMemory::KERNEL_TEXT),
        (5, 0x16, FakeMemory::KERNEL_TEXT),
    ] {
        let at = VMALLOC.wrapping_add(page << 12);
        memory.map(
            Depth::Four,
            root,
            at,
            pa(frame << 12),
            PageSize::Size4KiB,
            flags,
        );
    }
    let snapshot = snapshot(&memory, FOUR, &[root]);
    let ranges = snapshot.ranges(id(&snapshot, 0), VirtRange::ALL);
    assert_eq!(
        ranges
            .map(|range| (range.pa.get() >> 12, range.range.bytes() >> 12))
            .collect::<Vec<_>>(),
        [(0x10, 2), (0x13, 1), (0x14, 1), (0x16, 1)]
    );
}

proptest! {
    #[test]
    fn ranges_leaves_and_walks_tell_the_same(
        pages in proptest::collection::btree_map(0u64..64, (0u64..16, any::<bool>()), 0..64),
        first in 0u64..0x4_0000,
        bytes in 1u64..0x4_0000,
    ) {
        let mut memory = FakeMemory::new();
        let root = memory.root();
        for (page, (shift, write)) in pages {
            let flags = if write { FakeMemory::KERNEL_DATA } else { FakeMemory::KERNEL_TEXT };
            // Mostly in sequence, so that there is something to merge.
            let frame = page + 64 * u64::from(shift == 0);
            let at = VMALLOC.wrapping_add(page << 12);
            memory.map(Depth::Four, root, at, pa(frame << 12), PageSize::Size4KiB, flags);
        }
        let snapshot = snapshot(&memory, FOUR, &[root]);
        let root = id(&snapshot, 0);
        let window = VirtRange::new(VMALLOC.wrapping_add(first), bytes).unwrap();
        let leaves: Vec<_> = snapshot.leaves(root, window).collect();
        let ranges: Vec<_> = snapshot.ranges(root, window).collect();

        let pages_of = |range: &MappedRange| {
            let (range, pa, rights) = (range.range, range.pa, range.rights);
            (0..range.bytes() >> 12).map(move |page| {
                (range.first.wrapping_add(page << 12), pa.wrapping_add(page << 12), rights)
            })
        };
        let from_ranges: Vec<_> = ranges.iter().flat_map(pages_of).collect();
        let from_leaves: Vec<_> = leaves.iter().map(|leaf| (leaf.va, leaf.pa, leaf.rights)).collect();
        prop_assert_eq!(&from_ranges, &from_leaves);
        for pair in ranges.windows(2) {
            let glued = pair[0].range.last.wrapping_add(1) == pair[1].range.first
                && pair[0].pa.wrapping_add(pair[0].range.bytes()) == pair[1].pa
                && pair[0].rights == pair[1].rights;
            prop_assert!(!glued, "{pair:?} should be one");
        }
        let from_walks: Vec<_> = (0..64)
            .map(|page| VMALLOC.wrapping_add(page << 12))
            .filter(|&at| VirtRange::new(at, 4096).unwrap().overlaps(&window))
            .filter_map(|at| {
                let found = *snapshot.translate(root, at).translation()?;
                Some((at, found.pa, found.rights))
            })
            .collect();
        prop_assert_eq!(from_leaves, from_walks);
    }
}

#[test]
fn a_traversal_shows_each_table_before_what_is_below_and_leaves_out_what_is_skipped() {
    let mut memory = FakeMemory::new();
    let root = family(&mut memory, 1)[0];
    let snapshot = snapshot(&memory, FOUR, &[root]);
    let root = id(&snapshot, 0);
    let levels = |range, skip: Option<Level>| {
        let mut entries = snapshot.traverse(root, range);
        let mut seen = Vec::new();
        while let Some(visited) = entries.next() {
            seen.push((visited.table.level(), visited.at.va));
            if skip == Some(visited.table.level()) {
                entries.skip_below();
            }
        }
        assert_eq!(entries.stopped_at(), None);
        seen
    };
    let way = [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];
    let text = VirtRange::new(TEXT, 1).unwrap();
    let first = |level: Level| va(TEXT.get() & !(level.entry_span() - 1));
    assert_eq!(levels(text, None), way.map(|level| (level, first(level))));
    assert_eq!(levels(text, Some(Level::Pdpt)).len(), 2);
    // Skipping the leaves' tables leaves no leaf, but every table's entry.
    let all = levels(VirtRange::ALL, None);
    let upper = levels(VirtRange::ALL, Some(Level::Pd));
    let not_below = all.iter().filter(|(level, _)| *level != Level::Pt);
    assert!(upper.iter().eq(not_below));
    assert!(all.is_sorted_by_key(|(_, va)| *va));
    let present = snapshot.tables().map(|table| table.present().len());
    assert_eq!(all.len(), present.sum::<usize>());
}
