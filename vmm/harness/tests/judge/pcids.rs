//! `no-stale-translation` where CPUs have PCIDs: what a load of CR3 keeps, and what it drops.

use heirloom_inspect::{Entry, Level};

use crate::scene::{DATA, Scene};

const STALE: &str = "no-stale-translation";
const REUSED: &str = "frame-not-reused-early";

/// A sound family on a CPU with PCIDs that flushes nothing by itself. Process 1 has the CPU; all have had it.
fn family() -> Scene {
    let mut scene = Scene::family();
    scene.use_pcids();
    scene.assert_broken(&[]);
    scene
}

/// Process `pid` takes the CPU.
fn switch_to(scene: &mut Scene, pid: u32, keeps: bool) {
    scene.note_pcid_load(pid, keeps);
    scene.checkpoint(pid);
}

#[test]
fn a_fork_is_flushed_by_a_load_of_the_parents_pcid_that_keeps_nothing() {
    let fork_after = |load: Option<(u32, bool)>| {
        let mut scene = family();
        switch_to(&mut scene, 4, true);
        scene.notes.writes += 100;
        if let Some((pid, keeps)) = load {
            scene.note_pcid_load(pid, keeps);
        }
        scene.fork(4);
        scene
    };
    fork_after(Some((4, false))).assert_broken(&[]);
    // Nothing, a load that keeps it, and one that drops what another has.
    for load in [None, Some((4, true)), Some((1, false))] {
        let scene = fork_after(load);
        scene.assert_broken(&[STALE]);
        let found = &scene.finding(STALE).found;
        assert!(found.contains("under PCID 4"), "{load:?}: {found}");
    }
}

#[test]
fn a_process_that_the_cpu_has_left_may_change_until_the_cpu_comes_back_to_it() {
    let come_back = |keeps: bool| {
        let mut scene = family();
        // Its page gets another frame.
        scene.touch(4, DATA);
        scene.checkpoint(1);
        scene.checkpoint(1);
        scene.assert_broken(&[]);
        switch_to(&mut scene, 4, keeps);
        scene
    };
    come_back(false).assert_broken(&[]);
    come_back(true).assert_broken(&[STALE]);
}

#[test]
fn what_was_used_between_two_events_is_found_though_it_was_flushed_then() {
    let mut scene = family();
    scene.touch(4, DATA);
    scene.checkpoint(1);
    scene.note_pcid_load(4, true);
    scene.note_page(DATA, 4);
    scene.note_pcid_load(1, true);
    scene.checkpoint(1);
    scene.assert_broken(&[STALE]);
}

#[test]
fn a_page_is_flushed_under_its_own_pcid_alone() {
    let flushed = |pcid: u16| {
        let mut scene = family();
        switch_to(&mut scene, 4, true);
        scene.touch(4, DATA);
        scene.notes.writes += 1;
        scene.note_page(DATA, pcid);
        scene.checkpoint(4);
        scene
    };
    flushed(4).assert_broken(&[]);
    flushed(1).assert_broken(&[STALE]);
}

#[test]
fn a_pcid_that_another_process_gets_is_dropped_before_it_is_used() {
    let reuse = |keeps: bool| {
        let mut scene = family();
        scene.exit(5);
        scene.notes.writes += 100;
        scene.note_pcid_load(1, false);
        let child = scene.fork(1);
        scene.give_pcid(child, 5);
        scene.assert_broken(&[]);
        switch_to(&mut scene, child, keeps);
        (scene, child)
    };
    reuse(false).0.assert_broken(&[]);
    let (scene, child) = reuse(true);
    scene.assert_broken(&[STALE]);
    let found = &scene.findings(STALE)[0].found;
    let whose = format!("under PCID 5, which is that of process {child} now");
    assert!(found.contains(&whose), "{found}");
}

#[test]
fn a_cpu_that_nobody_notes_pcids_of_is_judged_by_cr3_alone() {
    let mut scene = Scene::family();
    scene.flush_by_hand();
    scene.mode.pcide = true;
    scene.checkpoint(4);
    scene.checkpoint(1);
    scene.touch(4, DATA);
    scene.checkpoint(1);
    scene.assert_broken(&[]);
    scene.checkpoint(4);
    scene.assert_broken(&[STALE]);
}

#[test]
fn kernel_pages_are_global_and_dropped_under_any_pcid_and_a_load_drops_none() {
    let unmap = |flush: bool| {
        let (mut scene, at) = (family(), Scene::memory_of_2());
        scene.notes.writes += 4;
        if flush {
            scene.note_flush(at, 4);
        } else {
            scene.note_pcid_load(1, false);
            scene.note_pcid_load(0, false);
        }
        scene.unmap(1, at);
        scene
    };
    unmap(true).assert_broken(&[]);
    unmap(false).assert_broken(&[STALE]);
}

#[test]
fn a_table_of_the_kernel_half_may_be_remembered_under_every_pcid() {
    let take_out = |everything: bool| {
        let (mut scene, at) = (family(), Scene::memory_of_2());
        scene.notes.writes += 5;
        scene.note_flush(at, 4);
        if everything {
            scene.note_flush_of_all();
        }
        scene.change(scene.kernel, at, Level::Pd, |_| Entry::ABSENT);
        scene.tell_unmapped(1, at);
        scene
    };
    take_out(true).assert_broken(&[]);
    take_out(false).assert_broken(&[STALE]);
}

#[test]
fn what_a_cpu_has_of_a_process_that_has_ended_keeps_no_frame_from_others() {
    let mut scene = family();
    scene.touch(5, DATA);
    scene.notes.writes += 1;
    scene.note_page(DATA, 5);
    scene.checkpoint(5);
    let frame = scene.translate(5, DATA).unwrap().pfn();
    scene.exit(5);
    scene.map_frames(scene.kernel, 1, vec![frame]);
    scene.assert_broken(&[]);
    assert!(scene.verdict(REUSED).checks > 0);
}
