//! Recordings, and what a monitor says, that were sound and are changed: each is read or refused, and a live
//! guest runs on.

#[path = "../../../tests/common/mutator.rs"]
mod mutator;
mod support;

use std::path::Path;

use heirloom_inspect::history::GroundTruth;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, Depth, Mode, PhysAddr, RootLabel};
use heirloom_source::Spec;
use heirloom_source::recording::{Capture, End, Header, Recorder, Recording};
use mutator::Mutator;
use support::fake::Fake;

const RECORDINGS: u64 = 4000;
/// Each is a connection, and a process that lets the guest run on.
const LINES: u64 = 40;

/// A recording of a few moments, in the file at `path`.
fn record(path: &Path) {
    let mut memory = FakeMemory::new();
    let root = PhysAddr::new(0x1000);
    let truth = GroundTruth {
        ram: Vec::new(),
        image: Vec::new(),
    };
    let mut recorder = Recorder::create(path, &Header::new(truth)).unwrap();
    let mut capturer = Capturer::new();
    for index in 256..264 {
        let entry = heirloom_inspect::Entry::new(0x2003 + 0x1000 * u64::from(index));
        memory.poke(root.pfn(), index, entry);
        let roots = [(RootLabel::Kernel, root)];
        let snapshot = capturer.capture(&memory, Mode::typical(Depth::Four), &roots);
        let capture = Capture {
            snapshot: &snapshot,
            cpus: &[heirloom_inspect::CpuState::default()],
            reporting_cpu: 0,
            pieces: &[],
        };
        recorder.record(None, Some(capture)).unwrap();
    }
    recorder.finish(&End::Done { status: 0 }).unwrap();
}

#[test]
fn recordings_that_were_changed_are_read_up_to_there_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.rec");
    record(&path);
    let sound = std::fs::read(&path).unwrap();
    let (mut read, mut refused) = (0, 0);
    for seed in 0..RECORDINGS {
        let mutant = Mutator::new(seed).mutant(&sound);
        let Ok(recording) = Recording::from_bytes(Path::new("mutant"), mutant) else {
            refused += 1;
            continue;
        };
        for index in 0..recording.len() {
            match recording.moment(index) {
                Ok(_) => read += 1,
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

#[test]
fn answers_of_a_monitor_that_were_changed_are_taken_or_refused_and_the_guest_runs_on() {
    const REGISTERS: &str = include_str!("../../qmp/src/tests/registers.txt");
    const VIEW: &str = include_str!("../src/qemu/tests/flat_view.txt");
    let printed = |text: &str| serde_json::json!({ "return": text }).to_string();
    let answers = [
        ("query-status", r#"{"return": {"running": true}}"#.to_owned()),
        (
            "query-cpus-fast",
            serde_json::json!({ "return": [{ "thread-id": std::process::id(), "qom-path": "/cpu" }] })
                .to_string(),
        ),
        ("info registers -a", printed(REGISTERS)),
        ("info mtree -f", printed(VIEW)),
        ("gpa2hva", printed("Host virtual address for 0x0 (pc.ram) is 0x1000")),
        ("cont", r#"{"return": {}}"#.to_owned()),
    ];
    for (command, sound) in answers {
        for seed in 0..LINES {
            let mutant = Mutator::new(seed).mutant(sound.as_bytes());
            let line = String::from_utf8_lossy(&mutant).replace(['\n', '\r'], " ");
            let fake = Fake::default().instead(command, line.clone()).serve();
            let spec: Spec = fake.spec.parse().unwrap();
            if let Err(error) = spec.open() {
                assert!(!error.to_string().is_empty());
            }
            let asked = fake.asked();
            let stopped = asked.iter().any(|question| question == "stop");
            let runs = asked.last().is_some_and(|last| last == "cont");
            assert!(!stopped || runs, "{command}: {line}: {asked:?}");
        }
    }
}
