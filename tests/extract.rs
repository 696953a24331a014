//! `heirloom extract`: the embedded guest as files.

mod common;

use std::fs;
use std::path::Path;

use common::{Run, guest, heirloom, heirloom_json};

fn extract(directory: &Path) -> (Option<i32>, String, String) {
    let Run {
        code,
        stdout,
        stderr,
    } = heirloom(&["extract", directory.to_str().unwrap()]);
    (code, stdout, stderr)
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
fn on_kvm_the_extracted_kernel_runs_and_is_judged_as_the_embedded_one() {
    let guest = guest::extract();
    let kernel = guest.kernel.to_str().unwrap();
    let (embedded, extracted) = (heirloom_json(&[]), heirloom_json(&["--kernel", kernel]));
    for (run, report) in [&embedded, &extracted] {
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(report["holds"], true);
    }
    assert_eq!(embedded.1["events"], extracted.1["events"]);
    assert_eq!(embedded.1["machine"], extracted.1["machine"]);
}

#[test]
fn on_kvm_a_kernel_that_was_cut_off_is_exit_code_two_and_named() {
    let guest = guest::extract();
    let whole = fs::read(&guest.kernel).unwrap();
    for length in [0, 3, 63, 200, whole.len() / 8] {
        fs::write(&guest.kernel, &whole[..length]).unwrap();
        let path = guest.kernel.to_str().unwrap();
        let run = heirloom(&["run", "--kernel", path]);
        assert_eq!(run.code, Some(2), "{length} bytes: {}", run.stderr);
        assert!(run.stderr.contains(path), "{}", run.stderr);
        assert_eq!(run.stdout, "", "the guest was not to boot");
    }
}
