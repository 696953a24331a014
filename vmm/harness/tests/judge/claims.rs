//! `claims-match-tables`: what the guest tells of its tables and frames.

use heirloom_harness::event::{Counters, EventKind};
use heirloom_inspect::Pfn;
use heirloom_inspect::testing::FakeMemory;

use crate::scene::{IMAGE, PAGE, Scene, VMALLOC, assert_evidence, assert_walks, label, pa};

const RULE: &str = "claims-match-tables";

/// A lie about counters.
type Lie = fn(&mut Counters);

#[test]
fn a_counter_that_lies_is_named() {
    let lies: [(&str, Lie); 7] = [
        ("processes", |counters| counters.processes_live += 1),
        ("frames of RAM", |counters| counters.frames_total -= 1),
        ("sum of all frames' uses", |counters| {
            counters.frames_free += 1;
        }),
        ("frames in use before the allocator", |counters| {
            counters.frames_reserved += 1;
            counters.frames_free -= 1;
        }),
        ("frames of page tables", |counters| {
            counters.frames_table -= 1;
            counters.frames_free += 1;
        }),
        ("frames of processes", |counters| {
            counters.frames_user -= 1;
            counters.frames_free += 1;
        }),
        ("frames of kernel memory", |counters| {
            counters.frames_kernel -= 1;
            counters.frames_free += 1;
        }),
    ];
    for (place, lie) in lies {
        let mut scene = Scene::family();
        scene.lie = Box::new(lie);
        scene.checkpoint(4);
        scene.assert_broken(&[RULE]);
        assert_eq!(scene.finding(RULE).place, place);
        assert_eq!(scene.finding(RULE).whose, Some(label(4)));
    }
}

#[test]
fn a_kernel_that_crashes_need_not_count() {
    let mut scene = Scene::family();
    scene.lie = Box::new(|counters| *counters = Counters::default());
    scene.tell(
        4,
        EventKind::Crash {
            vector: None,
            error_code: 0,
            rip: IMAGE,
            rbp: VMALLOC,
            address: VMALLOC,
        },
    );
    scene.assert_broken(&[]);
}

#[test]
fn frames_of_a_mapping_that_the_tables_do_not_have_are_a_lie() {
    let mapped = |frames: &dyn Fn(&Scene) -> Vec<Pfn>| {
        let mut scene = Scene::family();
        let at = scene.map(2, 3);
        scene.unmap(2, at);
        scene.allocate_from(at);
        let flags = FakeMemory::KERNEL_DATA;
        let fresh = scene.memory.frame().base();
        scene.map_in(scene.kernel, at, fresh, flags);
        let frames = frames(&scene);
        scene.lie = Box::new(|counters| {
            counters.frames_kernel += 1;
            counters.frames_free -= 1;
        });
        scene.tell(
            2,
            EventKind::KernelMapped {
                address: at,
                pages: 1,
                writable: true,
                frames,
            },
        );
        (scene, at)
    };
    let right = |scene: &Scene| scene.translate(0, scene.next_address()).unwrap().pfn();
    let (scene, _) = mapped(&|scene| vec![right(scene)]);
    scene.assert_broken(&[]);

    let (scene, at) = mapped(&|_| vec![Pfn::new(0x123)]);
    scene.assert_broken(&[RULE]);
    let finding = scene.finding(RULE);
    assert_evidence(finding, 2, &format!("page 0 of the mapping at {at}"), at);
    assert_walks(finding, &[2]);

    let (scene, _) = mapped(&|scene| vec![right(scene), right(scene)]);
    scene.assert_broken(&[RULE]);
    assert_eq!(scene.finding(RULE).found, "2 frames for 1 pages");
    let (scene, _) = mapped(&|_| Vec::new());
    scene.assert_broken(&[RULE]);
}

#[test]
fn a_mapping_in_the_vmalloc_area_that_was_never_told_is_found() {
    let mut scene = Scene::family();
    let at = VMALLOC.wrapping_add(100 * PAGE);
    scene.map_in(scene.kernel, at, pa(0x1_0000), FakeMemory::KERNEL_DATA);
    scene.checkpoint(1);
    scene.assert_broken(&[RULE]);
    assert_evidence(scene.finding(RULE), 0, &format!("page at {at}"), at);
    assert_walks(scene.finding(RULE), &[0]);
}

#[test]
fn an_access_where_nothing_was_ever_mapped_must_fault() {
    let at = VMALLOC.wrapping_add(100 * PAGE);
    let mut scene = Scene::family();
    scene.read(5, at);
    scene.write(5, at, 1);
    scene.assert_broken(&[]);
    scene.tell_access(5, at, 0, false, None);
    scene.assert_broken(&[RULE]);
    assert_eq!(scene.finding(RULE).address, Some(at));
    assert_eq!(scene.finding(RULE).expected, "a fault: nothing is mapped");
    assert_walks(scene.finding(RULE), &[5]);
}

#[test]
fn an_access_beside_kernel_memory_is_as_the_tables_have_it() {
    // The kernel's own data, which no event tells of.
    let at = IMAGE.wrapping_add(0x6000);
    let text = IMAGE.wrapping_add(0x10);
    let mut scene = Scene::family();
    scene.memory.add(Pfn::new(0x206));
    scene.memory.add(Pfn::new(0x200));
    scene.write(5, at, 0x77);
    scene.read(5, at);
    scene.write(5, text, 1);
    scene.assert_broken(&[]);
    scene.tell_access(5, at, 0x78, false, None);
    assert_eq!(scene.findings(RULE).len(), 1);
    let mut scene = Scene::family();
    scene.memory.add(Pfn::new(0x206));
    scene.tell_access(5, at, 0, true, Some(3));
    scene.assert_broken(&[RULE]);
}

#[test]
fn another_strategy_than_the_one_asked_for_is_found() {
    for strategy in [Some("none"), None] {
        let mut scene = Scene::unbooted();
        scene.tell(
            0,
            EventKind::Boot {
                root: scene.kernel,
                vmalloc_start: VMALLOC,
                strategy,
                machine: Vec::new(),
                flush_log: None,
            },
        );
        scene.assert_broken(&[RULE]);
        assert_eq!(scene.finding(RULE).place, "propagation strategy");
        assert_eq!(scene.finding(RULE).expected, "prealloc");
    }
}
