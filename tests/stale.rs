//! Translations that were not flushed: on a CPU that remembers them, QEMU's, what it reads by them; on a KVM that
//! may walk the tables at each access, what it was not asked to forget.

mod common;

use common::heirloom_json;
use serde_json::Value;

const RULE: &str = "no-stale-translation";
const QEMU: [&str; 2] = ["--machine", "qemu"];
/// Process 1 writes, protects, frees and reads kernel memory without giving the CPU away.
const TRIALS: [&str; 2] = ["--cmdline", "init=trials"];
const TRIALS_AT_FOUR_LEVELS: [&str; 2] = ["--cmdline", "init=trials la57=off"];

/// What the rule says of a run: its verdict, and all that it found.
fn judged(words: &[&[&str]]) -> (String, Vec<String>) {
    let (_, report) = heirloom_json(&words.concat());
    let rules = report["rules"].as_array().unwrap();
    let mut rules = rules.iter();
    let rule = rules.find(|rule| rule["rule"]["name"] == RULE).unwrap();
    let findings = rule["findings"].as_array().unwrap().iter();
    let found = findings.map(|finding: &Value| finding["found"].as_str().unwrap().to_owned());
    (
        rule["verdict"].as_str().unwrap().to_owned(),
        found.collect(),
    )
}

fn tells(found: &[String], words: &str) -> bool {
    found.iter().any(|found| found.contains(words))
}

const WAS_READ: &str = "by an old translation";
const NOT_ASKED: &str = "no flush that covers it";
const TOO_EARLY: &str = "before the last of the entries was written";

#[test]
fn what_the_cpu_reads_by_a_translation_that_was_not_flushed_is_found_at_four_levels_and_at_five() {
    for trials in [TRIALS, TRIALS_AT_FOUR_LEVELS] {
        assert_eq!(judged(&[&QEMU, &trials]), ("holds".into(), vec![]));
        for bug in [
            "unmap-without-flush",
            // At five levels 48 bits are too few, at four 39 are.
            "flush-cuts-address",
            "protect-without-flush",
        ] {
            let (verdict, found) = judged(&[&["--bug", bug], &QEMU, &trials]);
            assert_eq!(verdict, "broken", "{bug}");
            assert!(tells(&found, WAS_READ), "{bug}: {found:#?}");
            assert!(tells(&found, NOT_ASKED), "{bug}: {found:#?}");
        }
    }
}

#[test]
fn on_kvm_the_same_is_found_by_what_the_cpu_was_not_asked_to_forget() {
    assert_eq!(judged(&[&TRIALS]), ("holds".into(), vec![]));
    for (bug, asked) in [
        ("unmap-without-flush", NOT_ASKED),
        // Nobody uses the page between the flush and the write, so no CPU shows it.
        ("flush-before-unmap", TOO_EARLY),
        ("flush-cuts-address", NOT_ASKED),
        // Neither machine shows it: QEMU's loads of CR3 drop global translations, too.
        ("flush-keeps-global", NOT_ASKED),
    ] {
        let (verdict, found) = judged(&[&["--bug", bug], &TRIALS]);
        assert_eq!(verdict, "broken", "{bug}");
        assert!(tells(&found, asked), "{bug}: {found:#?}");
    }
}

#[test]
fn on_kvm_a_bug_that_breaks_the_kernels_tables_ends_the_run_and_not_its_time() {
    let (run, report) = heirloom_json(&["--bug", "freed-shared-table", "--timeout", "3600"]);
    assert!(run.code == Some(1) || run.code == Some(4), "{}", run.said());
    assert_eq!(report["holds"], false, "{}", run.said());
}
