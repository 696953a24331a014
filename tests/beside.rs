//! CPUs that access kernel memory while another one unmaps it, makes it read-only and maps it: without the kernel's
//! lock, so at the same time. QEMU's CPUs remember translations until they are flushed.

mod common;

use heirloom_abi::options::Strategy;
use serde_json::Value;

use common::{Run, heirloom_json};

/// Four levels of page tables, and as many as there are.
const DEPTHS: [&str; 2] = ["la57=off", ""];
const QEMU: [&str; 2] = ["--machine", "qemu"];
const CPUS: u64 = 4;
const ROUNDS: u64 = 2;
/// What a CPU did by an old translation shows in most rounds, but not in each: what makes the CPU forget, for instance
/// that its process was interrupted, may come first.
const ROUNDS_WITH_A_BUG: u64 = 12;
/// In each round memory is unmapped, made read-only and mapped.
const CHANGES: u64 = 3;

/// `heirloom run` of a process for each CPU, all but one of which access what that one changes.
fn watched(rounds: u64, kernel_words: &str, words: &[&str]) -> (Run, Value) {
    let cmdline = format!("init=beside {kernel_words} -- watch {CPUS} {rounds}");
    let cpus = CPUS.to_string();
    let first = ["--cpus", &cpus, "--cmdline", &cmdline];
    heirloom_json(&[&first, words].concat())
}

/// How often they accessed it, as the program says.
fn accesses(run: &Run) -> u64 {
    let text = "CPUs accessed kernel memory ";
    let (_, rest) = run.stderr.split_once(text).unwrap_or_else(|| {
        panic!("no CPU tells of it: {}", run.stderr);
    });
    rest.split(' ').next().unwrap().parse().unwrap()
}

fn found(report: &Value, rule: &str) -> Vec<String> {
    let mut rules = report["rules"].as_array().unwrap().iter();
    let rule = rules.find(|broken| broken["rule"]["name"] == rule).unwrap();
    let findings = rule["findings"].as_array().unwrap().iter();
    let found = findings.map(|finding| finding["found"].as_str().unwrap().to_owned());
    found.collect()
}

fn assert_all_is_well(words: &[&str], (run, report): &(Run, Value)) {
    assert_eq!(run.code, Some(0), "{words:?}: {}", run.said());
    assert_eq!(report["holds"], true, "{words:?}");
    let fine = "while it was changed; 0 things were not as they should be";
    assert!(run.stderr.contains(fine), "{words:?}: {}", run.stderr);
    // Each has had it before it was unmapped, before it was read-only, and after it was mapped.
    let least = (CPUS - 1) * CHANGES * ROUNDS;
    assert!(accesses(run) >= least, "{words:?}: {}", run.stderr);
}

#[test]
fn on_kvm_cpus_that_do_not_stop_while_kernel_memory_is_changed_see_each_change_and_no_other() {
    let propagating = Strategy::ALL.into_iter().filter(|s| s.propagates());
    for (number, strategy) in propagating.enumerate() {
        let words = ["--propagation", strategy.name()];
        let emulated = [&QEMU[..], &words].concat();
        let depth = DEPTHS[number % DEPTHS.len()];
        assert_all_is_well(&emulated, &watched(ROUNDS, depth, &emulated));
        assert_all_is_well(&words, &watched(ROUNDS, "", &words));
    }
}

#[test]
fn a_cpu_that_was_not_asked_reads_and_writes_by_what_it_remembers_at_four_levels_and_at_five() {
    for depth in DEPTHS {
        for bug in ["no-shootdown", "shootdown-skips-one"] {
            let words = [&QEMU[..], &["--bug", bug]].concat();
            let (run, report) = watched(ROUNDS_WITH_A_BUG, depth, &words);
            assert_eq!(run.code, Some(1), "{bug}: {}", run.said());
            let found = found(&report, "no-stale-translation");
            for did in ["the CPU read 0x", "the CPU wrote 0x"] {
                let by_an_old_one = |found: &String| {
                    found.starts_with(did) && found.contains("by an old translation")
                };
                assert!(found.iter().any(by_an_old_one), "{bug}: {found:#?}");
            }
        }
    }
}

/// A PGD entry that is new while others read below it comes to them, or, under `none`, never.
#[test]
fn a_cpu_that_reads_below_a_new_entry_while_it_is_made_gets_it_or_never_does() {
    let words = ["--propagation", "none"];
    let (run, report) = watched(ROUNDS, "", &[&QEMU[..], &words].concat());
    assert_ne!(run.code, Some(0), "{}", run.said());
    let found = found(&report, "propagated");
    assert!(!found.is_empty(), "{}", run.said());
}
