//! The deliberate bugs: each is caught by the rule that it names, on a real run, and no rule fires on a
//! kernel without one.

use std::collections::BTreeSet;
use std::process::Command;

use heirloom_abi::bugs;
use heirloom_abi::options::Strategy;
use serde_json::Value;

fn heirloom(arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}; it said: {said}"));
    (output.status.code(), json)
}

#[test]
fn on_kvm_every_bug_is_caught_by_its_own_rule_and_no_clean_kernel_breaks_any() {
    let (code, rows) = heirloom(&["bugs", "--run", "--json"]);
    let rows = rows.as_array().unwrap();
    let wrong: Vec<&Value> = rows.iter().filter(|row| row["right"] != true).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(code, Some(0));
    let ran: BTreeSet<&str> = rows.iter().filter_map(|row| row["bug"].as_str()).collect();
    assert_eq!(ran, bugs::ALL.iter().map(|info| info.name).collect());
    // Every strategy but the one that is a bug itself.
    let clean: Vec<&str> = rows
        .iter()
        .filter(|row| row["bug"].is_null())
        .filter_map(|row| row["propagation"].as_str())
        .collect();
    let propagating = Strategy::ALL.into_iter().filter(|s| s.propagates());
    assert!(propagating.map(Strategy::name).eq(clean));
    let flawed = Strategy::ALL.into_iter().filter(|s| !s.propagates());
    assert!(flawed.eq([Strategy::None]));
}

#[test]
fn on_kvm_there_are_at_least_24_bugs_and_every_rule_is_named_by_one() {
    assert!(bugs::ALL.len() >= 24);
    let named: BTreeSet<&str> = bugs::ALL.iter().map(|info| info.rule).collect();
    // The isolated kernel is held to every rule there is.
    let (code, report) = heirloom(&["run", "--propagation", "isolated", "--json"]);
    assert_eq!(code, Some(0));
    let rules = report["rules"].as_array().unwrap();
    let rules: BTreeSet<&str> = rules
        .iter()
        .map(|verdict| verdict["rule"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(named, rules);
}

#[test]
fn on_kvm_a_bug_may_be_asked_for_in_an_ordinary_run() {
    let (code, report) = heirloom(&["run", "--bug", "user-bit", "--json"]);
    assert_eq!(code, Some(1));
    let rules = report["rules"].as_array().unwrap();
    let broken = rules
        .iter()
        .find(|verdict| verdict["rule"]["name"] == "kernel-not-user")
        .unwrap();
    assert!(broken["violations"].as_u64().unwrap() > 0);
}

#[test]
fn on_kvm_a_bug_is_made_where_it_shows_and_a_run_that_does_not_show_it_says_so() {
    for (bug, strategy) in [("sync-skips-one", "sync"), ("trampoline-leaks", "isolated")] {
        let (code, report) = heirloom(&["run", "--bug", bug, "--json"]);
        assert_eq!(code, Some(1), "{bug}");
        assert_eq!(report["propagation"], strategy, "{bug}");
    }
    let words = ["run", "-q", "--bug", "sync-skips-one", "--propagation"];
    for (strategy, is_shown) in [("prealloc", false), ("sync", true)] {
        let run = Command::new(env!("CARGO_BIN_EXE_heirloom"))
            .args(words)
            .arg(strategy)
            .output()
            .unwrap();
        assert_eq!(run.status.success(), !is_shown, "{strategy}");
        let said = String::from_utf8_lossy(&run.stderr);
        let hint = "`heirloom bugs --run sync-skips-one` makes it where it shows";
        assert_eq!(said.contains(hint), !is_shown, "{strategy}: {said}");
    }
}

#[test]
fn a_bug_that_does_not_exist_is_wrong_usage_and_the_list_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(["run", "--bug", "no-such-bug"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("heirloom bugs"));
}
