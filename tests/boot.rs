//! `heirloom boot` as a process: kernels of each kind, the moments at which they are stopped, what is found
//! of their tables, and how the command ends. The kernels are our own, and some of a few bytes.

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::guest::extract;
use common::{Run, heirloom};
use serde_json::Value;
use tempfile::TempDir;
use tiny::{BzImage, Elf, HALT, SPIN, code, print};

/// `mov al, 0xfe; out 0x64, al`: resets the machine.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64];
/// `ud2`, without an exception table: a triple fault.
const CRASH: &[u8] = &[0x0f, 0x0b];
/// `popcnt eax, eax`, which kvm_pvm does not emulate.
const POPCNT: &[u8] = &[0xf3, 0x0f, 0xb8, 0xc0];

/// A file in a directory that must live as long as it is used.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

/// Boots `kernel` in little memory.
fn boot_file(kernel: &[u8], arguments: &[&str]) -> Run {
    let (_directory, path) = file("kernel", kernel);
    boot(&path, arguments)
}

fn boot(kernel: &Path, arguments: &[&str]) -> Run {
    let path = kernel.to_str().unwrap();
    heirloom(&[&["boot", path, "--memory", "64M"], arguments].concat())
}

/// A bzImage, which is entered with paging on.
fn bzimage(parts: &[&[u8]]) -> Vec<u8> {
    BzImage::new(&code(parts)).bytes()
}

fn assert_says(run: &Run, words: &[&str]) {
    for word in words {
        assert!(
            run.stdout.contains(word) || run.stderr.contains(word),
            "no `{word}` in: {}\n{}",
            run.stdout,
            run.stderr
        );
    }
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}, in: {}\n{}", run.stdout, run.stderr))
}

#[test]
fn on_kvm_our_own_kernel_boots_by_pvh_with_its_programs_as_a_module_and_is_judged_where_it_ends() {
    let guest = extract();
    let run = boot(
        &guest.kernel,
        &[
            "--module",
            guest.programs.to_str().unwrap(),
            "--cmdline",
            "init=family",
        ],
    );
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    assert_says(
        &run,
        &[
            "heirloom kernel: 63 MiB of RAM",
            "the guest halted with interrupts off after",
            "1 root: 1 kernel",
            "HOLDS: 10 of 20 rules hold, 10 not tried: ",
            "; in all 1 live root (",
        ],
    );
}

#[test]
fn on_kvm_a_text_on_the_console_stops_a_kernel_while_its_processes_live_and_all_are_found() {
    let guest = extract();
    let run = boot(
        &guest.kernel,
        &[
            "--initrd",
            guest.programs.to_str().unwrap(),
            "--cmdline",
            "init=trials",
            "--until",
            "kept: a process that never asks is preempted",
            "--json",
        ],
    );
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let report = json(&run);
    assert_eq!(report["stopped"], "printed the text");
    let roots = report["roots"]["roots"].as_array().unwrap();
    assert!(roots.len() >= 2, "{report}");
    assert_eq!(report["roots"]["kinds"]["kernel"], 1, "{report}");
    assert_eq!(report["check"]["holds"], true, "{report}");
    // With --json, the console is not among the report.
    assert!(run.stderr.contains("kept: "), "{}", run.stderr);
}

#[test]
fn on_kvm_a_core_of_the_stopped_guest_is_the_same_guest_to_the_inspector() {
    let guest = extract();
    let directory = tempfile::tempdir().unwrap();
    let core = directory.path().join("guest.core");
    let run = boot(
        &guest.kernel,
        &[
            "--initrd",
            guest.programs.to_str().unwrap(),
            "--cmdline",
            "init=trials",
            "--until",
            "kept: copy on write",
            "--json",
            "--core",
            core.to_str().unwrap(),
        ],
    );
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let live = json(&run)["roots"].clone();
    let again = heirloom(&["roots", &format!("core:{}", core.display()), "--json"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let saved = json(&again);
    assert!(live["roots"].as_array().unwrap().len() >= 2, "{live}");
    assert_eq!(live["roots"], saved["roots"]);
    for register in [
        "cr0", "cr2", "cr3", "cr4", "rip", "rsp", "rbp", "rflags", "cpl",
    ] {
        assert_eq!(
            live["target"]["cpus"][0][register], saved["target"]["cpus"][0][register],
            "{register}"
        );
    }
    assert_eq!(live["target"]["ram"], saved["target"]["ram"]);
}

#[test]
fn on_kvm_a_bzimage_is_stopped_at_a_text_or_after_a_time_or_where_it_ends() {
    let kernel = bzimage(&[&print(b"up and running\r\n"), HALT]);
    for (arguments, how) in [
        (&["--until", "and run"][..], "printed the text"),
        // A CPU that has halted for good is not waited for: this limit is longer than the test's own.
        (&["--after", "3600"], "halted with interrupts off"),
        (&[], "halted with interrupts off"),
    ] {
        let run = boot_file(&kernel, arguments);
        assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
        assert_says(&run, &["up and running", how]);
    }
    let run = boot_file(&bzimage(&[SPIN]), &["--after", "1"]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let said = run.stdout + &run.stderr;
    let (_, after) = said.split_once("its time was over after ").unwrap();
    let seconds: f64 = after.split(' ').next().unwrap().parse().unwrap();
    assert!(seconds >= 1.0, "{said}");
    let run = boot_file(&bzimage(&[RESET]), &[]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    assert_says(&run, &["the guest reset its machine after"]);
}

#[test]
fn on_kvm_a_prompt_that_ends_no_line_is_seen_too() {
    let run = boot_file(
        &bzimage(&[&print(b"login: "), SPIN]),
        &["--until", "login:"],
    );
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
}

#[test]
fn on_kvm_a_guest_that_does_not_get_to_its_moment_is_exit_code_four_and_shown_all_the_same() {
    for (guest, arguments, words) in [
        (
            SPIN,
            &["--until", "never", "--timeout", "1"][..],
            &["did not print `never` within 1 s", "--timeout"][..],
        ),
        (
            SPIN,
            &["--timeout", "1"],
            &["did not end within 1 s", "--after"],
        ),
        (
            HALT,
            &["--until", "never"],
            &["halted with interrupts off, and did not print `never`"],
        ),
        (
            RESET,
            &["--until", "never"],
            &[
                "did not print `never`: the guest reset its machine",
                "RIP 0x1000",
            ],
        ),
        (
            RESET,
            &["--after", "3600"],
            &["the guest reset its machine", "ring 0"],
        ),
        (CRASH, &["--after", "3600"], &["triple fault", "RIP 0x1000"]),
        (CRASH, &[], &["triple fault"]),
    ] {
        let run = boot_file(&bzimage(&[guest]), arguments);
        assert_eq!(run.code, Some(4), "{arguments:?}: {}", run.stderr);
        assert_says(&run, words);
        // Its identity map is there to be seen.
        assert_says(&run, &["1 root: ", "CR3 0x9000 (root 0x9000)"]);
    }
}

#[test]
fn on_kvm_an_instruction_that_it_cannot_emulate_is_shown_with_its_place_and_elsewhere_the_guest_goes_on()
 {
    let run = boot_file(&bzimage(&[&print(b"before\r\n"), POPCNT, RESET]), &[]);
    assert_says(&run, &["before"]);
    match run.code {
        // A KVM that runs it.
        Some(0) => assert_says(&run, &["the guest reset its machine"]),
        Some(4) => assert_says(
            &run,
            &[
                "cannot emulate the guest's instruction f3 0f b8 c0 (`popcnt eax,eax`)",
                "RIP 0x1000",
                "1 root: ",
            ],
        ),
        code => panic!("{code:?}: {}", run.stderr),
    }
}

#[test]
fn on_kvm_ctrl_c_ends_the_guests_run_and_shows_it() {
    let (_directory, path) = file("kernel", &bzimage(&[&print(b"up\r\n"), SPIN]));
    let mut child = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(["boot", "--memory", "64M"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    if line != "up\r\n" {
        let output = child.wait_with_output().unwrap();
        panic!("{line}{}", String::from_utf8_lossy(&output.stderr));
    }
    let kill = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    let (mut shown, mut said) = (String::new(), String::new());
    stdout.read_to_string(&mut shown).unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{said}");
    assert!(said.contains("heirloom: interrupted"), "{said}");
    assert!(shown.contains("1 root: "), "{shown}");
}

#[test]
fn on_kvm_a_guest_without_page_tables_is_said_to_have_none() {
    // Entered by PVH, without paging.
    let run = boot_file(&Elf::new(&code(&[&print(b"up\n"), HALT])).bytes(), &[]);
    assert_eq!(run.code, Some(4), "{}\n{}", run.stdout, run.stderr);
    assert_says(&run, &["up", "paging off"]);
    let run = boot_file(&Elf::new(CRASH).bytes(), &[]);
    assert_eq!(run.code, Some(4), "{}\n{}", run.stdout, run.stderr);
    assert_says(&run, &["triple fault", "paging off"]);
}

#[test]
fn on_kvm_where_the_console_is_no_terminal_a_line_now_and_then_says_that_the_guest_runs() {
    let run = boot_file(&bzimage(&[SPIN]), &["--after", "7"]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    // Five seconds in, or as soon after that as the machine has the time.
    let (when, what) = run.stderr.split_once(" s, ").unwrap();
    let seconds: u64 = when.strip_prefix("heirloom: ").unwrap().parse().unwrap();
    assert!(seconds >= 5, "{}", run.stderr);
    let runs = "the guest runs: ring 0, RIP 0x100020";
    assert!(what.starts_with(runs), "{}", run.stderr);
    let run = boot_file(&bzimage(&[SPIN]), &["--after", "1"]);
    assert_eq!(run.stderr, "", "a short run is not worth a line");
}

#[test]
fn on_kvm_files_that_cannot_be_booted_are_exit_code_two_and_named_with_the_remedy() {
    let good = bzimage(&[HALT]);
    let narrow = BzImage {
        extended_load_flags: 0,
        ..BzImage::new(HALT)
    };
    let mut narrow_elf = Elf::new(HALT).bytes();
    narrow_elf[4] = 1;
    let huge = BzImage {
        init_size: 60 << 20,
        ..BzImage::new(HALT)
    };
    for (kernel, words) in [
        (b"#!/bin/sh\n".to_vec(), &["neither an ELF", "bzImage"][..]),
        (
            good[..good.len() - 1].to_vec(),
            &["cut off", "copy it again"],
        ),
        (narrow.bytes(), &["32-bit kernel", "x86-64"]),
        (narrow_elf, &["not a 64-bit x86-64"]),
        (huge.bytes(), &["unpack itself", "more memory"]),
    ] {
        let run = boot_file(&kernel, &[]);
        assert_eq!(run.code, Some(2), "{words:?}: {}", run.stderr);
        assert_eq!(run.stdout, "");
        assert_says(&run, words);
        assert_says(&run, &["kernel"]);
    }
    let (_directory, path) = file("kernel", &good);
    let (_directory, big) = file("big.cpio", &vec![1; 50 << 20]);
    let big = big.to_str().unwrap();
    for (arguments, words) in [
        (
            &["--initrd", "/no/such/initrd"][..],
            &["/no/such/initrd"][..],
        ),
        (&["--initrd", "/dev/zero"], &["/dev/zero", "regular file"]),
        (
            &["--initrd", big],
            &["big.cpio", "does not fit", "more memory"],
        ),
        (&["--module", big], &["no boot modules", "--initrd"]),
        (&["--core", "/no/such/dir/core"], &["/no/such/dir/core"]),
    ] {
        let run = boot(&path, arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
        assert_says(&run, words);
    }
    let run = boot(Path::new("/no/such/kernel"), &[]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert_says(&run, &["/no/such/kernel"]);
}

#[test]
fn options_that_make_no_sense_are_exit_code_two() {
    let (_directory, path) = file("kernel", &bzimage(&[HALT]));
    for arguments in [
        &["--until", ""][..],
        &["--until", "x", "--after", "1"],
        &["--after", "1", "--timeout", "2"],
        &["--after", "0"],
        &["--timeout", "0"],
        &["--memory", "1M"],
    ] {
        let run = boot(&path, arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(heirloom(&["boot"]).code, Some(2));
}
