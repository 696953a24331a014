//! What is found again is one finding, and memory for findings has a bound.

use heirloom_inspect::rules::MAX_WALKED;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Entry, Level, VirtRange};

use crate::scene::{PAGE, Scene, VMALLOC, direct_map, label, pa};

#[test]
fn a_hole_that_stays_is_one_finding_at_many_events() {
    let mut scene = Scene::family();
    let at = direct_map(0x1_0000);
    scene.change(scene.kernel, at, Level::Pt, |_| Entry::ABSENT);
    let first = scene.sequence;
    for _ in 0..3 {
        scene.checkpoint(1);
    }
    scene.map_in(scene.kernel, at, pa(0x1_0000), FakeMemory::KERNEL_DATA);
    scene.checkpoint(1);
    let verdict = scene.verdict("direct-map-complete");
    assert_eq!(verdict.findings.len(), 1);
    assert_eq!(verdict.findings[0].seen.unwrap().first_event, first);
    assert_eq!(verdict.findings[0].seen.unwrap().events, 3);
    assert_eq!(verdict.violations, 3 * 5);
    // What was broken once is not forgotten.
    assert!(!scene.judge.all_hold());
}

#[test]
fn many_facts_at_one_place_are_one_event_of_one_finding() {
    let mut scene = Scene::family();
    scene.tell_unmapped(1, Scene::memory_of_2());
    scene.checkpoint(1);
    let verdict = scene.verdict("revoked");
    assert_eq!(verdict.findings.len(), 5);
    for finding in &verdict.findings {
        assert_eq!(finding.seen.unwrap().events, 2);
    }
    assert_eq!(verdict.violations, 2 * 4 * 5);
}

#[test]
fn neighbours_that_are_wrong_in_the_same_way_are_one_finding_and_others_are_their_own() {
    let mut scene = Scene::family();
    for frame in (0..128).chain([130]) {
        let at = direct_map(frame * PAGE);
        scene.change(scene.kernel, at, Level::Pt, |entry| entry | Entry::USER);
    }
    for _ in 0..2 {
        scene.checkpoint(1);
    }
    let verdict = scene.verdict("kernel-not-user");
    assert_eq!(verdict.violations, 2 * 129);
    assert_eq!(verdict.findings.len(), 2);
    for (finding, (first, pages)) in verdict.findings.iter().zip([(0, 128), (130, 1)]) {
        assert_eq!(finding.seen.unwrap().events, 2);
        assert_eq!(
            finding.range,
            VirtRange::new(direct_map(first * PAGE), pages * PAGE)
        );
        let identity = format!("kernel-not-user/direct map+{:#x}/kernel/user", first * PAGE);
        assert_eq!(finding.identity, identity);
    }
    assert_eq!(
        verdict.findings[0].found,
        "128 pages of 4 KiB, the first at 0x0, rw-u"
    );
    assert_eq!(verdict.findings[1].found, "4 KiB page at 0x82000, rw-u");
}

#[test]
fn all_places_are_kept_and_the_first_with_their_walks() {
    let mut scene = Scene::family();
    // Every second page, so that no two are neighbours.
    let frames = (0..159).step_by(2);
    for frame in frames.clone() {
        let at = direct_map(frame * PAGE);
        scene.change(scene.kernel, at, Level::Pt, |entry| entry | Entry::USER);
    }
    scene.checkpoint(1);
    let verdict = scene.verdict("kernel-not-user");
    assert_eq!(verdict.findings.len(), frames.count());
    assert_eq!(verdict.left_out, 0);
    for (number, finding) in verdict.findings.iter().enumerate() {
        assert_eq!(finding.walks.len(), usize::from(number < MAX_WALKED));
    }
}

#[test]
fn a_large_allocation_that_one_lacks_does_not_hide_who_else_lacks_it() {
    let mut scene = Scene::family();
    // Both lack every page, for different reasons.
    let pages = 192;
    scene.privatize(scene.root(4), VMALLOC, Level::Pt);
    scene.memory.poke(scene.root(5).pfn(), 402, Entry::ABSENT);
    scene.map(2, pages);
    let made = scene.sequence - 1;
    let place = format!("kernel memory of event {made}");
    let whose: Vec<_> = scene
        .findings("propagated")
        .iter()
        .filter(|finding| finding.place == place)
        .map(|finding| finding.whose.unwrap())
        .collect();
    assert_eq!(whose, [label(4), label(5)]);
}

#[test]
fn an_event_number_that_comes_again_is_still_another_event() {
    let mut scene = Scene::family();
    let at = direct_map(0x1_0000);
    scene.change(scene.kernel, at, Level::Pt, |_| Entry::ABSENT);
    scene.checkpoint(1);
    scene.sequence -= 1;
    scene.checkpoint(1);
    let verdict = scene.verdict("direct-map-complete");
    assert_eq!(verdict.findings[0].seen.unwrap().events, 2);
}
