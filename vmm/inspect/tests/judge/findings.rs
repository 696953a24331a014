//! What is found again is one finding, and memory for findings has a bound.

use heirloom_inspect::judge::MOST_KEPT;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Entry, Level};

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
    assert_eq!(verdict.findings[0].first_event, first);
    assert_eq!(verdict.findings[0].events, 3);
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
    for seen in &verdict.findings {
        assert_eq!(seen.events, 2);
    }
    assert_eq!(verdict.violations, 2 * 4 * 5);
}

#[test]
fn many_places_are_counted_and_not_all_kept() {
    let mut scene = Scene::family();
    for frame in 0..2 * MOST_KEPT as u64 {
        let at = direct_map(frame * PAGE);
        scene.change(scene.kernel, at, Level::Pt, |entry| entry | Entry::USER);
    }
    for _ in 0..2 {
        scene.checkpoint(1);
    }
    let verdict = scene.verdict("kernel-not-user");
    assert_eq!(verdict.findings.len(), MOST_KEPT);
    assert_eq!(verdict.violations, 4 * MOST_KEPT as u64);
}

#[test]
fn a_large_allocation_that_one_lacks_does_not_hide_who_else_lacks_it() {
    let mut scene = Scene::family();
    // Both lack every page, for different reasons.
    let pages = 3 * MOST_KEPT as u64;
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
    assert_eq!(verdict.findings[0].events, 2);
}
