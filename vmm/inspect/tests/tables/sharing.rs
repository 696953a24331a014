//! What is shared is seen once, with all who share it.

use std::collections::BTreeSet;

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Decoded, Depth, Entry, Half, Level, PageSize, Parent, Placement, Rights, TableFrames, VirtRange,
};

use crate::{DIRECT_MAP, FOUR, TEXT, VMALLOC, family, id, pa, snapshot};

#[test]
fn shared_kernel_tables_count_once_and_in_their_half() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 10);
    let snapshot = snapshot(&memory, FOUR, &roots);
    assert_eq!(
        snapshot.table_frames(),
        TableFrames {
            total: 10 + 30 + 5,
            roots: 10,
            kernel_half: 5,
            user_half: 30,
            both_halves: 0
        }
    );
}

#[test]
fn a_kernel_table_in_the_user_half_is_counted_in_both() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    let kernel = memory.peek(roots[0].pfn(), VMALLOC.index(Level::Pml4));
    memory.poke(roots[1].pfn(), 5, kernel);
    let frames = snapshot(&memory, FOUR, &roots).table_frames();
    assert_eq!(frames.both_halves, 3);
    assert_eq!(frames.total, 2 + 6 + 5);
}

#[test]
fn an_inherited_kernel_half_is_one_subtree_per_entry_with_all_roots() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 6);
    // The CPU's A bit makes no difference.
    memory.change(Depth::Four, roots[2], VMALLOC, Level::Pml4, |entry| {
        entry | Entry::ACCESSED
    });
    let snapshot = snapshot(&memory, FOUR, &roots);
    let subtrees = snapshot.subtrees(Half::Kernel);
    let indices: Vec<_> = subtrees.iter().map(|subtree| subtree.index).collect();
    assert_eq!(indices, [273, 402]);
    for subtree in &subtrees {
        assert_eq!(subtree.roots.len(), 6);
        assert!(subtree.roots.is_sorted());
    }
    let leaves = snapshot.leaves(subtrees[1].roots[0], subtrees[1].range);
    assert!(leaves.map(|leaf| leaf.va).eq([VMALLOC]));
}

#[test]
fn a_private_user_half_is_one_subtree_per_root() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 6);
    let snapshot = snapshot(&memory, FOUR, &roots);
    let subtrees = snapshot.subtrees(Half::User);
    assert_eq!(subtrees.len(), 6);
    let owners: BTreeSet<_> = subtrees.iter().flat_map(|subtree| &subtree.roots).collect();
    assert_eq!(owners.len(), 6);
    assert!(subtrees.iter().all(|subtree| subtree.index == 0));
}

#[test]
fn roots_that_differ_in_turns_still_meet_in_the_same_subtree() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 6);
    let index = VMALLOC.index(Level::Pml4);
    let other = memory.frame();
    for root in roots.iter().skip(1).step_by(2) {
        memory.poke(
            root.pfn(),
            index,
            Entry::pointing_to(other.base(), FakeMemory::POINTER),
        );
    }
    let snapshot = snapshot(&memory, FOUR, &roots);
    let subtrees = snapshot.subtrees(Half::Kernel);
    let at: Vec<_> = subtrees
        .iter()
        .filter(|subtree| subtree.index == index)
        .collect();
    assert_eq!(at.len(), 2);
    assert_eq!(at[0].roots, [0, 2, 4].map(|root| id(&snapshot, root)));
    assert_eq!(at[1].roots, [1, 3, 5].map(|root| id(&snapshot, root)));
}

#[test]
fn every_table_is_placed_once_however_many_roots_reach_it() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 10);
    let snapshot = snapshot(&memory, FOUR, &roots);
    let placements = snapshot.placements();
    // Each root with both halves; every other table in one.
    assert_eq!(placements.len(), 2 * 10 + 30 + 5);
    let leaves: Vec<_> = placements
        .iter()
        .flat_map(Placement::entries)
        .filter(|entry| matches!(entry.decoded, Decoded::Leaf(_)))
        .collect();
    assert_eq!(leaves.len(), 3 + 10);
    for placement in &placements {
        for entry in placement.entries() {
            assert_eq!(entry.va.half(), placement.half);
            // The witness does lead here.
            let walk = snapshot.translate(placement.root, entry.va);
            let step = walk
                .steps()
                .iter()
                .find(|step| step.level == placement.table.level())
                .unwrap();
            assert_eq!(
                (step.table, step.index),
                (placement.table.pfn(), entry.index)
            );
            assert_eq!(step.entry, entry.entry);
        }
    }
}

#[test]
fn a_table_reached_with_other_rights_is_placed_again() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 3);
    memory.change(Depth::Four, roots[1], VMALLOC, Level::Pml4, |entry| {
        entry.without(Entry::WRITABLE)
    });
    let snapshot = snapshot(&memory, FOUR, &roots);
    let table = memory.table_for(Depth::Four, roots[1], VMALLOC, Level::Pt);
    let placements = snapshot.placements();
    let rights: BTreeSet<_> = placements
        .iter()
        .filter(|placement| placement.table.pfn() == table)
        .map(|placement| placement.rights)
        .collect();
    let read_only = Rights {
        write: false,
        ..Rights::ALL
    };
    assert_eq!(rights, BTreeSet::from([read_only, Rights::ALL]));
}

#[test]
fn parents_are_all_entries_that_point_to_a_table() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 3);
    let snapshot = snapshot(&memory, FOUR, &roots);
    let index = DIRECT_MAP.index(Level::Pml4);
    let table = memory.table_for(Depth::Four, roots[0], DIRECT_MAP, Level::Pdpt);
    let mut parents = snapshot.parents(table, Level::Pdpt).to_vec();
    parents.sort();
    let expected: Vec<_> = roots
        .iter()
        .map(|root| Parent {
            table: root.pfn(),
            level: Level::Pml4,
            index,
        })
        .collect();
    assert_eq!(parents, expected);
    assert_eq!(snapshot.parents(table, Level::Pd), []);
    assert_eq!(snapshot.parents(roots[0].pfn(), Level::Pml4), []);
}

#[test]
fn evidence_serializes() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let flags = FakeMemory::USER_DATA;
    memory.map(
        Depth::Four,
        root,
        TEXT,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    let snapshot = snapshot(&memory, FOUR, &[root]);
    let ranges: Vec<_> = snapshot.ranges(id(&snapshot, 0), VirtRange::ALL).collect();
    assert_eq!(
        serde_json::to_value(&ranges).unwrap(),
        serde_json::json!([{
            "range": {"first": "0x400000", "last": "0x400fff"},
            "pa": "0x5000",
            "rights": {"write": true, "user": true, "execute": false},
            "pages": {"4KiB": 1, "2MiB": 0, "1GiB": 0},
        }])
    );
    assert_eq!(
        serde_json::to_value(snapshot.roots()).unwrap(),
        serde_json::json!([{"id": 0, "label": {"process": 1}, "address": "0x1000"}])
    );
}
