//! `propagated` and `revoked`.

use heirloom_inspect::{Entry, Level};

use crate::scene::{PAGE, Scene, VMALLOC, assert_evidence, assert_walks, label};

const PROPAGATED: &str = "propagated";
const REVOKED: &str = "revoked";
/// What an access by an old translation breaks besides.
const STALE: &str = "no-stale-translation";
/// Kernel memory in one process that is not as in the others needs tables of its own.
const PRIVATE: [&str; 2] = ["kernel-half-shared", "kernel-tables-same-frames"];

/// The event that made [`Scene::memory_of_2`].
fn made(scene: &Scene) -> u64 {
    let mut allocations = scene.judge.model().allocations();
    allocations.next().unwrap().made
}

#[test]
fn a_wrong_frame_in_one_process_is_found_at_its_page() {
    let mut scene = Scene::family();
    let page = Scene::memory_of_2().wrapping_add(2 * PAGE);
    scene.privatize(scene.root(4), VMALLOC, Level::Pt);
    let other = scene.memory.frame();
    scene.change(scene.root(4), page, Level::Pt, |entry| {
        Entry::pointing_to(
            other.base(),
            entry.without(Entry::new(0x000f_ffff_ffff_f000)),
        )
    });
    scene.checkpoint(1);
    scene.assert_broken(&[PRIVATE[0], PRIVATE[1], PROPAGATED]);
    let finding = scene.finding(PROPAGATED);
    let place = format!("kernel memory of event {}", made(&scene));
    assert_evidence(finding, 4, &place, page);
    assert_walks(finding, &[2, 4]);
    let frames = finding
        .walks
        .iter()
        .map(|(_, walk)| walk.result.unwrap().pa);
    assert!(frames.is_sorted_by(|a, b| a != b));
}

#[test]
fn a_process_that_keeps_its_right_to_write_after_a_protection_is_found() {
    let mut scene = Scene::family();
    scene.privatize(scene.root(5), VMALLOC, Level::Pt);
    scene.protect(1, Scene::memory_of_2(), false);
    scene.assert_broken(&[PRIVATE[0], PRIVATE[1], PROPAGATED]);
    let finding = scene.finding(PROPAGATED);
    let place = format!("kernel memory of event {}", made(&scene));
    assert_evidence(finding, 5, &place, Scene::memory_of_2());
    assert_walks(finding, &[2, 5]);
}

#[test]
fn a_protection_that_was_told_and_not_made_breaks_it_for_everybody() {
    let mut scene = Scene::family();
    scene.tell_protected(4, Scene::memory_of_2(), false);
    scene.assert_broken(&[PROPAGATED]);
    let whose: Vec<_> = scene
        .findings(PROPAGATED)
        .iter()
        .map(|finding| finding.whose)
        .collect();
    assert_eq!(whose, [0, 1, 2, 4, 5].map(|pid| Some(label(pid))));
    assert_eq!(scene.verdict(PROPAGATED).violations, 4 * 5);
}

#[test]
fn a_page_that_is_gone_from_the_shared_table_is_gone_for_everybody() {
    let mut scene = Scene::family();
    let page = Scene::memory_of_2().wrapping_add(3 * PAGE);
    scene.change(scene.kernel, page, Level::Pt, |_| Entry::ABSENT);
    scene.checkpoint(1);
    scene.assert_broken(&[PROPAGATED]);
    assert_eq!(scene.findings(PROPAGATED).len(), 5);
    assert_eq!(scene.findings(PROPAGATED)[0].address, Some(page));
}

#[test]
fn kernel_memory_that_ring_3_can_reach_is_not_as_it_was_mapped() {
    let mut scene = Scene::family();
    scene.change(scene.kernel, Scene::memory_of_2(), Level::Pt, |entry| {
        entry | Entry::USER
    });
    scene.checkpoint(1);
    scene.assert_broken(&[PROPAGATED, "kernel-not-user"]);
}

#[test]
fn kernel_memory_that_can_be_executed_is_not_as_it_was_mapped() {
    for writable in [true, false] {
        let mut scene = Scene::family();
        let at = Scene::memory_of_2();
        scene.protect(1, at, writable);
        scene.change(scene.kernel, at, Level::Pt, |entry| {
            entry.without(Entry::NO_EXECUTE)
        });
        scene.checkpoint(1);
        scene.assert_broken(&[PROPAGATED, "write-xor-execute"]);
    }
}

#[test]
fn a_wrong_value_on_the_cpu_is_found_though_the_tables_agree() {
    let mut scene = Scene::family();
    let at = Scene::memory_of_2();
    scene.tell_access(5, at, 0x3333, false, None);
    scene.assert_broken(&[PROPAGATED]);
    let finding = scene.finding(PROPAGATED);
    let place = format!("read of kernel memory of event {}", made(&scene));
    assert_evidence(finding, 5, &place, at);
    assert_walks(finding, &[2, 5]);
    assert_eq!(finding.expected, "0x2222, which was written");
    assert_eq!(finding.found, "the CPU read 0x3333");
}

#[test]
fn memory_that_holds_another_value_is_found_though_the_cpu_reads_the_right_one() {
    let mut scene = Scene::family();
    let at = Scene::memory_of_2();
    scene.store(scene.translate(1, at).unwrap(), 0x44);
    scene.tell_access(1, at, 0x2222, false, None);
    scene.assert_broken(&[PROPAGATED]);
    assert!(
        scene
            .finding(PROPAGATED)
            .found
            .starts_with("0x2244 in memory")
    );
}

#[test]
fn a_fault_on_mapped_memory_is_found() {
    let mut scene = Scene::family();
    scene.tell_access(2, Scene::memory_of_2(), 0, false, Some(0));
    scene.assert_broken(&[PROPAGATED]);
    scene.tell_access(2, Scene::memory_of_2(), 9, true, Some(3));
    assert_eq!(scene.findings(PROPAGATED).len(), 2);
}

#[test]
fn a_write_that_read_only_memory_did_not_stop_is_found() {
    let mut scene = Scene::family();
    let at = Scene::memory_of_2();
    scene.protect(1, at, false);
    scene.tell_access(4, at, 0x2222, true, None);
    scene.assert_broken(&[PROPAGATED, STALE]);
    assert_eq!(
        scene.finding(PROPAGATED).expected,
        "a fault: the memory is read-only"
    );
}

#[test]
fn writes_at_odd_addresses_and_across_pages_are_followed() {
    let mut scene = Scene::family();
    let at = Scene::memory_of_2();
    scene.write(1, at.wrapping_add(3), 0x1122_3344_5566_7788);
    scene.read(2, at);
    scene.write(4, at.wrapping_add(PAGE - 5), u64::MAX);
    scene.read(5, at.wrapping_add(PAGE - 8));
    scene.read(5, at.wrapping_add(PAGE));
    // The last bytes would be on the guard page.
    scene.write(5, at.wrapping_add(4 * PAGE - 4), 1);
    scene.read(1, at.wrapping_add(4 * PAGE - 8));
    scene.assert_broken(&[]);
}

#[test]
fn a_mapping_by_nobody_known_is_everybodys_finding() {
    let mut scene = Scene::family();
    scene.map(77, 1);
    // The host cannot know the frames, nor whose CR3 it sees.
    scene.assert_broken(&[PROPAGATED, "cr3-known"]);
    assert_eq!(scene.findings(PROPAGATED).len(), 5);
}

#[test]
fn freed_memory_that_stays_mapped_is_found_in_every_process() {
    let mut scene = Scene::family();
    scene.tell_unmapped(1, Scene::memory_of_2());
    scene.assert_broken(&[REVOKED]);
    let findings = scene.findings(REVOKED);
    let place = format!("freed kernel memory at {}", Scene::memory_of_2());
    for (finding, pid) in findings.iter().zip([0, 1, 2, 4, 5]) {
        assert_evidence(finding, pid, &place, Scene::memory_of_2());
    }
    assert_walks(findings[3], &[0, 4]);
    assert_eq!(scene.verdict(REVOKED).violations, 4 * 5);
}

#[test]
fn one_process_that_keeps_freed_memory_is_named_with_both_walks() {
    let mut scene = Scene::family();
    scene.privatize(scene.root(4), VMALLOC, Level::Pt);
    scene.unmap(2, Scene::memory_of_2());
    scene.assert_broken(&[PRIVATE[0], PRIVATE[1], REVOKED]);
    let finding = scene.finding(REVOKED);
    let place = format!("freed kernel memory at {}", Scene::memory_of_2());
    assert_evidence(finding, 4, &place, Scene::memory_of_2());
    assert_walks(finding, &[0, 4]);
    assert!(finding.walks[0].1.result.is_err());
}

#[test]
fn one_page_that_was_forgotten_when_memory_was_freed_is_found() {
    let mut scene = Scene::family();
    let page = Scene::freed_memory().wrapping_add(PAGE);
    let frame = scene.memory.frame();
    scene.map_in(
        scene.kernel,
        page,
        frame.base(),
        heirloom_inspect::testing::FakeMemory::KERNEL_DATA,
    );
    scene.checkpoint(1);
    scene.assert_broken(&[REVOKED]);
    assert_eq!(scene.findings(REVOKED)[0].address, Some(page));
}

#[test]
fn an_access_to_freed_memory_that_does_not_fault_is_found_though_no_table_has_it() {
    for write in [false, true] {
        let mut scene = Scene::family();
        let at = Scene::freed_memory().wrapping_add(8);
        scene.tell_access(5, at, 7, write, None);
        scene.assert_broken(&[REVOKED, STALE]);
        let finding = scene.finding(REVOKED);
        let place = format!("access to freed kernel memory at {at}");
        assert_evidence(finding, 5, &place, at);
        assert_walks(finding, &[0, 5]);
    }
}
