//! `no-stale-translation` and `frame-not-reused-early`.

use heirloom_harness::event::EventKind;
use heirloom_inspect::rules::Outcome;
use heirloom_inspect::{Entry, Level, VirtAddr};

use crate::scene::{DATA, PAGE, Scene, assert_evidence, assert_walks};

const STALE: &str = "no-stale-translation";
const REUSED: &str = "frame-not-reused-early";

/// A sound family that flushes nothing by itself, and the four pages of kernel memory that it has.
fn family() -> (Scene, VirtAddr) {
    let mut scene = Scene::family();
    scene.flush_by_hand();
    (scene, Scene::memory_of_2())
}

#[test]
fn pages_that_were_unmapped_and_not_flushed_are_one_finding() {
    let (mut scene, at) = family();
    scene.notes.writes += 4;
    scene.unmap(1, at);
    scene.assert_broken(&[STALE]);
    assert_eq!(scene.verdict(STALE).violations, 4);
    let finding = scene.finding(STALE);
    assert_evidence(finding, 0, &format!("CPU 0, page at {at}"), at);
    assert_walks(finding, &[0]);
    assert_eq!(finding.range.unwrap().bytes(), 4 * PAGE);
    assert!(
        finding.found.contains("the 3 pages behind it"),
        "{}",
        finding.found
    );
    assert!(
        finding.expected.contains("unmapped"),
        "{}",
        finding.expected
    );
}

#[test]
fn a_flush_of_each_page_after_its_entry_was_written_is_enough() {
    let (mut scene, at) = family();
    scene.notes.writes += 4;
    scene.note_flush(at, 4);
    scene.unmap(1, at);
    scene.assert_broken(&[]);
    scene.checkpoint(2);
    scene.assert_broken(&[]);
}

#[test]
fn a_flush_before_the_last_entry_was_written_is_too_early() {
    let (mut scene, at) = family();
    // Each page is flushed before its entry is written.
    for page in 0..4 {
        scene.note_flush(at.wrapping_add(page * PAGE), 1);
        scene.notes.writes += 1;
    }
    scene.unmap(1, at);
    scene.assert_broken(&[STALE]);
    let found = &scene.findings(STALE)[0].found;
    assert!(found.contains("before the last of the entries"), "{found}");
}

#[test]
fn a_flush_of_the_page_behind_leaves_the_first_one() {
    let (mut scene, at) = family();
    scene.notes.writes += 4;
    scene.note_flush(at.wrapping_add(PAGE), 4);
    scene.unmap(1, at);
    scene.assert_broken(&[STALE]);
    assert_eq!(scene.verdict(STALE).violations, 1);
    assert_eq!(scene.finding(STALE).address, Some(at));
}

#[test]
fn a_load_of_cr3_drops_no_global_page() {
    let (mut scene, at) = family();
    scene.notes.writes += 4;
    scene.note_load();
    scene.unmap(1, at);
    scene.assert_broken(&[STALE]);
    assert_eq!(scene.verdict(STALE).violations, 4);
}

#[test]
fn rights_that_are_taken_need_a_flush_and_those_that_are_given_need_none() {
    let (mut scene, at) = family();
    scene.notes.writes += 4;
    scene.protect(1, at, false);
    scene.assert_broken(&[STALE]);
    let finding = scene.finding(STALE);
    assert!(
        finding.expected.contains("lost rights"),
        "{}",
        finding.expected
    );

    let (mut scene, at) = family();
    scene.notes.writes += 4;
    scene.note_flush(at, 4);
    scene.protect(1, at, false);
    scene.protect(1, at, true);
    scene.assert_broken(&[]);
}

#[test]
fn what_is_flushed_late_was_wrong_until_then() {
    let (mut scene, at) = family();
    scene.unmap(1, at);
    scene.checkpoint(1);
    scene.note_flush(at, 4);
    scene.checkpoint(1);
    scene.checkpoint(1);
    assert_eq!(scene.finding(STALE).seen.unwrap().events, 2);
}

#[test]
fn a_fork_that_does_not_flush_the_parent_is_found() {
    let (mut scene, _) = family();
    scene.fork(4);
    scene.assert_broken(&[STALE]);
    assert_eq!(scene.finding(STALE).whose, Some(crate::scene::label(4)));

    let (mut scene, _) = family();
    scene.notes.writes += 100;
    scene.note_load();
    scene.fork(4);
    scene.assert_broken(&[]);
}

#[test]
fn a_load_before_the_entries_of_the_user_half_were_written_is_too_early() {
    let (mut scene, _) = family();
    scene.note_load();
    scene.fork(4);
    scene.assert_broken(&[STALE]);
    let found = &scene.findings(STALE)[0].found;
    assert!(found.contains("before the last of the entries"), "{found}");
}

#[test]
fn a_cpu_that_has_another_root_holds_nothing_of_a_user_half() {
    let (mut scene, _) = family();
    // Process 4's page gets another frame while process 1's root is loaded.
    scene.touch(4, DATA);
    scene.checkpoint(1);
    scene.assert_broken(&[]);
    // The same on the CPU that has it.
    scene.touch(4, DATA);
    scene.checkpoint(4);
    scene.assert_broken(&[STALE]);
    let finding = scene.finding(STALE);
    assert!(finding.expected.contains("moved"), "{}", finding.expected);
}

#[test]
fn a_frame_that_is_given_out_again_while_it_can_be_reached_is_found() {
    let (mut scene, at) = family();
    let frame = scene.translate(1, at).unwrap().pfn();
    scene.unmap(1, at);
    let again = scene.map_frames(scene.kernel, 1, vec![frame]);
    scene.assert_broken(&[STALE, REUSED]);
    let finding = scene.finding(REUSED);
    assert_evidence(finding, 0, &format!("frame of page at {at} on CPU 0"), at);
    assert!(
        finding.found.contains("a page of something else"),
        "{}",
        finding.found
    );
    assert_ne!(at, again);
}

#[test]
fn a_frame_that_is_given_out_after_the_flush_is_free() {
    let (mut scene, at) = family();
    let frame = scene.translate(1, at).unwrap().pfn();
    scene.notes.writes += 4;
    scene.note_flush(at, 4);
    scene.unmap(1, at);
    scene.map_frames(scene.kernel, 1, vec![frame]);
    scene.assert_broken(&[]);
    assert!(scene.verdict(REUSED).checks > 0);
}

#[test]
fn a_page_table_that_is_taken_out_needs_a_flush_and_one_of_any_page_will_do() {
    let take_out = |flush: bool| {
        let (mut scene, at) = family();
        scene.notes.writes += 5;
        if flush {
            scene.note_flush(at, 4);
        }
        scene.change(scene.kernel, at, Level::Pd, |_| Entry::ABSENT);
        scene.tell_unmapped(1, at);
        scene
    };
    take_out(true).assert_broken(&[]);
    let scene = take_out(false);
    scene.assert_broken(&[STALE]);
    let table = scene.findings(STALE);
    let mut table = table.iter();
    let table = table.find(|finding| finding.place.contains("CPU 0, PT for"));
    assert!(table.unwrap().expected.contains("taken out"));
}

#[test]
fn what_the_cpu_reads_in_the_frame_of_before_is_an_old_translation_whatever_was_noted() {
    let (mut scene, at) = family();
    scene.notes.writes += 4;
    scene.note_flush(at, 4);
    scene.unmap(1, at);
    scene.tell_access(1, at, 0x1111, false, None);
    scene.assert_broken(&["revoked", STALE]);
    let finding = scene.finding(STALE);
    assert_evidence(finding, 1, &format!("read of {at}"), at);
    assert!(
        finding.found.contains("by an old translation"),
        "{}",
        finding.found
    );
    assert!(
        finding.expected.contains("a page fault"),
        "{}",
        finding.expected
    );
}

#[test]
fn what_the_cpu_reads_in_the_frame_of_before_where_another_one_is_now_is_an_old_translation() {
    let (mut scene, at) = family();
    let held = scene.translate(1, at).unwrap();
    let value = u64::from(0x22_u8);
    scene.notes.writes += 4;
    scene.note_flush(at, 4);
    scene.unmap(1, at);
    for offset in 0..8 {
        let byte = if offset == 0 { 0x22 } else { 0 };
        scene.store(held.wrapping_add(offset), byte);
    }
    scene.allocate_from(at);
    assert_eq!(scene.map(1, 1), at);
    scene.read(1, at);
    scene.assert_broken(&[]);
    scene.tell_access(1, at, value, false, None);
    scene.assert_broken(&["propagated", STALE]);
}

#[test]
fn a_write_where_the_right_was_taken_is_an_old_translation() {
    let (mut scene, at) = family();
    scene.notes.writes += 4;
    scene.note_flush(at, 4);
    scene.protect(1, at, false);
    scene.write(1, at, 5);
    scene.assert_broken(&[]);
    scene.tell_access(1, at, 5, true, None);
    assert!(scene.broken().contains(&STALE));
}

#[test]
fn more_flushes_than_the_log_has_room_for_are_not_held_against_the_kernel() {
    let (mut scene, at) = family();
    scene.notes.writes += 4;
    for page in 0..200 {
        scene.note_flush(DATA.wrapping_add(page * 2 * PAGE), 1);
    }
    scene.unmap(1, at);
    scene.assert_broken(&[]);
    assert_eq!(scene.verdict(STALE).unknown, 4);
}

#[test]
fn a_cpu_that_sleeps_owes_a_flush_of_everything_and_makes_it_before_it_goes_on() {
    for pays in [true, false] {
        let (mut scene, at) = family();
        scene.notes.writes += 4;
        scene.note_debt(true);
        scene.unmap(1, at);
        scene.assert_broken(&[]);
        if pays {
            scene.note_flush_of_all();
        }
        scene.note_debt(false);
        scene.checkpoint(1);
        scene.assert_broken(if pays { &[] } else { &[STALE] });
    }
}

#[test]
fn a_kernel_that_keeps_no_log_is_not_judged_by_it() {
    let mut scene = Scene::unbooted();
    let EventKind::Boot {
        root,
        vmalloc_start,
        strategy,
        machine,
        ..
    } = scene.boot_claim()
    else {
        unreachable!()
    };
    scene.tell(
        0,
        EventKind::Boot {
            root,
            vmalloc_start,
            strategy,
            machine,
            flush_log: None,
        },
    );
    scene.first();
    let at = scene.map(1, 2);
    scene.unmap(1, at);
    scene.assert_broken(&[]);
    for rule in [STALE, REUSED] {
        assert!(matches!(
            scene.verdict(rule).outcome,
            Outcome::NotTried { .. }
        ));
    }
}
