//! The kernel that runs here: `live:` inside a guest says what its host sees of it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::answers::{named, run};
use crate::common::linux::{Guest, Variant};

/// Little enough that an emulated CPU has looked through it soon.
const OPTIONS: [&str; 2] = ["-m", "224M"];

/// `heirloom` without what is for debuggers, and the libraries that it is linked with, by their paths.
fn heirloom_and_its_libraries() -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let stripped = named(&folder.path().join("heirloom"));
    let program = env!("CARGO_BIN_EXE_heirloom");
    let run = |command: &str, arguments: &[&str]| {
        let output = Command::new(command).args(arguments).output().unwrap();
        assert!(output.status.success(), "{command} {arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run("strip", &["-o", &stripped, program]);
    let mut files = vec![("bin/heirloom".to_owned(), std::fs::read(&stripped).unwrap())];
    // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`.
    for line in run("ldd", &[program]).lines() {
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        if let Some(path) = path {
            files.push((
                path[1..].to_owned(),
                std::fs::read(Path::new(path)).unwrap(),
            ));
        }
    }
    files
}

/// The roots of a report that are wanted, each with what it is.
fn roots(report: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<(Value, Value)> {
    let all = report["roots"].as_array().unwrap().iter();
    all.filter(|root| wanted(root))
        .map(|root| (root["address"].clone(), root["kind"].clone()))
        .collect()
}

fn inside(guest: &Guest, command: &str) -> Value {
    let answer = guest.answer(&format!("{command} 2>/err || cat /err"));
    let start = answer
        .find('{')
        .unwrap_or_else(|| panic!("{command}: {answer}"));
    let end = answer.rfind('}').unwrap();
    serde_json::from_str(&answer[start..=end])
        .unwrap_or_else(|error| panic!("{command}: {error}: {answer}"))
}

#[test]
fn live_says_inside_a_guest_what_its_host_sees_with_kaslr_and_without() {
    let files = heirloom_and_its_libraries();
    let with_kaslr = Variant {
        name: "live",
        ..Variant::PTI_ON
    };
    let without = Variant {
        name: "live-nokaslr",
        words: "nokaslr",
        pti: false,
        ..Variant::PTI_ON
    };
    for variant in [with_kaslr, without] {
        let guest = Guest::boot_with_files(variant, &OPTIONS, &files);
        let host = format!("qemu:{}", named(&guest.socket()));
        // What lives and stands still is the same. `heirloom` runs inside after that only, and what processes that
        // have ended left in memory may go then.
        let (_, seen) = run(&["roots", &host]);
        let found = inside(&guest, "heirloom roots live: --json");
        let found = roots(&found, |_| true);
        let owned = roots(&seen, |root| root["owners"].is_array());
        assert!(owned.len() > 30, "{seen}");
        let theirs = roots(&seen, |root| {
            let of_it = |(address, _): &(Value, Value)| *address == root["partner"];
            owned.iter().any(of_it)
        });
        let living = owned.iter().chain(&theirs);
        let missing: Vec<_> = living.filter(|root| !found.contains(root)).collect();
        assert!(missing.is_empty(), "{missing:?} of {found:?}");
        let command = "translate live: 0xfffffe0000000000 --root kernel --json";
        let here = inside(&guest, &format!("heirloom {command}"));
        let (_, there) = run(&["translate", &host, "0xfffffe0000000000", "--root", "kernel"]);
        assert_eq!(here["walk"], there["walk"]);
        // An emulated CPU takes its time for it.
        if variant == with_kaslr {
            // What the kernel changes while it is read may look broken, and is not so for ever.
            let mut check = Value::Null;
            for _ in 0..5 {
                check = inside(&guest, "heirloom check live: --json");
                if check["holds"] == true {
                    break;
                }
            }
            assert_eq!(check["holds"], true, "{}", check["rules"]);
            let notes = check["notes"].to_string();
            assert!(notes.contains("the kernel that runs here"), "{notes}");
        }
    }
}
