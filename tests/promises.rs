//! What the kernel owes its processes, on KVM: what must work works, and what must not be done ends
//! the process that does it, and no other.

mod common;

use common::promises::{PROMISES, assert_kept};
use common::{heirloom, heirloom_json};

#[test]
fn on_kvm_every_promise_is_kept_and_every_death_is_one_line_that_says_what_was_done() {
    let run = heirloom(&["run", "--cmdline", "init=trials"]);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert_kept(&run.stdout);
}

#[test]
fn on_kvm_the_dead_are_the_children_that_did_it_and_the_first_process_lives_on() {
    const SIGNALS: [u64; 3] = [4, 8, 11];
    let (run, report) = heirloom_json(&["--cmdline", "init=trials"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let processes = report["processes"].as_array().unwrap();
    let killed = processes
        .iter()
        .filter(|process| SIGNALS.contains(&process["status"].as_u64().unwrap()));
    let of_first = killed
        .clone()
        .filter(|process| process["parent"] == 1)
        .count();
    let fatal = PROMISES.iter().filter(|promise| promise.is_fatal()).count();
    assert_eq!(killed.count(), fatal, "{processes:#?}");
    assert_eq!(of_first, fatal, "{processes:#?}");
    assert_eq!(processes[0]["pid"], 1);
    assert_eq!(processes[0]["status"], 0);
}

#[test]
fn on_kvm_the_rules_hold_whatever_the_processes_try() {
    let (run, report) = heirloom_json(&["--cmdline", "init=trials"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(report["holds"], true);
    for rule in report["rules"].as_array().unwrap() {
        assert_eq!(rule["violations"], 0, "{rule:#}");
    }
    assert!(report["events"].as_u64().unwrap() > PROMISES.len() as u64);
}
