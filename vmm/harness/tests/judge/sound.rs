//! A kernel that keeps its word is found to do so, and every rule has looked at something.

use crate::scene::{DATA, PAGE, STACK, Scene, VMALLOC};
use heirloom_harness::event::EventKind;
use heirloom_inspect::history::Life;

#[test]
fn a_sound_run_holds_every_rule_and_every_rule_looked_at_something() {
    let mut scene = Scene::family();
    scene.reap();
    let at = Scene::memory_of_2();
    // Kernel memory that has no table yet, on either side of a 512 GiB boundary.
    let boundary = VMALLOC.wrapping_add(1 << 39);
    scene.allocate_from(boundary.wrapping_add(0_u64.wrapping_sub(PAGE)));
    let across = scene.map(4, 2);
    let second = across.wrapping_add(PAGE);
    scene.write(4, second, 0xabcd);
    let six = scene.fork(1);
    for pid in [1, 2, 4, 5, six] {
        scene.read(pid, across);
        scene.read(pid, second);
    }
    scene.touch(six, STACK);
    scene.touch(1, DATA);
    scene.unmap(2, at);
    scene.unmap(six, across);
    scene.read(5, second);
    for pid in [six, 5, 4, 2, 1] {
        scene.exit(pid);
        scene.reap();
    }
    scene.tell(0, EventKind::Done { status: 0 });
    scene.assert_broken(&[]);
    assert_eq!(scene.judge.verdicts().len(), 19);
    for verdict in scene.judge.verdicts() {
        assert!(verdict.checks > 0, "{} checked nothing", verdict.rule.name);
        assert!(verdict.findings.is_empty());
    }
}

#[test]
fn the_world_knows_the_family_and_its_generations() {
    let scene = Scene::family();
    let world = scene.judge.model();
    let family: Vec<_> = world
        .processes()
        .map(|process| (process.pid, process.parent, process.generation))
        .collect();
    assert_eq!(
        family,
        [(1, 0, 1), (2, 1, 2), (3, 1, 2), (4, 2, 3), (5, 4, 4)]
    );
    assert_eq!(world.process(3).unwrap().life, Life::Ended { status: 0 });
    assert_eq!(world.live_count(), 4);
    assert_eq!(world.events(), scene.sequence);
}

#[test]
fn memory_that_is_mapped_where_other_was_freed_starts_as_zero() {
    let mut scene = Scene::family();
    let at = Scene::memory_of_2();
    scene.unmap(1, at);
    scene.allocate_from(at);
    assert_eq!(scene.map(5, 2), at);
    scene.read(1, at);
    scene.assert_broken(&[]);
    // The third page of what was there is still freed.
    scene.read(1, at.wrapping_add(2 * PAGE));
    scene.assert_broken(&[]);
}

#[test]
fn a_hundred_processes_hold_every_rule() {
    let mut scene = Scene::booted();
    scene.first();
    let at = scene.map(1, 1);
    for _ in 0..100 {
        let child = scene.fork(1);
        scene.read(child, at);
    }
    scene.assert_broken(&[]);
}

#[test]
fn a_judge_who_has_seen_nothing_does_not_say_that_all_holds() {
    assert!(!Scene::unbooted().judge.all_hold());
}
