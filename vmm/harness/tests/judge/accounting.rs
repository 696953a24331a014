//! `frames-released`.

use heirloom_harness::event::{Counters, EventKind};

use crate::scene::{DATA, STACK, Scene};

const RULE: &str = "frames-released";

/// A leak: frames that count as used and are nowhere.
type Leak = fn(&mut Counters);

#[test]
fn a_frame_that_counts_as_used_and_is_nowhere_has_leaked() {
    let leaks: [(&str, Leak); 3] = [
        ("frames of page tables", |counters| {
            counters.frames_table += 1;
        }),
        ("frames of processes", |counters| counters.frames_user += 1),
        ("frames of kernel memory", |counters| {
            counters.frames_kernel += 1;
        }),
    ];
    for (place, leak) in leaks {
        let mut scene = Scene::family();
        scene.lie = Box::new(move |counters| {
            leak(counters);
            counters.frames_free -= 1;
        });
        scene.checkpoint(1);
        scene.assert_broken(&[RULE]);
        assert_eq!(scene.finding(RULE).place, place);
    }
}

#[test]
fn an_exit_that_does_not_give_back_the_tables_is_found() {
    let mut scene = Scene::family();
    let before = scene.counters();
    scene.lie = Box::new(move |counters| {
        counters.frames_free -= before.frames_table - counters.frames_table;
        counters.frames_table = before.frames_table;
    });
    scene.exit(5);
    scene.assert_broken(&[RULE]);
    let finding = scene.finding(RULE);
    assert_eq!(finding.place, "frames of page tables");
    // A root, and three tables each for text and data, and for the stack.
    let known = before.frames_table - 7;
    assert_eq!(finding.expected, format!("{known}, which are reachable"));
}

#[test]
fn an_exit_that_does_not_give_back_its_pages_is_found() {
    let mut scene = Scene::family();
    scene.touch(5, DATA);
    scene.touch(5, STACK);
    scene.checkpoint(5);
    scene.assert_broken(&[]);
    let before = scene.counters().frames_user;
    scene.lie = Box::new(move |counters| {
        counters.frames_free -= before - counters.frames_user;
        counters.frames_user = before;
    });
    scene.exit(5);
    scene.assert_broken(&[RULE]);
    assert_eq!(scene.finding(RULE).place, "frames of processes");
}

#[test]
fn kernel_memory_that_is_freed_comes_back() {
    let mut scene = Scene::family();
    scene.lie = Box::new(|counters| {
        counters.frames_kernel += 4;
        counters.frames_free -= 4;
    });
    scene.unmap(1, Scene::memory_of_2());
    scene.assert_broken(&[RULE]);
    assert_eq!(scene.finding(RULE).place, "frames of kernel memory");
}

#[test]
fn there_are_no_more_zombies_than_have_ended() {
    let mut scene = Scene::family();
    scene.lie = Box::new(|counters| {
        counters.processes_zombie += 1;
        counters.frames_kernel += 1;
        counters.frames_free -= 1;
    });
    scene.checkpoint(1);
    scene.assert_broken(&[RULE]);
    assert_eq!(scene.finding(RULE).place, "zombies");
}

#[test]
fn a_number_that_is_used_again_does_not_confuse_the_books() {
    let mut scene = Scene::family();
    scene.reap();
    let root = scene.root(5);
    scene.exit(5);
    scene.reap();
    let again = scene.memory.child_of(scene.kernel);
    let two = scene.root(2);
    assert_ne!(root, two);
    scene.adopt_as(5, 2, again);
    scene.checkpoint(5);
    scene.assert_broken(&[]);
    let claim = EventKind::ProcessExecuted { process: 5 };
    scene.tell(5, claim);
    scene.assert_broken(&[]);
}
