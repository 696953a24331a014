//! `check --wait-for`: a guest is looked at when a CPU comes to a symbol, and runs on as if nobody had.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use object::{Object, ObjectSymbol};
use serde_json::{Value, json};

use crate::command::{ask, number, qemu};
use crate::common::guest;
use crate::common::linux::initramfs;
use crate::common::linux::qmp::Qmp;
use crate::common::linux::{Guest, Variant};
use crate::common::machine::Machine;
use crate::common::program;

/// So that nothing hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// The command, waiting.
fn waiting(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(["check", "--json"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its exit code, what it printed, and what it complained of.
fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// It ends with this exit code and says so.
fn assert_ends(arguments: &[&str], expected: i32, words: &str) {
    let (code, _, err) = end(waiting(arguments));
    assert_eq!(code, Some(expected), "{err}");
    assert!(err.contains(words), "{err}");
}

/// Waits until QEMU's monitor says so of its devices.
fn until_devices(qmp: &mut Qmp, is_so: impl Fn(&str) -> bool) {
    let start = Instant::now();
    while !is_so(&qmp.execute("query-chardev", &json!({})).to_string()) {
        assert!(start.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Has the guest make processes, which end, until the command has.
fn with_processes_that_end(guest: &Guest, mut child: Child) -> (Option<i32>, String, String) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        guest.tell("busybox true");
        assert!(start.elapsed() < LIMIT);
    }
    end(child)
}

#[test]
fn linux_is_looked_at_when_a_process_ends_and_runs_on_also_when_the_command_was_killed() {
    let guest = Guest::boot(Variant::PTI_ON);
    let mut qmp = guest.qmp();
    let target = qemu(&guest.socket());
    let at = number(&ask(&["translate", &target, "do_exit"])["walk"]["va"]);
    // Twice, as the second time needs what the first has left.
    for _ in 0..2 {
        let child = waiting(&[&target, "--wait-for", "do_exit"]);
        let (code, out, err) = with_processes_that_end(&guest, child);
        assert_eq!(code, Some(0), "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(number(&report["target"]["cpus"][0]["rip"]), at);
        assert_eq!(report["holds"], true);
        assert_eq!(qmp.status(), "running");
        until_devices(&mut qmp, |devices| !devices.contains("heirloom"));
    }

    // Killed while it waits: there is no breakpoint any more that would stop the guest.
    let mut child = waiting(&[&target, "--wait-for", "do_exit"]);
    until_devices(&mut qmp, |devices| devices.contains("heirloom"));
    child.kill().unwrap();
    child.wait().unwrap();
    until_devices(&mut qmp, |devices| !devices.contains("heirloom"));
    guest.tell("busybox true");
    assert_eq!(qmp.status(), "running");

    // Where no CPU comes.
    let never = [&target, "--wait-for", "panic", "--timeout", "2s"];
    assert_ends(&never, 4, "in time");
    assert_eq!(qmp.status(), "running");
    let unknown = [&target, "--wait-for", "no_such", "--timeout", "1s"];
    assert_ends(&unknown, 2, "`no_such` is no address");
    assert_eq!(qmp.status(), "running");

    // And a guest that stands still is not let run.
    qmp.stop();
    assert_ends(&[&target, "--wait-for", "do_exit"], 2, "stand still");
    assert_eq!(qmp.status(), "paused");
}

#[test]
fn our_guest_is_looked_at_by_the_stub_that_qemu_was_started_with_which_stays() {
    let guest = guest::extract();
    let stub = tempfile::tempdir().unwrap();
    let stub = stub.path().join("gdb");
    let machine = Machine::start(|machine| {
        let console = format!("file:{}", machine.at("console").display());
        let gdb = format!("unix:{},server=on,wait=off", stub.display());
        let more = ["-kernel", guest.kernel.to_str().unwrap()];
        // It asks the kernel for its number (getpid, 39) again and again.
        let code = b"\xb8\x27\0\0\0\x0f\x05\xeb\xf7";
        let program = ("asks".to_owned(), program::elf(code));
        let programs = initramfs::with_files(&[program]);
        std::fs::write(machine.at("programs"), programs).unwrap();
        let programs = machine.at("programs").display().to_string();
        let programs = ["-initrd", &programs];
        let options = "-accel tcg -cpu max -m 256M -display none -no-reboot -nodefaults";
        let options = options.split(' ').chain(more).chain(programs);
        let append = ["-append", "selfcheck init=asks"];
        let gdb = ["-serial", &console, "-gdb", &gdb];
        options.chain(append).chain(gdb).map(String::from).collect()
    });
    let bytes = std::fs::read(&guest.kernel).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let entry = elf
        .symbols()
        .find(|symbol| {
            symbol
                .name()
                .is_ok_and(|name| name.contains("11system_call17h"))
        })
        .unwrap();
    let start = Instant::now();
    while !machine.socket().exists() {
        assert!(start.elapsed() < LIMIT, "{}", machine.read("errors"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let target = qemu(&machine.socket());
    let kernel = guest.kernel.to_str().unwrap();
    let (name, at) = (entry.name().unwrap(), format!("{:#x}", entry.address()));
    for wanted in [&[name, "--symbols", kernel][..], &[&at]] {
        let arguments = [&[&target, "--wait-for"], wanted].concat();
        let (code, out, err) = end(waiting(&arguments));
        assert_eq!(code, Some(0), "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(number(&report["target"]["cpus"][0]["rip"]), entry.address());
        let mut qmp = machine.qmp();
        assert_eq!(qmp.status(), "running");
        until_devices(&mut qmp, |devices| devices.contains("disconnected:unix:"));
    }

    // One who is connected already is not pushed aside.
    let mut other = UnixStream::connect(&stub).unwrap();
    // As gdb does, which has the stub speak otherwise from then on.
    other.write_all(b"$qSupported:multiprocess+#c6").unwrap();
    let mut answer = [0; 64];
    assert!(other.read(&mut answer).unwrap() > 0);
    machine.qmp().resume();
    let again = [&target, "--wait-for", &at];
    assert_ends(&again, 2, "has a gdb connected");
    drop(other);
    until_devices(&mut machine.qmp(), |devices| {
        devices.contains("disconnected:unix:")
    });
    assert_ends(&again, 0, "");
    assert_eq!(machine.qmp().status(), "running");
}

#[test]
fn only_a_qemu_that_runs_is_waited_for() {
    let file = env!("CARGO_BIN_EXE_heirloom");
    let words = "--wait-for is for a QEMU that runs";
    assert_ends(&[file, "--wait-for", "do_exit"], 2, words);
}
