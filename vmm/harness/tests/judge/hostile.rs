//! Whatever the guest says, and whatever its tables are, the judge comes to an end and does not panic.

use heirloom_abi::options::Strategy as Propagation;
use heirloom_harness::engine::Engine;
use heirloom_harness::event::{Counters, Event, EventKind};
use heirloom_harness::model::Expectation;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, CpuState, Cr3, Entry, Pfn, PhysAddr, VirtAddr};
use proptest::prelude::*;

use crate::scene::{IMAGE, MODE, PAGE, Scene, VMALLOC, truth};

/// Frames of the hostile memory, all in RAM.
const FRAMES: u64 = 12;
const FIRST_FRAME: u64 = 0x300;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..4_u64,
        Just(512),
        Just(1 << 52),
        Just(u64::MAX - 1),
        Just(u64::MAX),
        any::<u64>(),
    ]
}

fn pid() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..6_u32, 1 => Just(u32::MAX)]
}

fn address() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![
        Just(0),
        Just(0x7fff_ffff_f000),
        Just(0x8000_0000_0000),
        Just(0xffff_7fff_ffff_f000),
        Just(0xffff_8880_0000_0000),
        Just(VMALLOC.get()),
        Just(VMALLOC.get() + (1 << 39)),
        Just(0xffff_e8ff_ffff_f000),
        Just(IMAGE.get()),
        Just(0xffff_ffff_ffff_f000),
        any::<u64>(),
    ];
    (edge, 0..4_u64, prop_oneof![3 => Just(0), 1 => 0..PAGE])
        .prop_map(|(edge, page, odd)| edge.wrapping_add(page * PAGE).wrapping_add(odd))
}

fn root() -> impl Strategy<Value = PhysAddr> {
    let frame = (0..FRAMES).prop_map(|frame| (FIRST_FRAME + frame) * PAGE);
    prop_oneof![6 => frame, 1 => number()].prop_map(PhysAddr::new)
}

fn claim() -> impl Strategy<Value = EventKind> {
    let va = || address().prop_map(VirtAddr::new);
    let frames = proptest::collection::vec(number().prop_map(Pfn::new), 0..4);
    prop_oneof![
        1 => (root(), va(), proptest::option::of(root())).prop_map(|(root, vmalloc_start, flush_log)| EventKind::Boot {
            root,
            vmalloc_start,
            strategy: Some("prealloc"),
            machine: vec!["nx"],
            flush_log,
        }),
        3 => (pid(), pid(), root()).prop_map(|(child, parent, root)| EventKind::ProcessCreated {
            child,
            parent,
            root,
        }),
        1 => pid().prop_map(|process| EventKind::ProcessExecuted { process }),
        1 => (pid(), root()).prop_map(|(process, root)| EventKind::ProcessExited {
            process,
            status: 0,
            root,
        }),
        1 => (pid(), va()).prop_map(|(process, rip)| EventKind::ProcessKilled {
            process,
            vector: 14,
            error_code: 0,
            rip,
            address: rip,
        }),
        4 => (va(), number(), any::<bool>(), frames).prop_map(
            |(address, pages, writable, frames)| EventKind::KernelMapped {
                address,
                pages,
                writable,
                frames,
            }
        ),
        2 => (va(), number())
            .prop_map(|(address, pages)| EventKind::KernelUnmapped { address, pages }),
        1 => (va(), number(), any::<bool>()).prop_map(|(address, pages, writable)| {
            EventKind::KernelProtected {
                address,
                pages,
                writable,
            }
        }),
        3 => (address(), number(), any::<bool>(), proptest::option::of(number())).prop_map(
            |(address, value, write, fault)| EventKind::KernelAccess {
                address,
                value,
                write,
                fault,
            }
        ),
        1 => Just(EventKind::Done { status: 0 }),
    ]
}

fn counters() -> impl Strategy<Value = Counters> {
    (number(), number(), number(), number()).prop_map(|(a, b, c, d)| Counters {
        frames_total: a,
        frames_free: b,
        frames_table: c,
        frames_user: d,
        frames_kernel: a,
        frames_reserved: b,
        processes_live: c,
        processes_zombie: d,
        ..Counters::default()
    })
}

fn event() -> impl Strategy<Value = Event> {
    (number(), 0..2_u32, pid(), claim(), counters()).prop_map(
        |(sequence, cpu, pid, claim, counters)| Event {
            sequence,
            cpu,
            pid,
            claim,
            counters,
        },
    )
}

/// A few words of tables that point to one another, to pages, or to nowhere.
fn words() -> impl Strategy<Value = Vec<(u64, u16, u64)>> {
    let index = prop_oneof![
        Just(0_u16),
        Just(273),
        Just(402),
        Just(403),
        Just(511),
        0..512_u16
    ];
    let word = (
        prop_oneof![8 => FIRST_FRAME..FIRST_FRAME + FRAMES, 1 => number()],
        prop_oneof![
            Just(0b111_u64),
            Just(0b011),
            Just(0b1000_0111),
            Just(1 << 63 | 0b1_0000_0011),
            any::<u64>(),
        ],
    )
        .prop_map(|(frame, flags)| frame.wrapping_mul(PAGE) & 0x000f_ffff_ffff_f000 | flags);
    proptest::collection::vec((0..FRAMES, index, word), 0..60)
}

proptest! {
    #[test]
    fn no_word_of_the_guest_and_no_table_makes_the_judge_panic(
        words in words(),
        events in proptest::collection::vec((event(), address(), root()), 1..24),
    ) {
        let mut memory = FakeMemory::new();
        for frame in 0..FRAMES {
            memory.add(Pfn::new(FIRST_FRAME + frame));
        }
        for (frame, index, word) in words {
            memory.poke(Pfn::new(FIRST_FRAME + frame), index, Entry::new(word));
        }
        let expectation = Expectation { strategy: Propagation::Prealloc };
        let mut judge = Engine::new(truth(), expectation);
        let mut capturer = Capturer::new();
        for (event, rip, root) in events {
            let cpu = CpuState {
                rip: VirtAddr::new(rip),
                cr3: Cr3::new(root.get()),
                ..CpuState::default()
            };
            judge.apply(&event);
            let snapshot = capturer.capture(&memory, MODE, judge.roots());
            judge.observe(&event, &[cpu], 0, &snapshot, &memory);
        }
        // Such a guest has no direct map, and cannot be found sound.
        prop_assert!(!judge.all_hold());
    }
}

proptest! {
    #[test]
    fn a_judge_that_remembers_says_what_one_that_looks_anew_says(
        moments in proptest::collection::vec((words(), event()), 1..12),
    ) {
        let expectation = Expectation { strategy: Propagation::Prealloc };
        let mut memory = FakeMemory::new();
        for frame in 0..FRAMES {
            memory.add(Pfn::new(FIRST_FRAME + frame));
        }
        let mut judges = [(); 2].map(|()| Engine::new(truth(), expectation));
        let mut remembering = Capturer::new();
        for (number, (words, mut event)) in (1..).zip(moments) {
            for (frame, index, word) in words.into_iter().take(6) {
                memory.poke(Pfn::new(FIRST_FRAME + frame), index, Entry::new(word));
            }
            if number < 5 {
                // A few processes with roots that are tables, so that there is something to see.
                event.claim = EventKind::ProcessCreated {
                    child: number,
                    parent: number - 1,
                    root: Pfn::new(FIRST_FRAME + u64::from(number)).base(),
                };
            }
            // Tables that another capturer read are no tables that a judge remembers.
            let mut forgetful = Capturer::new();
            let capturers = [&mut remembering, &mut forgetful];
            for (judge, capturer) in judges.iter_mut().zip(capturers) {
                judge.apply(&event);
                let snapshot = capturer.capture(&memory, MODE, judge.roots());
                judge.observe(&event, &[CpuState::default()], 0, &snapshot, &memory);
            }
            let said = judges.each_ref().map(|judge| {
                let verdicts = judge.verdicts().iter();
                verdicts
                    .map(|verdict| (verdict.rule.name, verdict.checks, verdict.violations))
                    .collect::<Vec<_>>()
            });
            prop_assert_eq!(&said[0], &said[1]);
        }
    }
}

#[test]
fn thousands_of_allocations_are_no_more_than_ram_has_frames() {
    let mut scene = Scene::booted();
    let ram = truth().frames();
    let pages = ram / 1000;
    for number in 0..2000 {
        let address = VMALLOC.wrapping_add(number * (pages + 1) * PAGE);
        let claim = EventKind::KernelMapped {
            address,
            pages,
            writable: true,
            frames: Vec::new(),
        };
        scene.tell(0, claim);
    }
    let world = scene.judge.model();
    assert_eq!(world.allocations().count() as u64, ram / pages);
    assert_eq!(world.history().allocated_pages(), ram / pages * pages);
    assert!(world.contradictions()[0].contains("RAM has not that many frames"));
}

#[test]
fn memory_that_is_claimed_and_freed_again_and_again_is_not_walked_page_by_page() {
    let mut scene = Scene::booted();
    let pages = truth().frames();
    for number in 0..500 {
        let address = VMALLOC.wrapping_add(number * (pages + 1) * PAGE);
        let claim = EventKind::KernelMapped {
            address,
            pages,
            writable: true,
            frames: Vec::new(),
        };
        scene.tell(0, claim);
        scene.tell(0, EventKind::KernelUnmapped { address, pages });
    }
    let freed: u64 = scene
        .judge
        .model()
        .history()
        .revoked()
        .map(|range| range.bytes() / PAGE)
        .sum();
    assert_eq!(freed, 500 * pages);
}

#[test]
fn processes_beyond_a_bound_are_not_followed() {
    let mut judge = Engine::new(
        truth(),
        Expectation {
            strategy: Propagation::Prealloc,
        },
    );
    for child in 1..10_000 {
        judge.apply(&Event {
            sequence: u64::from(child),
            cpu: 0,
            pid: 0,
            claim: EventKind::ProcessCreated {
                child,
                parent: 0,
                root: PhysAddr::new(u64::from(child) << 12),
            },
            counters: Counters::default(),
        });
    }
    assert_eq!(judge.roots().len(), 1 << 13);
    let contradictions = judge.model().contradictions();
    assert!(
        contradictions
            .iter()
            .any(|what| what.contains("the most that are followed"))
    );
}

#[test]
fn tables_that_multiply_by_pointing_to_themselves_are_looked_through_once() {
    // One frame is a table of every level and so claims 2^36 pages, in both halves of each process.
    let mut scene = Scene::booted();
    scene.first();
    let table = scene.memory.frame();
    for index in 0..512 {
        let entry = Entry::pointing_to(table.base(), FakeMemory::POINTER);
        scene.memory.poke(table, index, entry);
    }
    for pid in 2..20 {
        let child = scene.fork(1);
        assert_eq!(child, pid);
    }
    for pid in 1..20 {
        for index in [9, 300, 410] {
            let entry = Entry::pointing_to(table.base(), FakeMemory::POINTER);
            scene.memory.poke(scene.root(pid).pfn(), index, entry);
        }
    }
    let counters = scene.judge.model().counters_at_boot().copied().unwrap();
    scene.apply(&Event {
        sequence: scene.sequence,
        cpu: 0,
        pid: 1,
        claim: EventKind::Checkpoint {
            text: String::new(),
        },
        counters,
    });
    let broken = scene.broken();
    for rule in ["no-dangling-table", "tables-not-user-mapped"] {
        assert!(broken.contains(&rule), "{broken:?}");
    }
}
