//! Guests with several CPUs, on KVM and on QEMU: every strategy keeps its promise, and every CPU is judged.

mod common;

use heirloom_abi::options::Strategy;
use serde_json::Value;

use common::guest::extract;
use common::{Run, heirloom, heirloom_json};

/// Runs of each strategy with many processes: `HEIRLOOM_ROUNDS=20` for the long form.
const ROUNDS: &str = "HEIRLOOM_ROUNDS";
const MANY_PROCESSES: &str = "200";
const QEMU: [&str; 2] = ["--machine", "qemu"];

/// `heirloom run --json --cpus CPUS --propagation STRATEGY WORDS`.
fn run(cpus: &str, strategy: Strategy, words: &[&str]) -> (Run, Value) {
    let first = ["--cpus", cpus, "--propagation", strategy.name()];
    heirloom_json(&[&first, words].concat())
}

fn broken_rules(report: &Value) -> Vec<&str> {
    let rules = report["rules"].as_array().unwrap().iter();
    rules
        .filter(|rule| rule["verdict"] == "broken")
        .map(|rule| rule["rule"]["name"].as_str().unwrap())
        .collect()
}

/// What strategies must show on several CPUs, and what came of it in all runs together: a busy host may leave one
/// CPU behind in one run.
#[derive(Default)]
struct Seen {
    events: Vec<u64>,
    migrated: u64,
    remote_flushes: u64,
}

impl Seen {
    /// The strategy keeps its promise as it does on one CPU; `none` breaks the same rules.
    fn take(&mut self, strategy: Strategy, run: &Run, report: &Value) {
        let name = strategy.name();
        let broken = broken_rules(report);
        if strategy.propagates() {
            assert_eq!(run.code, Some(0), "{name}: {}", run.said());
            assert!(broken.is_empty(), "{name}: {broken:?}");
        } else {
            assert_eq!(run.code, Some(1), "{name}: {}", run.said());
            assert!(broken.contains(&"propagated"), "{name}: {broken:?}");
            assert!(!broken.contains(&"cr3-known"), "{name}: {broken:?}");
        }
        let cpus = report["cpus"].as_array().unwrap();
        self.events.resize(cpus.len(), 0);
        let told = cpus.iter().map(|cpu| cpu["events"].as_u64().unwrap());
        assert_eq!(told.clone().sum::<u64>(), report["events"], "{name}");
        self.events
            .iter_mut()
            .zip(told)
            .for_each(|(all, told)| *all += told);
        self.migrated += report["migrated"].as_u64().unwrap();
        self.remote_flushes += report["counters"]["remote_flushes"].as_u64().unwrap();
    }

    fn assert_all_worked(&self, cpus: usize) {
        assert_eq!(self.events.len(), cpus);
        assert!(
            self.events.iter().all(|told| *told > 0),
            "{:?}",
            self.events
        );
        assert!(self.migrated > 0 && self.remote_flushes > 0);
    }
}

#[test]
fn on_kvm_every_strategy_keeps_its_promise_on_two_cpus_and_on_four() {
    for cpus in [2, 4] {
        let mut seen = Seen::default();
        for strategy in Strategy::ALL {
            let (run, report) = run(&cpus.to_string(), strategy, &[]);
            seen.take(strategy, &run, &report);
        }
        seen.assert_all_worked(cpus);
    }
}

#[test]
fn every_strategy_keeps_its_promise_on_emulated_cpus_with_five_levels_and_with_four() {
    for (cpus, words) in [(4, ""), (2, "la57=off")] {
        let mut seen = Seen::default();
        for strategy in Strategy::ALL {
            let words = [&QEMU[..], &["--cmdline", words]].concat();
            let (run, report) = run(&cpus.to_string(), strategy, &words);
            seen.take(strategy, &run, &report);
            let machine = report["machine"].as_array().unwrap();
            assert_eq!(machine.iter().any(|name| name == "la57"), cpus == 4);
        }
        seen.assert_all_worked(cpus);
    }
}

#[test]
fn on_kvm_eight_cpus_and_cpus_that_are_not_pinned_are_good_too() {
    for words in [&["--cpus", "8"][..], &["--cpus", "3", "--no-pin"]] {
        let (run, report) = heirloom_json(words);
        assert_eq!(run.code, Some(0), "{words:?}: {}", run.said());
        let count: usize = words[1].parse().unwrap();
        assert_eq!(report["cpus"].as_array().unwrap().len(), count);
    }
}

#[test]
fn on_kvm_what_each_cpu_had_is_recorded_and_judged_again() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("cpus.rec");
    let file = file.to_str().unwrap();
    let live = heirloom(&[
        "-q",
        "run",
        "--cpus",
        "4",
        "--propagation",
        "sync",
        "--record",
        file,
    ]);
    assert_eq!(live.code, Some(0), "{}", live.said());
    let again = heirloom(&["-q", "replay", file]);
    assert_eq!(again.code, Some(0), "{}", again.said());
    assert_eq!(again.stdout, live.stdout);
    // The event of the boot, when all but one CPU sleep on the kernel's root.
    let roots = heirloom(&["roots", "--json", &format!("rec:{file}@0")]);
    let roots: Value = serde_json::from_str(&roots.stdout).unwrap();
    assert_eq!(roots["target"]["cpus"].as_array().unwrap().len(), 4);
}

#[test]
fn on_kvm_a_number_of_cpus_that_no_guest_has_is_refused() {
    for count in ["0", "9", "many"] {
        let refused = heirloom(&["run", "--cpus", count]);
        assert_eq!(refused.code, Some(2));
        assert!(
            refused.stderr.contains("a guest has 1 to 8 CPUs"),
            "{}",
            refused.stderr
        );
    }
    let refused = heirloom(&["run", "--cmdline", "cpus=9"]);
    assert_eq!(refused.code, Some(4));
    let said = "cpus=9: this kernel drives 1 to 8 CPUs";
    assert!(refused.stdout.contains(said), "{}", refused.stdout);
}

#[test]
fn on_kvm_a_cpu_that_does_not_come_is_a_panic_that_names_it() {
    let waited = heirloom(&["run", "--cpus", "2", "--cmdline", "cpus=3"]);
    assert_eq!(waited.code, Some(4), "{}", waited.said());
    let said = "CPU 2 of 3 does not start";
    assert!(
        waited.stdout.contains(said),
        "{}{}",
        waited.stdout,
        waited.said()
    );
}

/// Processes that are many for their CPUs, so that each waits and goes where there is room.
#[test]
fn on_kvm_many_processes_run_on_four_cpus_as_often_as_is_wanted() {
    let wanted = std::env::var(ROUNDS).ok();
    let rounds = wanted.as_ref().map_or(1, |rounds| rounds.parse().unwrap());
    let (processes, strategies) = match wanted {
        Some(_) => (MANY_PROCESSES, &Strategy::ALL[..]),
        None => ("40", &[Strategy::Sync][..]),
    };
    let machines: [&[&str]; 2] = [&[], &QEMU];
    for round in 0..rounds {
        for strategy in strategies {
            for machine in machines {
                let words = [&["--processes", processes, "--timeout", "300"], machine].concat();
                let (run, report) = run("4", *strategy, &words);
                Seen::default().take(*strategy, &run, &report);
                if rounds > 1 {
                    eprintln!("{round} {} {machine:?}: as it should be", strategy.name());
                }
            }
        }
    }
}

/// `heirloom run` of processes that do what they like, by this seed.
fn crowd(cpus: &str, strategy: Strategy, seed: u64, words: &[&str]) -> (Run, Value) {
    let crowd = format!("init=crowd -- 10 {seed} 12");
    run(cpus, strategy, &[&["--cmdline", &crowd], words].concat())
}

#[test]
fn on_kvm_processes_that_do_what_they_like_at_once_break_no_rule_whatever_the_schedule() {
    let seeds = std::env::var(ROUNDS).map_or(1, |rounds| rounds.parse().unwrap());
    let propagating = Strategy::ALL
        .into_iter()
        .filter(|strategy| strategy.propagates());
    for (strategy, first) in propagating.zip(0..) {
        for seed in (first..).step_by(10).take(seeds) {
            let machine: &[&str] = if seed % 2 == 0 { &[] } else { &QEMU };
            let (run, report) = crowd("4", strategy, seed, machine);
            assert_eq!(
                run.code,
                Some(0),
                "seed {seed}, {}: {}",
                strategy.name(),
                run.said()
            );
            Seen::default().take(strategy, &run, &report);
            assert!(
                run.stderr.contains(&format!("a crowd of 10, seed {seed}")),
                "{}",
                run.stderr
            );
            assert!(
                !run.stderr.contains("were not as they should be"),
                "{}",
                run.stderr
            );
        }
    }
}

#[test]
fn on_kvm_a_bug_that_takes_several_cpus_has_them_and_is_refused_fewer() {
    let refused = heirloom(&["run", "--cpus", "2", "--bug", "idle-keeps-root"]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("add --cpus 4"),
        "{}",
        refused.stderr
    );
    let (run, report) = heirloom_json(&["--bug", "idle-keeps-root"]);
    // The root that a CPU kept may be used again before the run is over, for something else.
    assert_ne!(run.code, Some(0), "{}", run.said());
    assert!(broken_rules(&report).contains(&"cr3-known"));
}

#[test]
fn on_kvm_a_kernel_that_is_booted_starts_the_cpus_that_it_was_given() {
    let guest = extract();
    let [kernel, programs] = [&guest.kernel, &guest.programs].map(|path| path.to_str().unwrap());
    let words = ["--cpus", "3", "--json", "--until", "a crowd of"];
    let files = ["boot", kernel, "--initrd", programs];
    let cmdline = ["--cmdline", "init=crowd cpus=3 -- 8 1"];
    let booted = heirloom(&[&files[..], &words, &cmdline].concat());
    assert_eq!(booted.code, Some(0), "{}{}", booted.stdout, booted.said());
    let report: Value = serde_json::from_str(&booted.stdout).unwrap();
    let cpus = report["roots"]["target"]["cpus"].as_array().unwrap();
    // Those that have nothing to do are on the kernel's own root.
    assert_eq!(cpus.len(), 3);
    let root = |cpu: &Value| cpu["cr3"].clone();
    assert_eq!(root(&cpus[1]), root(&cpus[2]));
    assert_ne!(root(&cpus[0]), root(&cpus[1]));
}

#[test]
fn on_kvm_claims_of_the_lecture_hold_with_their_processes_on_several_cpus() {
    for claim in ["2", "5", "7"] {
        let lecture = heirloom(&["-q", "lecture", "--cpus", "4", "--claim", claim]);
        let said = lecture.said();
        assert_eq!(lecture.code, Some(0), "{claim}: {}{said}", lecture.stdout);
    }
}
