//! Where pages lead.

use heirloom_inspect::layout::Area;
use heirloom_inspect::{Depth, Entry, Level, PageSize, PhysAddr};

use super::assert_breaks;
use crate::scene::{
    GIB, Guest, IMAGE_DATA, MIB, PAGE, Plan, UNUSED, USER_DATA, bits, broken, check, finding,
    flags_of,
};

use PageSize::Size4KiB;

#[test]
fn a_wrong_pointer_in_the_direct_map_is_found() {
    // A page that shows another's frame; both are RAM.
    let change = |guest: &mut Guest| {
        let va = guest.direct(UNUSED);
        guest.change(guest.init, va, Level::Pd, |entry| {
            Entry::pointing_to(UNUSED.wrapping_add(2 * MIB), flags_of(entry))
        });
    };
    assert_breaks(&["direct-map-exact"], change);
    for mut guest in Guest::all() {
        change(&mut guest);
        let finding = finding(&guest, "direct-map-exact");
        assert_eq!(finding.range.unwrap().first, guest.direct(UNUSED));
        assert!(
            finding.expected.contains(&UNUSED.to_string()),
            "{finding:?}"
        );
        assert!(
            finding
                .found
                .contains(&UNUSED.wrapping_add(2 * MIB).to_string())
        );
        assert_eq!(finding.area, Some(Area::DirectMap));
    }
    assert_breaks(&["direct-map-exact"], |guest| {
        let va = guest.direct(PhysAddr::new(0x5000));
        guest.change(guest.init, va, Level::Pt, |entry| {
            Entry::pointing_to(PhysAddr::new(0x6000), flags_of(entry))
        });
    });
    // A hole is none: kernels take out of the direct map what they guard.
    assert_breaks(&[], |guest| {
        let va = guest.direct(UNUSED);
        guest.change(guest.init, va, Level::Pd, |_| Entry::ABSENT);
    });
}

#[test]
fn a_direct_map_beyond_ram_is_found_but_for_the_isa_hole() {
    for depth in [Depth::Four, Depth::Five] {
        let guest = Guest::new(Plan::large(depth, false));
        let check = check(&guest);
        assert!(check.holds, "{:?}", broken(&guest));
        let exact = check
            .rules
            .iter()
            .find(|rule| rule.rule.name == "direct-map-exact")
            .unwrap();
        let met: Vec<_> = exact
            .exceptions
            .iter()
            .map(|met| (met.exception.name, met.count))
            .collect();
        assert_eq!(met, [("isa-hole", 96)]);
        // The same where RAM ends a page earlier, and a page behind RAM.
        let mut less = guest.clone();
        less.ram[0].bytes -= PAGE;
        assert_eq!(broken(&less), ["direct-map-exact"]);
        let mut less = guest.clone();
        less.ram[1].start = PhysAddr::new(0x10_1000);
        less.ram[1].bytes -= PAGE;
        assert_eq!(broken(&less), ["direct-map-exact"]);
        let mut more = guest.clone();
        let hole = PhysAddr::new(3 * GIB);
        more.map(more.init, more.direct(hole), hole, Size4KiB, bits::DATA);
        assert_eq!(broken(&more), ["direct-map-exact"]);
        let expected = finding(&more, "direct-map-exact").expected;
        assert_eq!(expected, "nothing: there is no RAM");
    }
}

#[test]
fn a_cached_page_of_a_process_beyond_ram_is_found_and_one_of_a_device_is_not() {
    let device = PhysAddr::new(0xb_0000_0000);
    let map = |guest: &mut Guest, flags| {
        let (root, va) = (guest.processes[1], USER_DATA.wrapping_add(33 * PAGE));
        guest.map_user(root, va, device, Size4KiB, flags);
    };
    assert_breaks(&["user-pages-in-ram"], |guest| {
        map(guest, bits::USER_DATA);
        let finding = finding(guest, "user-pages-in-ram");
        assert!(finding.found.contains(&device.to_string()), "{finding:?}");
    });
    for uncached in [
        Entry::CACHE_DISABLE,
        Entry::WRITE_THROUGH,
        // PAT, in a PT: write-combining.
        Entry::new(1 << 7),
    ] {
        assert_breaks(&[], |guest| map(guest, bits::USER_DATA | uncached));
    }
    for (pat, rules) in [(0, &["user-pages-in-ram"][..]), (1 << 12, &[])] {
        assert_breaks(rules, |guest| {
            let (root, va) = (
                guest.processes[1],
                heirloom_inspect::VirtAddr::new(0x7e00_0000_0000),
            );
            let flags = bits::USER_DATA | Entry::new(pat);
            guest.map_user(root, va, device, PageSize::Size2MiB, flags);
        });
    }
}

#[test]
fn devices_of_the_kernel_are_counted_by_where_they_are_mapped() {
    for guest in Guest::all() {
        let notes = check(&guest).notes.join("\n");
        assert!(
            notes.contains(
                "pages that lead outside RAM (devices, firmware): 2 in fixmap, 4 in vmalloc"
            ),
            "{notes}"
        );
    }
}

#[test]
fn memory_freed_behind_the_image_is_mapped_twice_and_may_hold_tables() {
    // The image's data and the direct map show init_top_pgt: both may write it, and none is ring 3's.
    for guest in Guest::all() {
        let discovery = guest.discover();
        let reached = discovery.snapshot.reverse(guest.init).reached;
        let writable: Vec<_> = reached
            .iter()
            .filter(|at| at.mapping.rights.write)
            .map(|at| at.va)
            .collect();
        let image = guest
            .image(IMAGE_DATA)
            .wrapping_add(guest.init.get() - IMAGE_DATA.get());
        assert!(writable.contains(&image) && writable.contains(&guest.direct(guest.init)));
        assert_eq!(broken(&guest), [""; 0]);
    }
}
