//! Two moments: what changed, against a comparison page by page.

use std::collections::BTreeMap;

use heirloom_inspect::difference::{Destination, Difference, RangeChange, entries_by_level};
use heirloom_inspect::{
    Depth, Discovery, Entry, Half, Level, PageSize, PhysAddr, RootLabel, VirtAddr, VirtRange,
};
use proptest::prelude::*;

use crate::scene::{
    Guest, IMAGE_CONSTANTS, MIB, PAGE, Plan, USER_DATA, USER_HUGE, USER_TEXT, bits, flags_of,
};

use PageSize::Size4KiB;

fn between(before: &Guest, after: &Guest) -> Difference {
    Difference::between(&before.discover(), &after.discover()).unwrap()
}

/// What each page of 4 KiB of one address space leads to.
type Pages = BTreeMap<VirtAddr, Destination>;

fn pages(discovery: &Discovery, root: PhysAddr) -> Pages {
    let space = discovery.space_at(root).unwrap();
    let mut pages = Pages::new();
    for page in discovery.snapshot.leaves(space.root, VirtRange::ALL) {
        for offset in (0..page.size.bytes()).step_by(4096) {
            let to = Destination {
                pa: page.pa.wrapping_add(offset),
                rights: page.rights,
            };
            pages.insert(page.va.wrapping_add(offset), to);
        }
    }
    pages
}

/// The pages that lead elsewhere, with what they led and lead to.
fn model(before: &Pages, after: &Pages) -> BTreeMap<VirtAddr, [Option<Destination>; 2]> {
    before
        .keys()
        .chain(after.keys())
        .map(|va| (*va, [before.get(va).copied(), after.get(va).copied()]))
        .filter(|(_, [before, after])| before != after)
        .collect()
}

/// The same as the ranges tell it for the root at `root`.
fn told(ranges: &[RangeChange], root: PhysAddr) -> BTreeMap<VirtAddr, [Option<Destination>; 2]> {
    let mut told = BTreeMap::new();
    for change in ranges {
        if !change.spaces.contains(&RootLabel::Found(root)) {
            continue;
        }
        for offset in (0..change.range.bytes()).step_by(4096) {
            let at = |to: Option<Destination>| {
                to.map(|to| Destination {
                    pa: to.pa.wrapping_add(offset),
                    ..to
                })
            };
            let va = change.range.first.wrapping_add(offset);
            let twice = told.insert(va, [at(change.before), at(change.after)]);
            assert!(twice.is_none(), "{va}");
        }
    }
    told
}

#[test]
fn a_moment_does_not_differ_from_itself() {
    for guest in Guest::all() {
        let difference = between(&guest, &guest);
        assert!(difference.is_empty(), "{difference:?}");
        // A and D are the CPU's.
        let mut later = guest.clone();
        let root = later.processes[0];
        later.change(root, USER_TEXT, Level::Pt, |entry| {
            entry.without(Entry::ACCESSED | Entry::DIRTY)
        });
        let difference = between(&guest, &later);
        assert!(difference.is_empty(), "{difference:?}");
    }
}

#[test]
fn a_large_page_split_into_equal_small_ones_leads_nowhere_else() {
    for guest in Guest::all() {
        let mut later = guest.clone();
        let va = guest.image(IMAGE_CONSTANTS);
        let leaf = later.entry(later.init, va, Level::Pd);
        let table = later.memory.frame();
        for index in 0..512 {
            let to = leaf.address().wrapping_add(u64::from(index) * PAGE);
            let flags = flags_of(leaf).without(Entry::LARGE);
            later
                .memory
                .poke(table, index, Entry::pointing_to(to, flags));
        }
        later.change(later.init, va, Level::Pd, |_| {
            Entry::pointing_to(table.base(), bits::TABLE)
        });
        let difference = between(&guest, &later);
        assert_eq!(difference.ranges, []);
        assert_eq!((difference.tables_new, difference.tables_gone), (1, 0));
        let entries: Vec<_> = difference
            .entries
            .iter()
            .map(|change| (change.level, change.index))
            .collect();
        assert_eq!(entries, [(Level::Pd, va.index(Level::Pd))]);
        // With one of the pages read-only to begin with, that page alone is another.
        let mut third = later.clone();
        third
            .memory
            .poke(table, 7, Entry::pointing_to(leaf.address(), bits::DATA));
        let difference = between(&guest, &third);
        let [change] = &difference.ranges[..] else {
            panic!("{difference:?}")
        };
        assert_eq!(
            change.range,
            VirtRange::new(va.wrapping_add(7 * PAGE), PAGE).unwrap()
        );
        assert_eq!(change.what(), "moved");
        assert_eq!(change.half, Half::Kernel);
        // All that have the table.
        let kernels = guest.processes.len() + 3;
        assert_eq!(change.spaces.len(), kernels, "{change:?}");
    }
}

#[test]
fn roots_are_born_and_gone_with_their_processes() {
    for mut before in Guest::all() {
        let dying = before.add_process(9);
        let mut after = before.clone();
        // Its process exits: the root is still in memory, its user half is empty.
        for root in after.pair(dying) {
            for index in 0..256 {
                after.memory.poke(root.pfn(), index, Entry::ABSENT);
            }
        }
        let born = after.add_process(10);
        let difference = between(&before, &after);
        let addresses = |spaces: &[heirloom_inspect::discover::Space]| -> Vec<_> {
            spaces.iter().map(|space| space.address).collect()
        };
        assert_eq!(
            addresses(&difference.born),
            after.pair(born),
            "{}",
            before.plan
        );
        assert_eq!(
            addresses(&difference.gone),
            before.pair(dying),
            "{}",
            before.plan
        );
        assert_eq!(difference.ranges, []);
        assert!(difference.tables_new > 0 && difference.tables_gone > 0);
        assert!(!difference.is_empty());
        // And the other way round.
        let back = between(&after, &before);
        assert_eq!(addresses(&back.gone), after.pair(born));
        assert_eq!(addresses(&back.born), before.pair(dying));
    }
}

type Change = fn(&mut Guest, PhysAddr);

#[test]
fn each_kind_of_change_has_its_word() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let root = guest.processes[1];
    let page = |number: u64| USER_DATA.wrapping_add(number * PAGE);
    let cases: [(&str, Change); 4] = [
        ("mapped", |guest, root| {
            let to = guest.data_page();
            guest.map_user(
                root,
                USER_DATA.wrapping_add(9 * PAGE),
                to,
                Size4KiB,
                bits::USER_DATA,
            );
        }),
        ("unmapped", |guest, root| {
            guest.change(root, USER_DATA, Level::Pt, |_| Entry::ABSENT);
        }),
        ("rights changed", |guest, root| {
            guest.change(root, USER_DATA, Level::Pt, |entry| {
                entry.without(Entry::WRITABLE)
            });
        }),
        ("moved", |guest, root| {
            let to = guest.data_page();
            guest.change(root, USER_DATA, Level::Pt, |entry| {
                Entry::pointing_to(to, flags_of(entry))
            });
        }),
    ];
    for (word, change) in cases {
        let mut later = guest.clone();
        change(&mut later, root);
        let difference = between(&guest, &later);
        let [range] = &difference.ranges[..] else {
            panic!("{difference:?}")
        };
        assert_eq!(range.what(), word);
        let first = if word == "mapped" { page(9) } else { page(0) };
        assert_eq!(range.range, VirtRange::new(first, PAGE).unwrap());
        assert_eq!(range.spaces, [RootLabel::Found(root)]);
        assert_eq!(difference.entries.len(), 1);
    }
}

#[test]
fn neighbours_that_change_alike_are_one_range_and_others_begin_a_new_one() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let root = guest.processes[1];
    let at = |number: u64| USER_DATA.wrapping_add(number * PAGE);
    let to = |number: u64| PhysAddr::new(50 * MIB + number * PAGE);
    let mut later = guest.clone();
    for (page, frame, flags) in [
        (20, 0, bits::USER_DATA),
        (21, 1, bits::USER_DATA),
        (22, 2, bits::USER_DATA),
        // Another frame than the next one; other rights; behind a gap.
        (23, 9, bits::USER_DATA),
        (24, 10, bits::USER_TEXT),
        (26, 12, bits::USER_TEXT),
    ] {
        later.map_user(root, at(page), to(frame), Size4KiB, flags);
    }
    let expected = [(20, 3, 0), (23, 1, 9), (24, 1, 10), (26, 1, 12)];
    let forth = between(&guest, &later);
    let back = between(&later, &guest);
    assert!(!forth.ranges_cut && !back.ranges_cut);
    assert_eq!(forth.ranges.len(), expected.len(), "{:?}", forth.ranges);
    assert_eq!(back.ranges.len(), expected.len(), "{:?}", back.ranges);
    for (number, (page, pages, frame)) in expected.into_iter().enumerate() {
        let (new, old) = (&forth.ranges[number], &back.ranges[number]);
        let range = VirtRange::new(at(page), pages * PAGE).unwrap();
        assert_eq!((new.range, old.range), (range, range));
        assert_eq!((new.before, old.after), (None, None));
        assert_eq!(new.after.unwrap().pa, to(frame));
        assert_eq!(old.before, new.after);
    }

    // Pages that move together stay together only if they were together, too.
    let mut moved = later.clone();
    for (page, frame) in [(20, 32), (21, 33), (22, 40), (23, 41)] {
        moved.map_user(root, at(page), to(frame), Size4KiB, bits::USER_DATA);
    }
    let ranges = between(&later, &moved).ranges;
    let pages: Vec<_> = ranges.iter().map(|change| change.range).collect();
    let expected = [(20, 2), (22, 1), (23, 1)];
    let range = |(page, pages): (u64, u64)| VirtRange::new(at(page), pages * PAGE).unwrap();
    assert_eq!(pages, expected.map(range));
    assert!(ranges.iter().all(|change| change.what() == "moved"));
}

#[test]
fn written_entries_are_counted_at_each_level_from_the_root_down() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let root = guest.processes[1];
    let mut later = guest.clone();
    for page in [0, 9, 11] {
        let to = later.data_page();
        let at = USER_DATA.wrapping_add(page * PAGE);
        later.map_user(root, at, to, Size4KiB, bits::USER_DATA);
    }
    later.change(root, USER_HUGE, Level::Pd, |_| Entry::ABSENT);
    let entries = between(&guest, &later).entries;
    assert_eq!(
        entries_by_level(&entries),
        [(Level::Pd, 1), (Level::Pt, 3)],
        "{entries:?}"
    );
    assert_eq!(entries_by_level(&[]), []);
}

#[test]
fn four_and_five_levels_have_nothing_to_do_with_each_other() {
    let [four, five] =
        [Depth::Four, Depth::Five].map(|depth| Guest::new(Plan::new(depth, false)).discover());
    let error = Difference::between(&four, &five).unwrap_err();
    assert_eq!((error.left, error.right), (4, 5));
    assert!(error.to_string().contains("4-level") && error.to_string().contains("5-level"));
}

#[test]
fn absurdly_many_changes_are_cut_and_said_to_be() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let (root, va) = (guest.processes[1], VirtAddr::new(0x3000_0000_0000));
    let pt = guest.table(root, va, Level::Pt);
    let (pd, pdpt) = (
        guest.table(root, va, Level::Pd),
        guest.table(root, va, Level::Pdpt),
    );
    let page = guest.data_page();
    for index in 0..512 {
        guest
            .memory
            .poke(pd, index, Entry::pointing_to(pt.base(), bits::TABLE));
        guest
            .memory
            .poke(pdpt, index, Entry::pointing_to(pd.base(), bits::TABLE));
    }
    guest.mirror(root);
    let mut later = guest.clone();
    for index in (0..512).step_by(2) {
        later
            .memory
            .poke(pt, index, Entry::pointing_to(page, bits::USER_DATA));
    }
    let difference = between(&guest, &later);
    assert!(difference.ranges_cut);
    // Each counts with the one address space that has it.
    assert_eq!(difference.ranges.len(), 1 << 20);
}

/// A page that is written in a page table of a process, or in one of the kernel's.
fn change() -> impl Strategy<Value = (u64, u64, Entry)> {
    let leaf = prop_oneof![
        Just(Entry::ABSENT),
        Just(bits::USER_DATA),
        Just(bits::USER_TEXT),
        Just(bits::DATA),
    ];
    (0u64..12, 0u64..8, leaf)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn ranges_tell_what_a_comparison_page_by_page_tells(
        which in 0usize..4,
        mine in proptest::collection::vec(change(), 0..8),
        kernels in proptest::collection::vec(change(), 0..8),
        unmap_huge: bool,
    ) {
        let before = Guest::all().remove(which);
        let mut after = before.clone();
        let root = after.processes[1];
        for (changes, root, at) in [(mine, root, USER_DATA), (kernels, after.init, after.vmalloc())] {
            for (page, frame, flags) in changes {
                let to = PhysAddr::new(58 * MIB + frame * PAGE);
                let entry = if flags.present() { Entry::pointing_to(to, flags) } else { flags };
                after.change(root, at.wrapping_add(page * PAGE), Level::Pt, |_| entry);
            }
        }
        if unmap_huge {
            after.change(root, USER_HUGE, Level::Pd, |_| Entry::ABSENT);
        }
        let (earlier, later) = (before.discover(), after.discover());
        let difference = Difference::between(&earlier, &later).unwrap();
        prop_assert!(!difference.ranges_cut);
        for root in [root, after.processes[2], after.init] {
            let expected = model(&pages(&earlier, root), &pages(&later, root));
            prop_assert_eq!(told(&difference.ranges, root), expected, "{}", root);
        }
    }
}
