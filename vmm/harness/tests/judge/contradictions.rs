//! `claims-match-tables`: what the guest tells that cannot be, given what it told before.

use heirloom_harness::event::{Event, EventKind};
use heirloom_inspect::{Level, PhysAddr, VirtAddr};

use crate::scene::{IMAGE, PAGE, Scene, VMALLOC, pa};

const RULE: &str = "claims-match-tables";

/// A sound family that then tells `claim`.
fn after(pid: u32, claim: EventKind) -> Scene {
    let mut scene = Scene::family();
    scene.tell(pid, claim);
    scene
}

/// Asserts that the only thing broken is that the last event cannot be.
#[track_caller]
fn assert_contradiction(scene: &Scene, what: &str) {
    scene.assert_broken(&[RULE]);
    let contradictions = scene.judge.model().contradictions();
    assert!(
        contradictions.iter().any(|known| known.contains(what)),
        "{contradictions:?}"
    );
    let findings = scene.findings(RULE);
    assert!(findings.iter().any(|finding| finding.place == "event"));
}

#[test]
fn events_that_are_missing_or_come_twice_are_found() {
    for sequence in [0, 1, 1000, u64::MAX] {
        let mut scene = Scene::family();
        scene.sequence = sequence;
        let text = String::new();
        let event = Event {
            sequence,
            cpu: 0,
            pid: 1,
            claim: EventKind::Checkpoint { text },
            counters: scene.counters(),
        };
        scene.apply(&event);
        assert_contradiction(&scene, &format!("tells event {sequence} where"));
    }
}

#[test]
fn each_cpu_counts_its_own_events() {
    let mut scene = Scene::family();
    let text = String::new();
    let event = Event {
        sequence: 0,
        cpu: 3,
        pid: 1,
        claim: EventKind::Checkpoint { text },
        counters: scene.counters(),
    };
    scene.apply(&event);
    scene.assert_broken(&[]);
    scene.apply(&event);
    assert_contradiction(&scene, "CPU 3 tells event 0 where event 1");
}

#[test]
fn a_process_cannot_be_created_twice() {
    let mut scene = Scene::family();
    let root = scene.root(2);
    scene.tell(
        1,
        EventKind::ProcessCreated {
            child: 2,
            parent: 1,
            root,
        },
    );
    assert_contradiction(&scene, "process 2 was created and lives already");
    assert_eq!(scene.judge.model().live_count(), 4);
}

#[test]
fn a_process_cannot_have_anothers_root() {
    let mut scene = Scene::family();
    let root = scene.root(5);
    scene.tell(
        1,
        EventKind::ProcessCreated {
            child: 6,
            parent: 1,
            root,
        },
    );
    // With the root it shares every user table.
    scene.assert_broken(&["user-half-private", RULE]);
    let contradictions = scene.judge.model().contradictions();
    assert_eq!(contradictions, ["process 6 has the root of process 5"]);

    let root = Scene::family().kernel;
    let scene = after(
        1,
        EventKind::ProcessCreated {
            child: 6,
            parent: 1,
            root,
        },
    );
    assert_contradiction(&scene, "process 6 has the kernel's own root");
}

/// A root that is sound but for who has it.
fn created(child: u32, parent: u32) -> Scene {
    let mut scene = Scene::family();
    let root = scene.memory.child_of(scene.kernel);
    scene.tell(
        1,
        EventKind::ProcessCreated {
            child,
            parent,
            root,
        },
    );
    scene
}

#[test]
fn a_parent_must_live() {
    assert_contradiction(&created(6, 3), "a parent, 3, that does not live");
    assert_contradiction(&created(6, 6), "a parent, 6, that does not live");
    assert_contradiction(&created(6, u32::MAX), "that does not live");
}

#[test]
fn some_numbers_are_no_process() {
    for child in [0, u32::MAX] {
        let scene = created(child, 1);
        assert_contradiction(&scene, &format!("no process has the number {child}"));
        assert_eq!(scene.judge.roots().len(), 5);
    }
}

#[test]
fn a_root_must_be_a_frame_of_ram() {
    for root in [0, 0x30_0800, 0x90_0000, 1 << 51, u64::MAX] {
        let scene = after(
            1,
            EventKind::ProcessCreated {
                child: 6,
                parent: 1,
                root: pa(root),
            },
        );
        let contradictions = scene.judge.model().contradictions();
        assert_eq!(
            contradictions,
            [format!("the root {root:#x} is not a frame of RAM")]
        );
        assert!(scene.broken().contains(&RULE));
    }
}

#[test]
fn only_the_living_end_and_run_programs_and_are_killed() {
    let killed = EventKind::ProcessKilled {
        process: 3,
        vector: 14,
        error_code: 5,
        rip: IMAGE,
        address: IMAGE,
    };
    let exited = EventKind::ProcessExited {
        process: 3,
        status: 0,
        root: pa(0x1000),
    };
    for claim in [killed, exited, EventKind::ProcessExecuted { process: 3 }] {
        assert_contradiction(&after(1, claim), "process 3 does not live");
    }
}

#[test]
fn a_process_ends_with_the_root_that_it_had() {
    let mut scene = Scene::family();
    let root = PhysAddr::new(0x30_0000);
    scene.lie = Box::new(|counters| {
        // Its frames do come back; only the root is told wrongly.
        counters.processes_live -= 1;
        counters.frames_kernel -= 1;
        counters.frames_free += 1;
    });
    scene.tell(
        0,
        EventKind::ProcessExited {
            process: 5,
            status: 0,
            root,
        },
    );
    let contradictions = scene.judge.model().contradictions();
    assert!(contradictions[0].contains("process 5 had the root"));
    assert!(scene.broken().contains(&RULE));
}

#[test]
fn the_kernel_boots_once_and_first() {
    let mut scene = Scene::family();
    scene.tell(0, scene.boot_claim());
    assert_contradiction(&scene, "the kernel booted twice");

    let mut scene = Scene::unbooted();
    scene.checkpoint(0);
    // No address space is known, so CR3 has a root of nobody, and no table is anybody's.
    scene.assert_broken(&["cr3-known", RULE, "frames-released"]);
    let contradictions = scene.judge.model().contradictions();
    assert_eq!(contradictions, ["the kernel has not booted yet"]);
}

#[test]
fn only_what_is_mapped_is_unmapped_or_protected() {
    let address = Scene::freed_memory();
    let claims = [
        EventKind::KernelUnmapped { address, pages: 2 },
        EventKind::KernelProtected {
            address,
            pages: 2,
            writable: true,
        },
    ];
    for claim in claims {
        assert_contradiction(&after(1, claim), "no kernel memory was mapped at");
    }
}

#[test]
fn memory_has_as_many_pages_as_it_was_mapped_with() {
    let address = Scene::memory_of_2();
    for pages in [0, 3, 5, u64::MAX] {
        let protected = EventKind::KernelProtected {
            address,
            pages,
            writable: true,
        };
        assert_contradiction(&after(1, protected), "has 4 pages, not");

        let mut scene = Scene::family();
        for page in 0..4 {
            let va = address.wrapping_add(page * PAGE);
            scene.change(scene.kernel, va, Level::Pt, |_| {
                heirloom_inspect::Entry::ABSENT
            });
        }
        scene.lie = Box::new(|counters| {
            counters.frames_kernel -= 4;
            counters.frames_free += 4;
        });
        scene.tell(1, EventKind::KernelUnmapped { address, pages });
        assert_contradiction(&scene, "has 4 pages, not");
    }
}

#[test]
fn memory_that_is_mapped_is_not_mapped_again() {
    let address = Scene::memory_of_2();
    for (first, pages) in [(0, 4), (3, 1), (1, 2)] {
        let address = address.wrapping_add(first * PAGE);
        let mut scene = Scene::family();
        let frames = vec![scene.translate(0, address).unwrap().pfn()];
        scene.tell(
            1,
            EventKind::KernelMapped {
                address,
                pages,
                writable: true,
                frames,
            },
        );
        assert_contradiction(&scene, "some of it was mapped already");
        assert_eq!(scene.judge.model().allocations().count(), 1);
    }
}

#[test]
fn memory_that_cannot_be_is_no_memory() {
    let top = VirtAddr::new(0xffff_ffff_ffff_f000);
    let user = VirtAddr::new(0x7000_0000_0000);
    for (address, pages, why) in [
        (VMALLOC, u64::MAX, "no such range"),
        (VMALLOC, 1 << 52, "no such range"),
        (VMALLOC, 0, "no such range"),
        (top, 2, "no such range"),
        (top, 1 << 20, "no such range"),
        (VirtAddr::new(u64::MAX), 1, "no such range"),
        (user, 1, "not a page of the kernel half"),
        (
            VMALLOC.wrapping_add(0x80_0008),
            1,
            "not a page of the kernel half",
        ),
        (
            VMALLOC.wrapping_add(1 << 30),
            1 << 20,
            "RAM has not that many",
        ),
    ] {
        let scene = after(
            2,
            EventKind::KernelMapped {
                address,
                pages,
                writable: true,
                frames: Vec::new(),
            },
        );
        let contradictions = scene.judge.model().contradictions();
        assert!(contradictions[0].contains(why), "{contradictions:?}");
        assert!(scene.broken().contains(&RULE));
        assert_eq!(scene.judge.model().allocations().count(), 1);
    }
}
