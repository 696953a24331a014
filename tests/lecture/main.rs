//! `heirloom lecture`: every claim holds on real KVM, and not on a kernel with a bug that it is about.

#[path = "../common/mod.rs"]
mod common;

mod slides;

use std::path::PathBuf;
use std::sync::OnceLock;

use common::heirloom;
use serde_json::Value;
use tempfile::TempDir;

/// Runs `heirloom lecture --json ARGUMENTS`; its exit code and its claims.
fn lecture(arguments: &[&str]) -> (Option<i32>, Value) {
    let run = heirloom(&[&["lecture", "--json"], arguments].concat());
    let lecture = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}, in: {}\n{}", run.stdout, run.stderr));
    (run.code, lecture)
}

/// All claims, judged once: the exit code, the claims as JSON, and as slides.
fn whole() -> &'static (Option<i32>, Value, TempDir) {
    static WHOLE: OnceLock<(Option<i32>, Value, TempDir)> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let page = page_in(&folder);
        let (code, lecture) = lecture(&["--html", page.to_str().unwrap()]);
        (code, lecture, folder)
    })
}

/// Where the slides are.
fn page_in(folder: &TempDir) -> PathBuf {
    folder.path().join("lecture.html")
}

#[test]
fn on_kvm_all_thirteen_claims_hold() {
    let (code, lecture, _) = whole();
    assert_eq!(*code, Some(0), "{lecture:#}");
    assert_eq!(lecture["version"], 1);
    assert_eq!(lecture["holds"], true);
    let claims = lecture["claims"].as_array().unwrap();
    assert_eq!(claims.len(), 13);
    for (number, claim) in (1..).zip(claims) {
        assert_eq!(claim["number"], number);
        assert_eq!(claim["holds"], true, "{claim:#}");
        assert!(claim["checks"].as_u64().unwrap() > 0, "{claim:#}");
        for column in ["tables", "cpu"] {
            let shown = claim[column].as_array().unwrap();
            assert!(!shown.is_empty(), "{column} of {claim:#}");
        }
    }
}

#[test]
fn on_kvm_one_claim_is_one_paragraph_with_its_verdict() {
    let run = heirloom(&["lecture", "--claim", "3"]);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    let claims = run.stdout.lines().filter(|line| line.starts_with("claim "));
    let claims: Vec<&str> = claims.map(|line| &line[..8]).collect();
    assert_eq!(claims, ["claim 3 "], "{}", run.stdout);
    let is_long = |line: &str| line.chars().count() > 80;
    assert!(!run.stdout.lines().any(is_long), "{}", run.stdout);
    assert!(
        run.stdout.contains("HOLDS: 1 of 1 claims hold"),
        "{}",
        run.stdout
    );
    assert!(!run.stdout.contains("BROKEN"), "{}", run.stdout);
}

#[test]
fn on_kvm_claims_are_broken_by_bugs_that_they_are_about_and_say_where() {
    for (claim, bug, objection) in [
        ("1", "trampoline-leaks", "process 1's root has the pages"),
        ("3", "child-misses-entry", "prealloc: process 2 has"),
        (
            "4",
            "wrong-frame-in-one",
            "copy-all: process 1 has the page",
        ),
        ("4", "stale-in-one", "copy-all: the leaves written"),
        ("5", "child-copies-table", "PGD[402] of process 2"),
        ("6", "unnamed-region", "{256} are too many"),
        ("6", "alias-by-high-table", "different tables"),
        ("7", "child-copies-table", "process 2 should read"),
        ("8", "sync-skips-one", "sync: expected"),
        ("9", "unnamed-region", "0xffff800000000000 should be"),
        ("10", "direct-map-hole", "PFN→VA"),
        ("10", "direct-map-wrong-frame", "KVM translates"),
        (
            "10",
            "direct-map-overrun",
            "frames that the direct map shows",
        ),
        ("13", "user-bit", "prealloc: Read of vmalloc: Survived"),
        (
            "13",
            "trampoline-leaks",
            "isolated: direct map in the process's root",
        ),
        ("13", "table-user-mapped", "has a page table at its own"),
    ] {
        let (code, lecture) = lecture(&["--claim", claim, "--bug", bug]);
        assert_eq!(code, Some(1), "claim {claim} with {bug}: {lecture:#}");
        assert_eq!(lecture["holds"], false);
        let objections = lecture["claims"][0]["objections"].as_array().unwrap();
        assert!(
            objections
                .iter()
                .any(|found| found.as_str().unwrap().contains(objection)),
            "claim {claim} with {bug}: {objections:#?}"
        );
    }
}

#[test]
fn on_kvm_a_claim_that_a_bug_is_not_about_holds_and_says_that_it_does_not_show_it() {
    let run = heirloom(&["lecture", "--claim", "3", "--bug", "sync-skips-one"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let note = "these claims do not show the mistake of sync-skips-one";
    assert!(run.stderr.contains(note), "{}", run.stderr);
}

#[test]
fn what_is_no_claim_or_no_bug_is_wrong_usage() {
    for arguments in [
        ["--claim", "0"],
        ["--claim", "14"],
        ["--bug", "none-such"],
        ["--timeout", "0"],
    ] {
        let run = heirloom(&[&["lecture"], &arguments[..]].concat());
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn on_kvm_a_lecture_that_takes_too_long_is_stopped_with_exit_code_four() {
    let run = heirloom(&["lecture", "--claim", "12", "--timeout", "1"]);
    assert_eq!(run.code, Some(4), "{}\n{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("--timeout"), "{}", run.stderr);
}
