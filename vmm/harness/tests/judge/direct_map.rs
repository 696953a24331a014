//! `direct-map-complete` and `direct-map-exact`.

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Depth, Entry, Level, PageSize};

use crate::scene::{
    KERNEL_CONSTANTS, KERNEL_TEXT, RAM, Scene, assert_evidence, assert_walks, direct_map, pa,
    place_of,
};

const COMPLETE: &str = "direct-map-complete";
const EXACT: &str = "direct-map-exact";
/// Where large pages are: the last 4 MiB below the hole, and all above 4 GiB.
const LARGE: u64 = 0x60_0000;

#[test]
fn a_hole_of_one_frame_is_found_in_what_all_share() {
    let mut scene = Scene::family();
    scene.change(scene.kernel, direct_map(0x1_0000), Level::Pt, |_| {
        Entry::ABSENT
    });
    scene.checkpoint(1);
    scene.assert_broken(&[COMPLETE]);
    assert_evidence(
        scene.finding(COMPLETE),
        0,
        "frame 0x10",
        direct_map(0x1_0000),
    );
    assert_walks(scene.finding(COMPLETE), &[0]);
    // One frame, missing in five address spaces.
    assert_eq!(scene.verdict(COMPLETE).violations, 5);
}

#[test]
fn the_last_frame_before_a_hole_belongs_to_it_and_the_next_does_not() {
    let mut scene = Scene::family();
    let (start, bytes) = RAM[0];
    let last = start + bytes - 4096;
    scene.change(scene.kernel, direct_map(last), Level::Pt, |_| Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[COMPLETE]);
    assert_evidence(scene.finding(COMPLETE), 0, "frame 0x9e", direct_map(last));

    let mut scene = Scene::family();
    let behind = direct_map(start + bytes);
    scene.map_in(
        scene.kernel,
        behind,
        pa(start + bytes),
        FakeMemory::KERNEL_DATA,
    );
    scene.checkpoint(1);
    scene.assert_broken(&[EXACT]);
    assert_eq!(scene.finding(EXACT).address, Some(behind));
}

#[test]
fn a_large_page_that_is_missing_is_one_finding_and_as_many_frames() {
    let mut scene = Scene::family();
    scene.change(scene.kernel, direct_map(LARGE), Level::Pd, |_| {
        Entry::ABSENT
    });
    scene.checkpoint(1);
    scene.assert_broken(&[COMPLETE]);
    assert_evidence(scene.finding(COMPLETE), 0, "frame 0x600", direct_map(LARGE));
    assert_eq!(scene.verdict(COMPLETE).violations, 5 * 512);
}

#[test]
fn a_direct_map_that_ends_before_ram_does_is_short() {
    let mut scene = Scene::family();
    let (start, bytes) = RAM[2];
    let last = start + bytes - (2 << 20);
    scene.change(scene.kernel, direct_map(last), Level::Pd, |_| Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[COMPLETE]);
    assert_evidence(
        scene.finding(COMPLETE),
        0,
        "frame 0x100200",
        direct_map(last),
    );
}

#[test]
fn one_process_whose_own_direct_map_has_a_hole_is_named() {
    let mut scene = Scene::family();
    let at = direct_map(0x1_0000);
    scene.privatize(scene.root(4), at, Level::Pt);
    scene.change(scene.root(4), at, Level::Pt, |_| Entry::ABSENT);
    scene.checkpoint(1);
    // It needs tables of its own for that.
    scene.assert_broken(&["kernel-half-shared", "kernel-tables-same-frames", COMPLETE]);
    assert_evidence(scene.finding(COMPLETE), 4, "frame 0x10", at);
    assert_eq!(scene.verdict(COMPLETE).violations, 1);
}

#[test]
fn a_direct_map_at_another_entry_is_not_where_it_belongs() {
    let mut scene = Scene::family();
    let root = scene.root(4).pfn();
    let entry = scene.memory.peek(root, 273);
    scene.memory.poke(root, 273, Entry::ABSENT);
    scene.memory.poke(root, 274, entry);
    scene.checkpoint(1);
    // The same tables stand in two places now, and two entries differ from the kernel's.
    scene.assert_broken(&["kernel-half-shared", COMPLETE, "no-dangling-table"]);
    let place = scene.findings(COMPLETE)[0];
    assert_evidence(place, 4, "frame 0x0", direct_map(0));
}

#[test]
fn a_page_behind_the_end_of_ram_is_an_overrun() {
    let (start, bytes) = RAM[2];
    for (at, size) in [
        (start + bytes, PageSize::Size2MiB),
        // The hole below 1 MiB.
        (RAM[0].0 + RAM[0].1, PageSize::Size4KiB),
    ] {
        let mut scene = Scene::family();
        let flags = FakeMemory::KERNEL_DATA;
        scene.memory.map(
            Depth::Four,
            scene.kernel,
            direct_map(at),
            pa(at),
            size,
            flags,
        );
        scene.checkpoint(1);
        scene.assert_broken(&[EXACT]);
        let place = place_of(scene.finding(EXACT), direct_map(at));
        assert_evidence(scene.finding(EXACT), 0, &place, direct_map(at));
        assert_walks(scene.finding(EXACT), &[0]);
        assert_eq!(scene.finding(EXACT).expected, "nothing: there is no RAM");
    }
}

#[test]
fn a_wrong_frame_is_missing_in_its_place_and_shown_in_anothers() {
    let mut scene = Scene::family();
    let at = direct_map(0x1_1000);
    scene.map_in(scene.kernel, at, pa(0x1_2000), FakeMemory::KERNEL_DATA);
    scene.checkpoint(1);
    scene.assert_broken(&[COMPLETE, EXACT]);
    assert_evidence(scene.finding(COMPLETE), 0, "frame 0x11", at);
    assert_eq!(scene.finding(EXACT).expected, "its own frame, at 0x11000");
}

#[test]
fn an_executable_page_is_found_though_it_may_be_kernel_text() {
    for (at, rules) in [
        // Read-only and text by any address.
        (KERNEL_TEXT.0, &[EXACT][..]),
        (KERNEL_CONSTANTS.0, &[EXACT, "write-xor-execute"]),
        (0x1_0000, &[EXACT, "write-xor-execute"]),
    ] {
        let mut scene = Scene::family();
        scene.change(scene.kernel, direct_map(at), Level::Pt, |entry| {
            entry.without(Entry::NO_EXECUTE)
        });
        scene.checkpoint(1);
        scene.assert_broken(rules);
        assert_eq!(scene.finding(EXACT).address, Some(direct_map(at)));
        assert_eq!(scene.finding(EXACT).expected, "no execute");
    }
}

#[test]
fn a_page_of_any_size_that_fits_will_do() {
    let mut scene = Scene::family();
    // 2 MiB in small pages.
    scene.change(scene.kernel, direct_map(LARGE), Level::Pd, |_| {
        Entry::ABSENT
    });
    for at in (LARGE..LARGE + (2 << 20)).step_by(4096) {
        scene.map_in(
            scene.kernel,
            direct_map(at),
            pa(at),
            FakeMemory::KERNEL_DATA,
        );
    }
    scene.checkpoint(1);
    scene.assert_broken(&[]);
}
