//! What a guest, a file's name or a monitor says reaches the terminal without its control sequences.

use std::time::Duration;

use heirloom_abi::syscall::CHECKPOINT;

use crate::common::program;
use crate::fake::Fake;
use crate::file;
use crate::running::{Ended, Running};
use crate::tiny::{Elf, code, print};

const AMPLE: Duration = Duration::from_secs(60);
/// Sets the terminal's title, and colours what follows.
const SEQUENCE: &str = "\u{1b}]0;owned\u{7}\u{1b}[31mred";
/// `ud2`, without an exception table: a triple fault.
const CRASH: &[u8] = &[0x0f, 0x0b];

fn assert_escaped(ended: &Ended) {
    for (stream, bytes) in [("output", &ended.stdout), ("error", &ended.stderr)] {
        let text = String::from_utf8_lossy(bytes);
        let is_control =
            |letter: char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t');
        assert!(!text.contains(is_control), "standard {stream}: {text:?}");
    }
    let said = [&ended.stdout[..], &ended.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("red"), "the text itself is not there: {said}");
}

#[test]
fn on_kvm_a_guests_console_is_escaped_unless_it_is_wanted_raw() {
    let kernel = Elf::new(&code(&[&print(SEQUENCE.as_bytes()), &print(b"\n"), CRASH])).bytes();
    let (_folder, kernel) = file("kernel", &kernel);
    let kernel = kernel.to_str().unwrap();
    for command in [&["run", "--kernel", kernel][..], &["boot", kernel]] {
        assert_escaped(&Running::start(command).ends_within(AMPLE));
        let raw = [command, &["--raw-console"]].concat();
        let raw = Running::start(&raw).ends_within(AMPLE);
        let text = String::from_utf8_lossy(&raw.stdout).into_owned();
        assert!(text.contains(SEQUENCE), "{text:?}: {}", raw.said());
    }
}

#[test]
fn on_kvm_a_checkpoints_text_is_escaped_in_the_run_and_in_its_replay() {
    // lea rdi, [rip + TEXT]; mov esi, LENGTH; mov eax, CHECKPOINT; syscall; xor edi, edi; mov eax, 60; syscall
    let length = u32::try_from(SEQUENCE.len()).unwrap().to_le_bytes();
    let number = u32::try_from(CHECKPOINT).unwrap().to_le_bytes();
    let rest: Vec<u8> = [
        &[0xbe][..],
        &length,
        &[0xb8],
        &number,
        &[0x0f, 0x05, 0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05],
    ]
    .concat();
    let to_text = u32::try_from(rest.len()).unwrap().to_le_bytes();
    let code = [
        &[0x48, 0x8d, 0x3d][..],
        &to_text,
        &rest,
        SEQUENCE.as_bytes(),
    ]
    .concat();
    let (folder, path) = file("program", &program::elf(&code));
    let recording = folder.path().join("run.rec");
    let run = Running::start(&[
        "-v",
        "run",
        "--program",
        path.to_str().unwrap(),
        "--record",
        recording.to_str().unwrap(),
    ]);
    assert_escaped(&run.ends_within(AMPLE));
    let replay = Running::start(&["replay", recording.to_str().unwrap()]);
    assert_escaped(&replay.ends_within(AMPLE));
}

#[test]
fn on_kvm_a_files_name_is_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join(SEQUENCE);
    let missing = missing.to_str().unwrap();
    let core = format!("core:{missing}");
    for arguments in [
        &["run", "--kernel", missing][..],
        &["check", &core],
        &["replay", missing],
    ] {
        let ended = Running::start(arguments).ends_within(AMPLE);
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert_escaped(&ended);
    }
}

#[test]
fn what_a_monitor_says_is_escaped() {
    let sequence = serde_json::to_string(SEQUENCE).unwrap();
    let error =
        format!(r#"{{"error": {{"class": "GenericError", "desc": {sequence}}}, "id": ID}}"#);
    for command in ["query-status", "query-cpus-fast", "info"] {
        let fake = Fake::default().instead(command, error.clone()).serve();
        let ended = Running::start(&["check", &fake.spec]).ends_within(AMPLE);
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert_escaped(&ended);
    }
}
