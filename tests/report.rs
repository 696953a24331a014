//! The report for people: what `heirloom run` prints when the guest is done, and when it is not.

mod common;

use common::{heirloom, heirloom_json};

#[test]
fn on_kvm_family_roots_entries_rules_and_a_verdict_are_shown() {
    let run = heirloom(&["run", "-v"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let has = |words: &[&str]| {
        assert!(
            lines
                .iter()
                .any(|line| words.iter().all(|word| line.contains(word))),
            "no line with {words:?} in:\n{}",
            run.stdout
        );
    };
    // Grandchildren, two steps further in than process 1.
    has(&["family ("]);
    assert!(lines.contains(&"  1  ended"), "{}", run.stdout);
    let is_grandchild = |line: &&&str| {
        line.strip_prefix("      ")
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    assert!(
        lines.iter().any(|line| is_grandchild(&line)),
        "{}",
        run.stdout
    );
    has(&["root (CR3)", "kernel half"]);
    has(&["kernel ", "0x", "the reference"]);
    has(&["process 1 ", "0x", "same ", "same tables"]);
    has(&["PGD[273]", "0xffff888000000000", "direct map", "all 9 "]);
    has(&["PGD[402", "0xffffc90000000000", "vmalloc"]);
    has(&["PGD[511]", "kernel image"]);
    let (_, report) = heirloom_json(&[]);
    for rule in report["rules"].as_array().unwrap() {
        has(&[
            &format!(" {} ", rule["rule"]["name"].as_str().unwrap()),
            "holds",
        ]);
    }
    let verdict = lines.last().unwrap();
    assert!(verdict.starts_with("HOLDS: "), "{verdict}");
    // And without -v they take one line.
    let run = heirloom(&["run"]);
    let (before, verdict) = run.stdout.trim_end().rsplit_once("\n\n").unwrap();
    assert!(verdict.starts_with("HOLDS: "), "{verdict}");
    let count = report["rules"].as_array().unwrap().len();
    let rules = format!("events\n{count} rules hold; -v lists them");
    assert!(before.ends_with(&rules), "{before}");
}

#[test]
fn on_kvm_where_propagation_fails_process_address_and_both_entries_are_shown() {
    let run = heirloom(&["run", "--propagation", "none"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let (_, findings) = run
        .stdout
        .split_once("\nkernel-half-shared: ")
        .unwrap_or_else(|| panic!("{}", run.stdout));
    for words in [
        "process ",
        ", PGD[403], address 0xffffc98000000000",
        "expected  absent",
        "PGD[403]  = 0x0000000000000000 → nothing",
        "→ not present in the PGD",
        " → table 0x",
        "\npropagated: ",
    ] {
        assert!(findings.contains(words), "no `{words}` in:\n{findings}");
    }
    let verdict = run.stdout.lines().last().unwrap();
    assert!(verdict.starts_with("BROKEN: "), "{verdict}");
    assert!(verdict.contains("kernel-half-shared, "), "{verdict}");
}

#[test]
fn on_kvm_a_run_that_takes_too_long_is_stopped_and_what_was_judged_until_then_is_shown() {
    let run = heirloom(&["run", "--processes", "2000", "--timeout", "2", "-v"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("not done after 2 s"), "{}", run.stderr);
    assert!(run.stderr.contains("--timeout"), "{}", run.stderr);
    assert!(run.stdout.contains("kernel-half-shared"), "{}", run.stdout);
}
