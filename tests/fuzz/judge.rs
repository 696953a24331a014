//! What our guest says and writes: any event is read or refused, and the judge that remembers says what one that looks
//! anew says.

use heirloom_abi::event::ProbePage;
use heirloom_abi::options::Strategy;
use heirloom_harness::engine::Engine;
use heirloom_harness::event::{Counters, Event, EventKind, describe};
use heirloom_harness::model::Expectation;
use heirloom_inspect::history::GroundTruth;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, CpuState, Cr3, Depth, Mode, Pfn, PhysAddr, PhysRange, VirtAddr, Written,
};

use crate::engine::Target;
use crate::tables::{Numbers, entry};

const FIRST: u64 = 0x300;
const FRAMES: u64 = 12;
const VMALLOC: u64 = 0xffff_c900_0000_0000;
/// Events of one input.
const EVENTS: u32 = 16;

fn truth() -> GroundTruth {
    let ram = PhysRange {
        start: PhysAddr::new(0x10_0000),
        bytes: 8 << 20,
    };
    GroundTruth {
        ram: vec![ram],
        image: Vec::new(),
    }
}

fn frame(numbers: &mut Numbers<'_>) -> Pfn {
    Pfn::new(FIRST + u64::from(numbers.byte()) % (FRAMES + 1))
}

fn address(numbers: &mut Numbers<'_>) -> VirtAddr {
    let places = [0x40_0000, 0x7fff_ffff_f000, 0xffff_8880_0000_0000, VMALLOC];
    let place = numbers.byte();
    let at = match places.get(usize::from(place % 5)) {
        Some(at) => at + (u64::from(place / 5) << 12),
        None => numbers.word(),
    };
    VirtAddr::new(at)
}

fn claim(numbers: &mut Numbers<'_>) -> EventKind {
    let process = u32::from(numbers.byte() % 6);
    let kind = numbers.byte() % 9;
    match kind {
        0 => EventKind::ProcessCreated {
            child: process,
            parent: u32::from(numbers.byte() % 6),
            root: frame(numbers).base(),
        },
        1 => EventKind::ProcessExecuted { process },
        2 => EventKind::ProcessExited {
            process,
            status: 0,
            root: frame(numbers).base(),
        },
        3 => EventKind::KernelMapped {
            address: address(numbers),
            pages: u64::from(numbers.byte() % 5),
            writable: process.is_multiple_of(2),
            frames: (0..process).map(|_| frame(numbers)).collect(),
        },
        4 => EventKind::KernelUnmapped {
            address: address(numbers),
            pages: u64::from(numbers.byte() % 5),
        },
        5 => EventKind::KernelProtected {
            address: address(numbers),
            pages: u64::from(numbers.byte() % 5),
            writable: process.is_multiple_of(2),
        },
        6 => EventKind::Checkpoint {
            text: String::new(),
        },
        7 => EventKind::Boot {
            root: frame(numbers).base(),
            vmalloc_start: address(numbers),
            strategy: Some("prealloc"),
            machine: vec!["nx"],
            flush_log: process.is_multiple_of(2).then(|| frame(numbers).base()),
        },
        _ => EventKind::Done { status: 0 },
    }
}

fn said(judge: &Engine) -> Vec<(&'static str, u64, u64)> {
    let verdicts = judge.verdicts().iter();
    verdicts
        .map(|verdict| (verdict.rule.name, verdict.checks, verdict.violations))
        .collect()
}

fn judged(input: &[u8]) {
    let mut numbers = Numbers(input);
    let strategy = Strategy::ALL[usize::from(numbers.byte()) % Strategy::ALL.len()];
    let expectation = Expectation { strategy };
    let mut memory = FakeMemory::new();
    for number in 0..FRAMES {
        memory.add(Pfn::new(FIRST + number));
    }
    let mut judges = [(); 2].map(|()| Engine::new(truth(), expectation));
    let mut remembering = Capturer::new();
    for sequence in 0..EVENTS {
        if numbers.is_over() {
            break;
        }
        let mut written = Vec::new();
        for _ in 0..numbers.byte() % 8 {
            let (table, index, word) = entry(&mut numbers, FIRST, FRAMES);
            memory.poke(table, index, word);
            written.push(table);
        }
        let told = Event {
            sequence: u64::from(sequence),
            cpu: 0,
            pid: u32::from(numbers.byte() % 6),
            claim: claim(&mut numbers),
            counters: Counters::default(),
        };
        let cpu = CpuState {
            cr3: Cr3::new(frame(&mut numbers).base().get()),
            ..CpuState::default()
        };
        let mode = Mode::typical(Depth::Four);
        // Tables that another capturer read are no tables that a judge remembers.
        let mut forgetful = Capturer::new();
        let [remembers, anew] = &mut judges;
        remembers.apply(&told);
        anew.apply(&told);
        let written = Written::Frames(&written);
        let kept = remembering.capture_written(&memory, mode, remembers.roots(), written);
        remembers.observe(&told, &[cpu], 0, &kept, &memory);
        let fresh = forgetful.capture(&memory, mode, anew.roots());
        anew.observe(&told, &[cpu], 0, &fresh, &memory);
        assert_eq!(said(remembers), said(anew), "event {sequence}");
        remembers.verify().unwrap();
    }
}

pub(crate) fn of_tables() -> Target {
    let seeds = vec![
        (0..120).map(|byte: u8| byte.wrapping_mul(5)).collect(),
        (0..250).map(|byte: u8| byte.wrapping_mul(37) ^ 3).collect(),
        // A kernel that boots, two processes, memory that is mapped and freed.
        vec![
            0, 3, 0, 7, 4, 1, 1, 4, 1, 2, 2, 4, 2, 3, 0, 7, 0, 0, 3, 0, 2, 0, 1, 0, 1, 0, 1, 1, 4,
            4, 4, 3, 3, 3, 3, 2, 4, 5, 0, 0, 4, 4, 3, 3, 2,
        ],
    ];
    Target::new("judge", seeds, judged)
}

fn told(input: &[u8]) {
    let mut page = [0; size_of::<ProbePage>()];
    let length = input.len().min(page.len());
    page[..length].copy_from_slice(&input[..length]);
    let Ok(event) = Event::from_bytes(page) else {
        return;
    };
    let _ = describe(&event);
    let strategy = Strategy::DEFAULT;
    let mut judge = Engine::new(truth(), Expectation { strategy });
    judge.apply(&event);
    assert!(judge.roots().len() <= 2);
}

pub(crate) fn of_events() -> Target {
    let header = |kind: u16| {
        let mut page = heirloom_abi::event::MAGIC.to_le_bytes().to_vec();
        page.extend(heirloom_abi::event::VERSION.to_le_bytes());
        page.extend(kind.to_le_bytes());
        page.resize(400, 1);
        page
    };
    Target::new("events", (0..20).map(header).collect(), told)
}
