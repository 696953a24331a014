//! What README.md and the pages of docs/ show is what the program does: each command in a block of code is run in an empty
//! folder, in the order of its page, and each line that a page shows of its output is there, numbers aside.

#[path = "../common/mod.rs"]
mod common;
mod page;
mod sample;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use assert_cmd::Command;
use common::linux::{Guest, Variant};
use common::{heirloom, limited};
use page::{Shown, shown};

/// Commands that are not run here: words of them, and why.
const NOT_HERE: [(&str, &str); 12] = [
    ("git clone ", "tests stay on this machine"),
    ("curl ", "the same"),
    ("sudo ", ".ci/archives tries the package"),
    ("make ", "this is one of its tests"),
    ("cargo ", "tests/grade builds kernels and grades them"),
    ("heirloom grade target/", "tests/grade"),
    (
        "qemu-system-x86_64 ",
        "the guest of this test is there already",
    ),
    ("gdb ", "tests/gdb.rs has real sessions"),
    ("--gdb ", "the same"),
    ("heirloom bugs --run", "tests/bugs.rs has every bug"),
    (
        "heirloom lab",
        "it measures for minutes; tests/lab.rs has smaller ones",
    ),
    (
        "--wait-for do_exit",
        "this guest stands still; tests/inspect has one that goes on",
    ),
];

/// What is other than on the page, so that a test is over in a minute.
const INSTEAD: [(&str, &str); 5] = [
    // It is there already, for the commands before this one.
    ("--record run.rec", "--record run.rec --force"),
    ("--every 5s --for 60s", "--every 1s --for 3s"),
    // Without an end it goes on until Ctrl-C.
    (
        "--every 5s --format json",
        "--every 1s --for 3s --format json",
    ),
    // What is opened is a browser.
    (" --open", ""),
    // Where QEMU is told to put it is the reader's choice.
    ("/tmp/", "./"),
];

/// Runs what a page shows, in a folder in which the files are that the page takes for granted.
fn run(name: &str, folder: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name);
    let page = fs::read_to_string(path).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_heirloom")).parent().unwrap();
    let path = std::env::join_paths(
        [bin.to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let path = path.unwrap();
    let mut problems = Vec::new();
    let mut count = 0;
    for Shown { command, sample } in shown(&page) {
        if NOT_HERE.iter().any(|(words, _)| command.contains(words)) {
            continue;
        }
        let line = INSTEAD.iter().fold(command.to_owned(), |line, (from, to)| {
            line.replace(from, to)
        });
        let run = limited(
            Command::new("sh")
                .args(["-c", &line])
                .current_dir(folder)
                .env("PATH", &path)
                .env_remove("RUST_LOG"),
        );
        let output = format!("{}{}", run.stderr, run.stdout).replace("./", "/tmp/");
        let is_broken = ["--bug ", "--propagation none"]
            .iter()
            .any(|words| command.contains(words));
        let fails = is_broken && !command.contains("; echo");
        if run.code != Some(i32::from(fails)) {
            problems.push(format!("{command}\n  ends with {:?}:\n{output}", run.code));
        }
        for missing in sample::missing(&sample, &output) {
            problems.push(format!(
                "{command}\n  prints no such line, where the page has it:\n{missing}\n{output}"
            ));
        }
        count += 1;
    }
    assert!(count > 0, "{name} has no command");
    assert!(problems.is_empty(), "{name}: {}", problems.join("\n"));
}

#[test]
fn on_kvm_of_heirlooms_own_guest() {
    for name in ["run", "stale"] {
        let folder = tempfile::tempdir().unwrap();
        run(&format!("docs/{name}.md"), folder.path());
    }
}

#[test]
fn on_kvm_of_a_linux_in_qemu() {
    let guest = Guest::boot(Variant {
        words: "kinds=heap sleepers=2",
        ..Variant::PTI_ON
    });
    let folder = guest.folder();
    symlink(guest.socket(), folder.join("qmp.sock")).unwrap();
    guest.answer("echo login:");
    for core in ["guest.core", "later.core"] {
        guest.qmp().dump(&folder.join(core), false);
    }
    let recorded = folder.join("run.rec");
    let record = heirloom(&["run", "--record", recorded.to_str().unwrap()]);
    assert_eq!(record.code, Some(0), "{}", record.stderr);
    for name in [
        "README.md",
        "docs/inspect.md",
        "docs/explore.md",
        "docs/ci.md",
        "docs/sandbox.md",
    ] {
        run(name, folder);
    }
}
