//! `heirloom run` as a process: how a guest's end becomes an exit code and a message.

#[path = "../vmm/machine/tests/common/mod.rs"]
mod common;
#[path = "common/kvm.rs"]
mod kvm;

use common::{Elf, HALT, SPIN, code};
use kvm::need_kvm;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn heirloom(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    command.args(arguments);
    command
}

/// A kernel file around `code`, for KVM, in a directory that must live as long as it is used.
fn kernel(code: &[u8]) -> (tempfile::TempDir, PathBuf) {
    need_kvm();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel");
    fs::write(&path, Elf::new(code).bytes()).unwrap();
    (directory, path)
}

fn run_kernel(code: &[u8], timeout: &str) -> Output {
    let (_directory, path) = kernel(code);
    heirloom(&["run", "--timeout", timeout, "--kernel"])
        .arg(path)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `mov al, byte; mov dx, 0x3f8; out dx, al` for each byte.
fn print(text: &[u8]) -> Vec<u8> {
    text.iter()
        .flat_map(|byte| [0xb0, *byte, 0x66, 0xba, 0xf8, 0x03, 0xee])
        .collect()
}

#[test]
fn on_kvm_a_guest_that_hangs_is_exit_code_four_and_the_remedy_is_named() {
    // What no time limit would change is called by its name.
    for (hang, timeout, words) in [
        (SPIN, "1", "--timeout"),
        (HALT, "3600", "halted with interrupts off"),
    ] {
        let output = run_kernel(hang, timeout);
        assert_eq!(output.status.code(), Some(4));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[test]
fn on_kvm_a_triple_fault_is_exit_code_four_and_called_by_its_name() {
    let output = run_kernel(&[0x0f, 0x0b], "3600");
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output).contains("triple fault"), "{}", said(&output));
}

#[test]
fn on_kvm_the_console_of_a_guest_that_fails_is_still_shown() {
    let output = run_kernel(&code(&[&print(b"hello\nhalf"), &[0x0f, 0x0b]]), "3600");
    assert_eq!(output.stdout, b"hello\nhalf");
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn on_kvm_a_ring_with_no_probe_page_behind_it_is_exit_code_four() {
    // mov eax, frame; mov dx, 0xd00; out dx, eax
    let ring = |frame: u32| {
        let mut code = vec![0xb8];
        code.extend(frame.to_le_bytes());
        code.extend([0x66, 0xba, 0x00, 0x0d, 0xef]);
        code
    };
    for (frame, word) in [(0x400, "0x400"), (u32::MAX, "outside its memory")] {
        let output = run_kernel(&ring(frame), "3600");
        assert_eq!(output.status.code(), Some(4));
        assert!(said(&output).contains(word), "{}", said(&output));
    }
}

#[test]
fn on_kvm_ctrl_c_and_a_request_to_end_stop_the_guest_with_exit_code_four() {
    for signal in ["INT", "TERM"] {
        let (_directory, path) = kernel(&code(&[&print(b"up\n"), SPIN]));
        let mut child = heirloom(&["run", "--timeout", "3600", "--kernel"])
            .arg(path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "up\n");
        let kill = Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        let mut error = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut error)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(4), "{signal}: {error}");
        assert!(error.contains("interrupted"), "{error}");
    }
}

#[test]
fn on_kvm_a_console_reader_who_leaves_does_not_change_the_exit_code() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (_directory, path) = kernel(&code(&[&print(b"nobody\nreads\n"), &[0x0f, 0x0b]]));
    let output = heirloom(&["run", "--kernel"])
        .arg(path)
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(said(&output).contains("triple fault"), "{}", said(&output));
}
