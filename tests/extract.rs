//! `heirloom extract`: the embedded guest as files.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

fn extract(directory: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .arg("extract")
        .arg(directory)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn the_kernel_and_an_archive_of_the_programs_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("new/guest");
    let (code, command, said) = extract(&target);
    assert_eq!(code, Some(0), "{said}");
    let kernel = fs::read(target.join("heirloom-kernel")).unwrap();
    assert!(kernel.starts_with(b"\x7fELF"));
    let archive = fs::read(target.join("programs.cpio")).unwrap();
    assert!(archive.starts_with(b"070701"));
    assert!(archive.windows(7).any(|name| name == b"family\0"));

    assert!(command.starts_with("qemu-system-x86_64 "), "{command}");
    for file in ["heirloom-kernel", "programs.cpio"] {
        assert!(
            command.contains(target.join(file).to_str().unwrap()),
            "{command}"
        );
    }
}

#[test]
fn the_extracted_archive_is_what_cpio_reads() {
    let directory = tempfile::tempdir().unwrap();
    extract(directory.path());
    let archive = fs::read(directory.path().join("programs.cpio")).unwrap();
    let digits = |at: usize| {
        let text = std::str::from_utf8(&archive[at..at + 8]).unwrap();
        usize::from_str_radix(text, 16).unwrap()
    };
    let mut at = 0;
    let mut names = Vec::new();
    loop {
        assert_eq!(&archive[at..at + 6], b"070701", "member at {at}");
        let (size, name_size) = (digits(at + 54), digits(at + 94));
        let name = &archive[at + 110..at + 110 + name_size - 1];
        let contents = (at + 110 + name_size).next_multiple_of(4);
        if name == b"TRAILER!!!" {
            break;
        }
        assert!(archive[contents..].starts_with(b"\x7fELF"));
        names.push(String::from_utf8(name.to_vec()).unwrap());
        at = (contents + size).next_multiple_of(4);
    }
    assert!(names.contains(&"family".to_string()), "{names:?}");
}

#[test]
fn a_directory_that_cannot_be_made_is_exit_code_two() {
    let (code, _, said) = extract(Path::new("/dev/null/guest"));
    assert_eq!(code, Some(2));
    assert!(said.contains("/dev/null/guest"), "{said}");
}

#[test]
fn the_printed_command_boots_the_guest_under_qemu_and_its_self_checks_pass() {
    let directory = tempfile::tempdir().unwrap();
    let (_, command, _) = extract(directory.path());
    // `timeout` so that a guest which hangs under QEMU fails the test.
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("timeout 120 {command}")])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_ne!(
        output.status.code(),
        Some(127),
        "there is no qemu-system-x86_64: install Debian's package qemu-system-x86 ({errors})"
    );
    // isa-debug-exit makes 2 × 0 + 1 of the guest's status 0.
    assert_eq!(output.status.code(), Some(1), "{console}\n{errors}");
    assert!(console.contains(", 0 failed"), "{console}");
}
