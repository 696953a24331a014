//! INT, TERM and HUP end the command within a second, whatever it does. The second is one of its CPU time, so
//! that a busy machine makes no difference.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cores::table_web;
use crate::fake::{Fake, Served};
use crate::file;
use crate::running::{Running, names};
use crate::tiny::{Elf, SPIN, code, print};

const SIGNALS: [&str; 3] = ["INT", "TERM", "HUP"];
const A_SECOND: Duration = Duration::from_secs(1);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn fifo() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    (folder, path)
}

/// Signals the command, which must end by it: with exit code 4, or by the signal itself.
fn assert_ends_by(running: Running, signal: &str) {
    running.signal(signal);
    let ended = running.ends_within(A_SECOND);
    assert!(
        matches!(ended.code, None | Some(4)),
        "{signal}: {:?}: {}",
        ended.code,
        ended.said()
    );
}

#[test]
fn on_kvm_a_signal_ends_the_command_while_the_guest_runs() {
    let (_folder, kernel) = file("kernel", &Elf::new(&code(&[&print(b"up\n"), SPIN])).bytes());
    for signal in SIGNALS {
        for command in [&["run", "--kernel"][..], &["boot"]] {
            let command = [command, &[text(&kernel)]].concat();
            let mut running = Running::start(&[&command[..], &["--timeout", "3600"]].concat());
            running.until(|it| it.stdout().starts_with(b"up"));
            assert_ends_by(running, signal);
        }
    }
}

#[test]
fn on_kvm_a_signal_ends_the_command_while_it_waits_for_a_reader_of_its_page() {
    for signal in SIGNALS {
        let (_folder, page) = fifo();
        let mut running = Running::start(&["run", "-q", "--html", text(&page)]);
        running.until_used(Duration::from_millis(50));
        running.until_blocked();
        assert_ends_by(running, signal);
    }
}

#[test]
fn on_kvm_a_signal_ends_the_command_while_it_writes_a_page_that_nobody_reads() {
    const O_NONBLOCK: i32 = 0o4000;
    for signal in SIGNALS {
        let (_folder, page) = fifo();
        let mut options = fs::OpenOptions::new();
        let reader = options
            .read(true)
            .custom_flags(O_NONBLOCK)
            .open(&page)
            .unwrap();
        let mut running = Running::start(&["run", "-q", "--html", text(&page)]);
        running.until_used(Duration::from_millis(50));
        running.until_blocked();
        assert_ends_by(running, signal);
        drop(reader);
    }
}

#[test]
fn a_signal_ends_the_command_while_it_compares_tables_without_end() {
    let (_folder, core) = file("core", &table_web(64, 512));
    for signal in SIGNALS {
        let mut running = Running::start(&["check", &format!("core:{}", core.display())]);
        running.until_used(Duration::from_millis(300));
        assert_ends_by(running, signal);
    }
}

#[test]
fn on_kvm_a_signal_while_a_recording_is_written_leaves_one_that_can_be_read_up_to_there() {
    for signal in SIGNALS {
        let folder = tempfile::tempdir().unwrap();
        let recording = folder.path().join("run.rec");
        let mut running = Running::start(&[
            "run",
            "--processes",
            "1000",
            "--timeout",
            "3600",
            "--record",
            text(&recording),
        ]);
        // Under its own name or another until it is whole.
        running.until(|_| {
            let sizes = names(folder.path()).into_iter();
            let mut sizes =
                sizes.map(|name| fs::metadata(folder.path().join(name)).map_or(0, |it| it.len()));
            sizes.any(|bytes| bytes > 30_000)
        });
        assert_ends_by(running, signal);
        assert_eq!(names(folder.path()), ["run.rec"]);
        let replay = Running::start(&["replay", text(&recording)]);
        let replay = replay.ends_within(Duration::from_secs(60));
        assert_eq!(replay.code, Some(4), "{}", replay.said());
    }
}

/// A live guest that is being looked at when `question` is asked, which is not answered.
fn looks_at(question: &'static str) -> (Running, Served) {
    let fake = Fake::default().hang(question).serve();
    let mut running = Running::start(&["check", &fake.spec]);
    running.until(|_| {
        let asked = fake.asked.lock().unwrap();
        asked.last().is_some_and(|last| last.starts_with(question))
    });
    (running, fake)
}

#[test]
fn a_live_guest_runs_on_whatever_signal_ends_the_command() {
    for signal in ["INT", "TERM", "HUP", "QUIT", "KILL", "ABRT"] {
        for question in ["query-cpus-fast", "info"] {
            let (running, fake) = looks_at(question);
            assert_ends_by(running, signal);
            let asked = fake.asked();
            assert_eq!(asked.last().unwrap(), "cont", "{signal}: {asked:?}");
        }
    }
}

#[test]
fn a_live_guest_runs_on_while_the_command_is_stopped() {
    for signal in ["STOP", "TSTP"] {
        let (mut running, fake) = looks_at("query-cpus-fast");
        running.signal(signal);
        running.until(|_| fake.asked.lock().unwrap().last().unwrap() == "cont");
        running.signal("CONT");
        running.signal("KILL");
        drop(running);
        assert_eq!(fake.asked().last().unwrap(), "cont");
    }
}

#[test]
fn a_guest_that_cannot_be_let_run_on_is_exit_code_four() {
    let error = r#"{"error": {"class": "GenericError", "desc": "Resetting is needed"}, "id": ID}"#;
    let fake = Fake::default().instead("cont", error).serve();
    let ended = Running::start(&["check", &fake.spec]).ends_within(Duration::from_secs(10));
    assert_eq!(ended.code, Some(4), "{}", ended.said());
    let said = ended.said();
    assert!(said.contains("Resetting is needed"), "{said}");
    assert!(said.contains("could not be let run on"), "{said}");
}

#[test]
fn a_signal_ends_watching_and_the_guest_runs_on() {
    for signal in SIGNALS {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let fake = Fake::default().serve_while(move |_| !over.load(Ordering::Relaxed));
        let socket = fake.spec.strip_prefix("qemu:").unwrap().to_owned();
        let mut running = Running::start(&["check", &fake.spec, "--every", "10ms"]);
        running.until(|it| String::from_utf8_lossy(&it.stdout()).lines().count() >= 3);
        running.signal(signal);
        let ended = running.ends_within(A_SECOND);
        // The CPU's root is none, in such memory.
        assert_eq!(ended.code, Some(1), "{signal}: {}", ended.said());
        is_over.store(true, Ordering::Relaxed);
        // Whoever waits for one more connection gets it.
        let _ = UnixStream::connect(socket);
        let asked = fake.asked();
        let count = |what: &str| asked.iter().filter(|question| *question == what).count();
        assert!(count("stop") >= 3, "{asked:?}");
        let mut held = asked.iter().map(String::as_str);
        let last = held.rfind(|question| ["stop", "cont"].contains(question));
        assert_eq!(last, Some("cont"), "{asked:?}");
    }
}
