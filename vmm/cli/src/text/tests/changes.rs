//! What changed between two moments, and what reaches a frame, when there is much of it.

use heirloom_inspect::difference::Difference;
use heirloom_inspect::report::{DifferenceReport, ReverseReport};
use heirloom_inspect::{Depth, Entry, Level, PageSize, Pfn, PhysAddr, VirtAddr};

use super::scene::{Guest, PAGE, Plan, USER_DATA, USER_TEXT, bits};
use super::{assert_tidy, shown};

fn difference_shown(before: &Guest, after: &Guest) -> String {
    let (before, after) = (before.discover(), after.discover());
    let difference = Difference::between(&before, &after).unwrap();
    shown(&DifferenceReport::new(
        ("a", &before),
        ("b", &after),
        difference,
    ))
}

#[test]
fn a_difference_of_a_and_d_alone_is_none() {
    for guest in Guest::all() {
        let mut later = guest.clone();
        let root = later.processes[0];
        later.change(root, USER_TEXT, Level::Pt, |entry| {
            entry.without(Entry::ACCESSED | Entry::DIRTY)
        });
        assert_eq!(
            difference_shown(&guest, &later),
            "from a to b\nnothing changed but A and D bits, if those"
        );
    }
}

type Change = fn(&mut Guest, PhysAddr);

#[test]
fn each_kind_of_change_has_its_word() {
    let guest = Guest::new(Plan::new(Depth::Four, false));
    let root = guest.processes[1];
    let cases: [(&str, Change); 4] = [
        ("mapped", |guest, root| {
            let (to, va) = (guest.data_page(), USER_DATA.wrapping_add(9 * PAGE));
            guest.map_user(root, va, to, PageSize::Size4KiB, bits::USER_DATA);
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
            guest.change(root, USER_DATA, Level::Pt, |_| {
                Entry::pointing_to(to, bits::USER_DATA)
            });
        }),
    ];
    for (word, change) in cases {
        let mut later = guest.clone();
        change(&mut later, root);
        let text = difference_shown(&guest, &later);
        assert!(text.contains(&format!(" {word}: ")), "{text}");
        assert_tidy(&text);
    }
}

/// Tables of a process that map one page table over and over.
fn fan_out(guest: &mut Guest) -> (Pfn, PhysAddr) {
    let (root, va) = (guest.processes[1], VirtAddr::new(0x3000_0000_0000));
    let [pt, pd, pdpt] =
        [Level::Pt, Level::Pd, Level::Pdpt].map(|level| guest.table(root, va, level));
    let page = guest.data_page();
    guest
        .memory
        .poke(pt, 7, Entry::pointing_to(page, bits::USER_DATA));
    for index in 0..512 {
        for (table, below) in [(pd, pt), (pdpt, pd)] {
            let entry = Entry::pointing_to(below.base(), bits::TABLE);
            guest.memory.poke(table, index, entry);
        }
    }
    guest.mirror(root);
    (pt, page)
}

#[test]
fn too_many_addresses_are_cut_and_said_to_be() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let (pt, _) = fan_out(&mut guest);
    let mut later = guest.clone();
    let page = later.data_page();
    for index in (0..512).step_by(2) {
        let entry = Entry::pointing_to(page, bits::USER_DATA);
        later.memory.poke(pt, index, entry);
    }
    let text = difference_shown(&guest, &later);
    assert!(text.ends_with("… and more that were not looked for: too many"));
    for index in 0..512 {
        let entry = Entry::pointing_to(page, bits::USER_DATA);
        later.memory.poke(pt, index, entry);
    }
    let report = ReverseReport::new("raw:guest", &later.discover(), page);
    assert!(report.is_cut);
    assert!(shown(&report).ends_with("… and too many more to list"));
}
