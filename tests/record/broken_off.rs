//! Recordings that end before their run does: nothing is lost that was written, and the verdict never.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::kvm::need_kvm;
use crate::common::{AMPLE, heirloom};
use crate::{file, json, text};

#[test]
fn on_kvm_a_file_that_exists_is_not_overwritten_and_nothing_is_run() {
    let (_directory, file) = file();
    fs::write(&file, "precious").unwrap();
    let run = heirloom(&["run", "--record", text(&file)]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("not overwritten"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn on_kvm_where_nothing_can_be_written_it_is_said_before_the_run() {
    for file in ["/dev/full", "/nonexistent/run.rec"] {
        let run = heirloom(&["run", "--record", file]);
        assert_eq!(run.code, Some(2));
        assert!(run.stderr.contains(file), "{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn on_kvm_a_recording_that_breaks_off_does_not_cost_the_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || {
            // Reads a little and goes away.
            let mut bytes = [0; 500];
            fs::File::open(pipe)
                .unwrap()
                .read_exact(&mut bytes)
                .unwrap();
        })
    };
    let run = heirloom(&["run", "--record", text(&pipe)]);
    reader.join().unwrap();
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stdout.contains("\nHOLDS: "), "{}", run.stdout);
    assert!(
        run.stderr.contains("could not go on with the recording"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("pipe"), "{}", run.stderr);
}

/// A long run that is recorded, and stands still in the middle of it.
fn long_run(file: &Path) -> Child {
    need_kvm();
    let mut child = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(["run", "--processes", "1000", "--timeout", "3600"])
        .args(["--record", text(file)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while fs::metadata(file).map_or(0, |file| file.len()) < 30_000 {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended");
        assert!(start.elapsed() < AMPLE, "nothing is recorded");
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "STOP");
    assert_eq!(child.try_wait().unwrap(), None, "it has ended");
    child
}

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

#[test]
fn on_kvm_a_recording_is_read_while_it_grows_and_after_ctrl_c() {
    let (_directory, file) = file();
    let mut child = long_run(&file);
    let growing = heirloom(&["replay", text(&file)]);
    assert_eq!(growing.code, Some(4), "{}", growing.stderr);
    assert!(
        growing.stderr.contains("was not ended"),
        "{}",
        growing.stderr
    );
    assert!(
        growing.stdout.contains("process 1 is the first"),
        "{}",
        growing.stdout
    );

    signal(&child, "INT");
    signal(&child, "CONT");
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let stopped = heirloom(&["replay", text(&file)]);
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("interrupted"), "{}", stopped.stderr);
    assert!(
        stopped.stdout.contains("BROKEN OFF: "),
        "{}",
        stopped.stdout
    );
}

#[test]
fn on_kvm_a_recording_whose_writer_was_killed_is_read_up_to_there() {
    let (_directory, file) = file();
    let mut child = long_run(&file);
    child.kill().unwrap();
    child.wait().unwrap();
    let replay = heirloom(&["replay", "--json", text(&file)]);
    assert!(matches!(replay.code, Some(2 | 4)), "{}", replay.stderr);
    assert!(json(&replay)["events"].as_array().unwrap().len() > 20);
}

#[test]
fn on_kvm_a_recording_that_was_cut_or_damaged_is_shown_up_to_there_and_called_so() {
    let (directory, file) = file();
    heirloom(&["run", "--record", text(&file)]);
    let whole = fs::read(&file).unwrap();
    let half = whole.len() / 2;
    let mut damaged = whole.clone();
    damaged[half] ^= 1;
    for (bytes, words) in [
        (&whole[..half], "is cut: "),
        (&damaged[..], "is damaged at byte "),
    ] {
        let file = directory.path().join("broken.rec");
        fs::write(&file, bytes).unwrap();
        let replay = heirloom(&["replay", text(&file)]);
        assert_eq!(replay.code, Some(2), "{}", replay.stderr);
        assert!(replay.stderr.contains(words), "{}", replay.stderr);
        assert!(replay.stdout.contains("BROKEN OFF: "), "{}", replay.stdout);
        assert!(
            replay.stdout.contains("process 1 is the first"),
            "{}",
            replay.stdout
        );
    }
    let none = heirloom(&["replay", env!("CARGO_BIN_EXE_heirloom")]);
    assert_eq!(none.code, Some(2));
    assert!(none.stderr.contains("no recording"), "{}", none.stderr);
}
