//! What each strategy promises of the kernel half: a kernel that keeps it is sound, and each way not to is found.

use heirloom_abi::options::Strategy;
use heirloom_inspect::{Entry, Level, VirtAddr};

use crate::scene::{
    ENTRY_AREA, PAGE, Scene, VMALLOC, assert_evidence, assert_walks, direct_map, label,
};

const SHARED: &str = "kernel-half-shared";
const SAME_FRAMES: &str = "kernel-tables-same-frames";
const ISOLATED: &str = "user-root-isolated";

#[test]
fn a_kernel_that_keeps_its_strategys_promise_is_sound_and_every_rule_looked_at_something() {
    for strategy in Strategy::ALL {
        if !strategy.info().propagates {
            continue;
        }
        let scene = Scene::family_under(strategy);
        let rules = 19 + usize::from(strategy == Strategy::Isolated);
        assert_eq!(scene.judge.verdicts().len(), rules, "{strategy:?}");
        for verdict in scene.judge.verdicts() {
            let name = verdict.rule.name;
            assert!(verdict.checks > 0, "{strategy:?}: {name} checked nothing");
        }
    }
}

#[test]
fn copies_that_map_the_same_from_other_frames_are_what_copy_all_promises_and_no_other_strategy() {
    let mut copies = Scene::family_under(Strategy::CopyAll);
    copies.privatize(copies.root(4), VMALLOC, Level::Pt);
    copies.checkpoint(1);
    copies.assert_broken(&[]);
    for strategy in [Strategy::Prealloc, Strategy::Sync, Strategy::Fault] {
        let mut shared = Scene::family_under(strategy);
        shared.privatize(shared.root(4), VMALLOC, Level::Pt);
        shared.checkpoint(1);
        shared.assert_broken(&[SHARED, SAME_FRAMES]);
        assert_evidence(shared.finding(SHARED), 4, "PGD[402]", VMALLOC);
    }
}

#[test]
fn a_copy_that_lacks_a_page_of_the_kernels_is_found_at_that_page() {
    let mut scene = Scene::family_under(Strategy::CopyAll);
    let at = Scene::memory_of_2().wrapping_add(2 * PAGE);
    scene.change(scene.root(4), at, Level::Pt, |_| Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED, "propagated"]);
    let finding = scene.finding(SHARED);
    assert_evidence(finding, 4, "PGD[402]", at);
    assert_walks(finding, &[0, 4]);
    assert!(
        finding
            .expected
            .ends_with("a copy that maps what the kernel's own maps")
    );
    assert_eq!(scene.finding("propagated").address, Some(at));
}

#[test]
fn a_copy_with_a_page_that_the_kernel_lacks_is_found_in_that_process_alone() {
    let mut scene = Scene::family_under(Strategy::CopyAll);
    let at = VirtAddr::new(VMALLOC.get() + 64 * PAGE);
    let frame = scene.memory.frame();
    scene.map_in(scene.root(5), at, frame.base(), Entry::new(1 << 63 | 0b11));
    scene.checkpoint(1);
    assert_eq!(scene.findings(SHARED).len(), 1);
    assert_evidence(scene.finding(SHARED), 5, "PGD[402]", at);
}

#[test]
fn an_entry_that_a_process_did_not_copy_is_found() {
    let mut scene = Scene::family_under(Strategy::CopyAll);
    scene.memory.poke(scene.root(5).pfn(), 273, Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED, "direct-map-complete"]);
    assert_evidence(scene.finding(SHARED), 5, "PGD[273]", direct_map(0));
}

#[test]
fn a_table_that_two_processes_share_is_no_copy_of_either() {
    let mut scene = Scene::family_under(Strategy::CopyAll);
    let fours = scene.memory.peek(scene.root(4).pfn(), 402);
    scene.memory.poke(scene.root(5).pfn(), 402, fours);
    scene.checkpoint(1);
    scene.assert_broken(&[SAME_FRAMES]);
    let finding = scene.finding(SAME_FRAMES);
    assert_evidence(finding, 5, "PGD[402]", VMALLOC);
    assert_eq!(finding.expected, "a table of its own");
    assert_walks(finding, &[4, 5]);
}

#[test]
fn under_fault_an_entry_of_vmalloc_may_be_missing_but_not_wrong_and_no_other_may_be_missing() {
    let mut scene = Scene::family_under(Strategy::Fault);
    scene.memory.poke(scene.root(4).pfn(), 402, Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[]);

    let mut wrong = Scene::family_under(Strategy::Fault);
    wrong.privatize(wrong.root(4), VMALLOC, Level::Pdpt);
    wrong.checkpoint(1);
    wrong.assert_broken(&[SHARED, SAME_FRAMES]);

    // The entry beside the vmalloc area's last.
    let mut missing = Scene::family_under(Strategy::Fault);
    missing
        .memory
        .poke(missing.root(4).pfn(), 468, Entry::ABSENT);
    missing.checkpoint(1);
    missing.assert_broken(&[SHARED]);
    assert_eq!(missing.finding(SHARED).place, "PGD[468]");

    // The kernel's own root is where the others get it from.
    let mut kernel = Scene::family_under(Strategy::Fault);
    kernel.memory.poke(kernel.kernel.pfn(), 402, Entry::ABSENT);
    kernel.checkpoint(1);
    assert!(kernel.broken().contains(&SHARED));
    assert!(kernel.broken().contains(&"propagated"));
}

#[test]
fn an_isolated_process_that_lacks_the_entry_area_could_not_enter_the_kernel() {
    let mut scene = Scene::family_under(Strategy::Isolated);
    let entry = ENTRY_AREA.index(Level::Pml4);
    scene.memory.poke(scene.root(4).pfn(), entry, Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED]);
    let finding = scene.finding(SHARED);
    assert_evidence(finding, 4, "PGD[508]", ENTRY_AREA);
    assert!(finding.expected.ends_with("as an isolated kernel promises"));
    assert_eq!(finding.found, "absent");
}

#[test]
fn an_isolated_process_that_sees_more_of_the_kernel_is_found_by_both_rules() {
    for at in [direct_map(0), VMALLOC] {
        let mut scene = Scene::family_under(Strategy::Isolated);
        let root = scene.root(5);
        scene.inherit(root, at);
        scene.checkpoint(1);
        scene.assert_broken(&[SHARED, ISOLATED]);
        assert_eq!(scene.finding(SHARED).whose, Some(label(5)));
        let leaks = scene.findings(ISOLATED);
        assert!(!leaks.is_empty());
        for finding in &leaks {
            assert_eq!(finding.whose, Some(label(5)), "{finding:?}");
            assert_eq!(finding.place, format!("PGD[{}]", at.index(Level::Pml4)));
            assert_walks(finding, &[5]);
        }
        assert_eq!(leaks[0].address, Some(at));
    }
}

#[test]
fn a_page_of_the_kernel_in_a_private_table_of_an_isolated_process_is_a_leak() {
    let mut scene = Scene::family_under(Strategy::Isolated);
    let at = direct_map(0x20_0000);
    let text = Entry::new(1 << 63 | 0b1);
    scene.map_in(
        scene.root(2),
        at,
        heirloom_inspect::PhysAddr::new(0x20_0000),
        text,
    );
    scene.checkpoint(1);
    scene.assert_broken(&[SHARED, SAME_FRAMES, ISOLATED]);
    assert_evidence(scene.finding(ISOLATED), 2, "PGD[273]", at);
}
