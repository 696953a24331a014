//! `--machine qemu`: the same kernel, the same events and the same judge, with QEMU's CPUs; and a QEMU that is
//! none, dies or hangs.

mod common;
#[path = "../vmm/machine/tests/common/mod.rs"]
mod tiny;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use heirloom_abi::options::Strategy;
use serde_json::Value;

use common::{AMPLE, Run, heirloom, heirloom_json, limited};
use tiny::{Elf, HALT, SPIN, code};

/// `heirloom ARGUMENTS`, however it ends.
fn any_end(arguments: &[&str]) -> Run {
    limited(assert_cmd::Command::new(env!("CARGO_BIN_EXE_heirloom")).args(arguments))
}

/// A program in a folder that goes with it.
fn script(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fake-qemu");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let machine = format!("qemu:{}", path.display());
    (folder, machine)
}

/// What a script does to have the descriptor of its monitor as `$monitor`.
const FIND_MONITOR: &str = r#"
for word in "$@"; do case "$word" in socket,id=monitor,fd=*) monitor=${word##*=};; esac; done
"#;

/// `mov al, byte; mov dx, 0x3f8; out dx, al` for each byte.
fn print(text: &[u8]) -> Vec<u8> {
    text.iter()
        .flat_map(|byte| [0xb0, *byte, 0x66, 0xba, 0xf8, 0x03, 0xee])
        .collect()
}

fn kernel(code: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    fs::write(&path, Elf::new(code).bytes()).unwrap();
    (folder, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The names of the rules, and whether each holds.
fn verdicts(report: &Value) -> Vec<(String, String)> {
    let rules = report["rules"].as_array().unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    rules
        .iter()
        .map(|rule| (word(&rule["rule"]["name"]), word(&rule["verdict"])))
        .collect()
}

#[test]
fn every_strategy_is_judged_on_qemu_as_on_kvm_and_its_cpu_has_smep_and_smap() {
    for strategy in Strategy::ALL {
        let words = ["--propagation", strategy.name()];
        let (on_kvm, kvm) = heirloom_json(&words);
        let (on_qemu, qemu) = heirloom_json(&[&words[..], &["--machine", "qemu"]].concat());
        let good = i32::from(!strategy.propagates());
        assert_eq!(
            (on_kvm.code, on_qemu.code),
            (Some(good), Some(good)),
            "{}: {}{}",
            strategy.name(),
            on_kvm.said(),
            on_qemu.said()
        );
        assert_eq!(verdicts(&qemu), verdicts(&kvm), "{}", strategy.name());
        assert!(kvm["events"].is_u64(), "{}", kvm["events"]);
        assert_eq!(qemu["events"], kvm["events"], "{}", strategy.name());
        let has = |feature: &str| {
            let machine = qemu["machine"].as_array().unwrap();
            machine.iter().any(|name| name == feature)
        };
        assert!(
            has("smep") && has("smap") && has("1gib-pages"),
            "{}",
            qemu["machine"]
        );
    }
}

#[test]
fn qemu_on_kvm_runs_the_guest_too() {
    let run = heirloom(&["-q", "run", "--machine", "qemu", "--accel", "kvm"]);
    assert_eq!(run.code, Some(0), "{}", run.said());
    assert!(run.stdout.starts_with("HOLDS"), "{}", run.stdout);
}

#[test]
fn a_bug_is_caught_and_a_claim_of_the_lecture_and_the_labs_laws_hold_on_qemu() {
    let machine = ["--machine", "qemu"];
    let bugs = heirloom(&[&["bugs", "--run", "sync-skips-one"], &machine[..]].concat());
    assert_eq!(bugs.code, Some(0), "{}", bugs.said());
    assert!(
        bugs.stdout.contains("1 of 1 kernels judged"),
        "{}",
        bugs.stdout
    );
    let lecture = heirloom(&[&["lecture", "--claim", "11"], &machine[..]].concat());
    assert_eq!(lecture.code, Some(0), "{}", lecture.said());
    // QEMU's own walk is the witness there.
    assert!(lecture.stdout.contains("gva2gpa"), "{}", lecture.stdout);
    let lab = ["lab", "--strategies", "sync", "--processes", "1,2,4"];
    let lab = heirloom(&[&lab[..], &machine[..]].concat());
    assert_eq!(lab.code, Some(0), "{}", lab.said());
    assert!(lab.stdout.contains("1 + N"), "{}", lab.stdout);
}

#[test]
fn more_memory_than_lies_below_the_pci_hole_is_where_the_guest_is_told() {
    let run = heirloom(&["-q", "run", "--machine", "qemu", "--memory", "4G"]);
    assert_eq!(run.code, Some(0), "{}", run.said());
}

#[test]
fn a_run_on_qemu_is_recorded_and_replayed_with_the_same_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.rec");
    let words = ["run", "--machine", "qemu", "--record", text(&file)];
    let run = heirloom(&words);
    let replay = heirloom(&["replay", text(&file)]);
    assert_eq!((run.code, replay.code), (Some(0), Some(0)));
    let verdict = |run: &Run| run.stdout.lines().last().map(str::to_owned);
    assert_eq!(verdict(&run), verdict(&replay));
}

#[test]
fn a_guest_that_hangs_halts_or_crashes_on_qemu_is_named_so_and_its_console_shown() {
    for (hang, timeouts, words) in [
        // On a busy machine the guest may not even have begun.
        (SPIN, &["1", "10", "100", "1000"][..], "--timeout"),
        (HALT, &["3600"], "halted with interrupts off"),
        (&[0x0f, 0x0b][..], &["3600"], "triple fault"),
    ] {
        let (_folder, path) = kernel(&code(&[&print(b"hello\nhalf"), hang]));
        let runs = timeouts.iter().map(|timeout| {
            let words = ["run", "--machine", "qemu", "--timeout", timeout];
            any_end(&[&words[..], &["--kernel", text(&path)]].concat())
        });
        let has_begun = |run: &Run| {
            assert_eq!(run.code, Some(4), "{}", run.stderr);
            assert!(run.stderr.contains(words), "{}", run.stderr);
            !run.stdout.is_empty()
        };
        let run = runs.into_iter().find(has_begun);
        assert_eq!(run.unwrap().stdout, "hello\nhalf");
    }
}

#[test]
fn boot_takes_a_kernel_to_a_moment_on_qemu_and_refuses_linuxs_protocol() {
    let (_folder, path) = kernel(&code(&[&print(b"ready\n"), SPIN]));
    let words = ["boot", text(&path), "--machine", "qemu"];
    let run = any_end(&[&words[..], &["--until", "ready", "--timeout", "300"]].concat());
    // The kernel has no page tables.
    assert!(
        run.stderr.contains("paging"),
        "{}{}",
        run.stdout,
        run.stderr
    );
    assert!(run.stdout.contains("ready"), "{}", run.stdout);

    let folder = tempfile::tempdir().unwrap();
    let vmlinux = folder.path().join("vmlinux");
    fs::write(&vmlinux, Elf::without_note(SPIN).bytes()).unwrap();
    let run = any_end(&["boot", text(&vmlinux), "--machine", "qemu"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(
        run.stderr.contains("Linux's boot protocol"),
        "{}",
        run.stderr
    );
}

#[test]
fn where_kvm_is_missing_the_error_names_qemu_and_where_qemu_is_missing_how_to_get_it() {
    let missing = any_end(&["run", "--device", "/nonexistent"]);
    assert_eq!(missing.code, Some(3));
    assert!(
        missing.stderr.contains("--machine qemu"),
        "{}",
        missing.stderr
    );
    let missing = any_end(&["run", "--machine", "qemu:/nonexistent/qemu"]);
    assert_eq!(missing.code, Some(3));
    for word in ["/nonexistent/qemu", "qemu-system-x86"] {
        assert!(missing.stderr.contains(word), "{}", missing.stderr);
    }
    let unknown = any_end(&["run", "--machine", "bochs"]);
    assert_eq!(unknown.code, Some(2));
    assert!(
        unknown.stderr.contains("qemu:PROGRAM"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn a_qemu_that_is_none_dies_hangs_or_talks_nonsense_is_a_clear_error_in_bounded_time() {
    let garbage = format!("{FIND_MONITOR}echo 'no JSON' >&$monitor; sleep 60");
    let flood = format!("{FIND_MONITOR}tr '\\0' x < /dev/zero >&$monitor");
    let wrong = format!(
        "{FIND_MONITOR}echo '{{\"id\":1,\"return\":{{}}}}' >&$monitor
         echo '{{\"id\":2,\"return\":[{{\"qom-path\":7}}]}}' >&$monitor; sleep 60"
    );
    let refuses = format!(
        "{FIND_MONITOR}printf '{{\"id\":1,\"error\":{{\"desc\":\"\\\\u001b[31m no\"}}}}\\n' >&$monitor; sleep 60"
    );
    for (behaviour, said) in [
        ("echo out of luck >&2; exit 7", "out of luck"),
        ("exec sleep 60", "did not answer `qmp_capabilities`"),
        (&garbage, "no JSON"),
        (&flood, "more than 4 MiB"),
        (&wrong, "no qom-path"),
        (&refuses, "QEMU refuses `qmp_capabilities`: ?[31m no"),
    ] {
        let (_folder, machine) = script(behaviour);
        let run = any_end(&["run", "--machine", &machine, "--timeout", "1"]);
        assert_eq!(run.code, Some(3), "{behaviour}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{behaviour}: {}", run.stderr);
    }
}

/// `heirloom run` of a guest that prints `up` and spins, with a QEMU whose process id is in a file.
struct Spinning {
    _folders: [tempfile::TempDir; 2],
    child: Child,
    qemu: String,
}

impl Spinning {
    fn start() -> Spinning {
        let (script_folder, machine) =
            script(r#"echo $$ > "$0.pid"; exec qemu-system-x86_64 "$@""#);
        let (kernel_folder, path) = kernel(&code(&[&print(b"up\n"), SPIN]));
        let mut child = Command::new(env!("CARGO_BIN_EXE_heirloom"))
            .args([
                "run",
                "--machine",
                &machine,
                "--timeout",
                "3600",
                "--kernel",
            ])
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "up\n");
        let pid = script_folder.path().join("fake-qemu.pid");
        Spinning {
            qemu: fs::read_to_string(pid).unwrap().trim().to_owned(),
            _folders: [script_folder, kernel_folder],
            child,
        }
    }

    fn signal(signal: &str, pid: &str) {
        let killed = Command::new("kill").args(["-s", signal, pid]).status();
        assert!(killed.unwrap().success());
    }

    /// The command's exit code and what it said.
    fn end(mut self) -> (Option<i32>, String, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said, self.qemu)
    }
}

/// Waits until the process is gone, or its parent's business only.
fn assert_gone(pid: &str) {
    let start = Instant::now();
    loop {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = line
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        if matches!(state, None | Some('Z')) {
            return;
        }
        assert!(start.elapsed() < AMPLE, "QEMU lives on: {line}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_qemu_that_is_killed_while_the_guest_runs_is_told_as_such() {
    let spinning = Spinning::start();
    Spinning::signal("KILL", &spinning.qemu);
    let (code, said, _) = spinning.end();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("ended (signal: 9 (SIGKILL))"), "{said}");
}

#[test]
fn the_command_ends_by_a_signal_and_qemu_with_it_however_it_ends() {
    for (signal, code) in [("INT", Some(4)), ("KILL", None)] {
        let spinning = Spinning::start();
        Spinning::signal(signal, &spinning.child.id().to_string());
        let (ended, said, qemu) = spinning.end();
        assert_eq!(ended, code, "{said}");
        assert_gone(&qemu);
    }
}
