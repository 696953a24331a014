//! What was written between two snapshots, to the entry.

use heirloom_inspect::changes::EntryChange;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, Depth, Entry, Level, PageSize};

use crate::{FOUR, TEXT, VMALLOC, family, labelled, pa};

#[test]
fn a_mapping_below_a_shared_entry_is_one_write_and_none_to_any_root() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 8);
    for mut capturers in [
        vec![Capturer::new()],
        vec![Capturer::new(), Capturer::new()],
    ] {
        let mut memory = memory.clone();
        let before = capturers[0].capture(&memory, FOUR, &labelled(&roots));
        let page = VMALLOC.wrapping_add(0x4000);
        let flags = FakeMemory::KERNEL_DATA;
        memory.map(
            Depth::Four,
            roots[3],
            page,
            pa(0x5000),
            PageSize::Size4KiB,
            flags,
        );
        let last = capturers.last_mut().unwrap();
        let after = last.capture(&memory, FOUR, &labelled(&roots));
        let table = memory.table_for(Depth::Four, roots[0], page, Level::Pt);
        assert_eq!(
            after.changes_since(&before).collect::<Vec<_>>(),
            [EntryChange {
                table,
                level: Level::Pt,
                index: 4,
                before: Entry::ABSENT,
                after: memory.peek(table, 4),
            }]
        );
        assert_eq!(after.tables_not_in(&before).count(), 0);
    }
}

#[test]
fn new_and_gone_tables_are_told_and_the_entry_that_points_to_them() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    let mut capturer = Capturer::new();
    let before = capturer.capture(&memory, FOUR, &labelled(&roots));
    let page = VMALLOC.wrapping_add(1 << 30);
    let flags = FakeMemory::KERNEL_DATA;
    memory.map(
        Depth::Four,
        roots[0],
        page,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    let after = capturer.capture(&memory, FOUR, &labelled(&roots[..1]));
    let mut new: Vec<_> = after
        .tables_not_in(&before)
        .map(|table| table.level())
        .collect();
    new.sort();
    assert_eq!(new, [Level::Pd, Level::Pt]);
    let gone: Vec<_> = before
        .tables_not_in(&after)
        .map(|table| table.level())
        .collect();
    assert_eq!(gone.len(), 4);
    assert!(gone.contains(&Level::Pml4));
    let changes: Vec<_> = after.changes_since(&before).collect();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].level, changes[0].index), (Level::Pdpt, 1));
}

#[test]
fn what_the_cpu_marks_is_a_change_that_nobody_wrote() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 1);
    let mut capturer = Capturer::new();
    let before = capturer.capture(&memory, FOUR, &labelled(&roots));
    memory.change(Depth::Four, roots[0], TEXT, Level::Pt, |entry| {
        entry | Entry::ACCESSED
    });
    let after = capturer.capture(&memory, FOUR, &labelled(&roots));
    let marked: Vec<_> = after.changes_since(&before).collect();
    assert_eq!(marked.len(), 1);
    assert!(!marked[0].is_written());
    memory.change(Depth::Four, roots[0], TEXT, Level::Pt, |entry| {
        entry | Entry::WRITABLE
    });
    let last = capturer.capture(&memory, FOUR, &labelled(&roots));
    assert!(last.changes_since(&after).all(|change| change.is_written()));
    assert_eq!(last.changes_since(&after).count(), 1);
}
