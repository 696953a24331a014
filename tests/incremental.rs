//! What is remembered from event to event changes no verdict: on every scenario, strategy and deliberate bug,
//! each event is judged the same where nothing that was read of tables before it can be used again.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::heirloom;
use heirloom_abi::bugs;
use heirloom_abi::event::ProbePage;
use heirloom_abi::options::Strategy;
use heirloom_harness::engine::Engine;
use heirloom_harness::event::Event;
use heirloom_harness::model::Expectation;
use heirloom_inspect::Capturer;
use heirloom_inspect::rules::Verdict;
use heirloom_source::recording::Recording;
use zerocopy::FromBytes;

/// Of each rule: how often it was held against something, how often that broke it, and the findings.
type Judged = BTreeMap<&'static str, (u64, u64, BTreeSet<Found>)>;

/// Whose it is, where, since which event, and at how many events it was there.
type Found = (String, String, u64, u64);

fn judged(judge: &Engine) -> Judged {
    let of_rule = |verdict: &Verdict| {
        let places = verdict.findings.iter().map(|finding| {
            let seen = finding.seen.unwrap();
            let whose = format!("{:?}", finding.whose);
            (whose, finding.place.clone(), seen.first_event, seen.events)
        });
        let of_rule = (verdict.checks, verdict.violations, places.collect());
        (verdict.rule.name, of_rule)
    };
    judge.verdicts().iter().map(of_rule).collect()
}

/// Judges a recording twice, event by event: with snapshots that share what has not changed, as a run has
/// them, and with snapshots that have nothing in common, so that nothing that is remembered of tables fits. How
/// many events there were.
fn verify(file: &Path) -> usize {
    let recording = Recording::open(file).unwrap();
    let header = recording.header();
    let strategy = Strategy::from_name(header.strategy.as_deref().unwrap()).unwrap();
    let new = || Engine::new(header.truth.clone(), Expectation { strategy });
    let (mut kept, mut anew) = (new(), new());
    let mut events = 0;
    for moment in recording.moments() {
        let moment = moment.unwrap();
        let Some(page) = moment.event else { continue };
        let told = Event::decode(&ProbePage::read_from_bytes(&page[..]).unwrap()).unwrap();
        kept.apply(&told);
        anew.apply(&told);
        let Some(tables) = moment.tables else {
            continue;
        };
        let (cpu, shared) = (tables.cpu(), &tables.snapshot);
        kept.observe(&told, &[cpu], 0, shared, &moment.memory);
        assert_eq!(kept.verify(), Ok(()), "{}", file.display());
        let apart = Capturer::new().capture(&moment.memory, *shared.mode(), &tables.roots());
        anew.observe(&told, &[cpu], 0, &apart, &moment.memory);
        // And by the rule engine's own account: an index made anew, every rule asked again.
        let event = told.sequence;
        if let Err(difference) = kept.verify() {
            panic!("{}, event {event}: {difference}", file.display());
        }
        let (of_kept, of_anew) = (judged(&kept), judged(&anew));
        for (rule, of_rule) in &of_anew {
            assert_eq!(
                &of_kept[rule],
                of_rule,
                "{}, event {event}: {rule}",
                file.display()
            );
        }
        events += 1;
    }
    events
}

/// The recordings in a folder, verified: how many events each has.
fn verify_all(folder: &Path) -> Vec<usize> {
    let files = fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| verify(file)).collect()
}

fn record(command: &[&str], codes: &[i32]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let run = heirloom(&[command, &["--record", folder.path().to_str().unwrap()]].concat());
    let code = run.code.unwrap();
    assert!(codes.contains(&code), "{command:?}: {}", run.stderr);
    folder
}

#[test]
fn on_kvm_every_bug_and_every_strategy_without_one_is_judged_the_same_anew() {
    let folder = record(&["bugs", "--run"], &[0]);
    let events = verify_all(folder.path());
    assert_eq!(events.len(), bugs::ALL.len() + Strategy::ALL.len() - 1);
    // Some of them end the kernel early.
    assert!(events.iter().all(|events| *events > 0), "{events:?}");
    assert!(events.iter().sum::<usize>() > 2000, "{events:?}");
}

#[test]
fn on_kvm_every_strategy_on_the_default_scenario_and_on_forbidden_accesses_is_judged_the_same_anew()
{
    for strategy in Strategy::ALL {
        for more in [&[][..], &["--cmdline", "init=trials"]] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("run.rec");
            let command = ["run", "--propagation", strategy.name()];
            let record = ["--record", file.to_str().unwrap()];
            let run = heirloom(&[&command, more, &record].concat());
            // The forbidden accesses need no new PGD entry, which is what that strategy loses.
            let broken = i32::from(strategy == Strategy::None && more.is_empty());
            assert_eq!(run.code, Some(broken), "{}", run.stderr);
            assert!(verify(&file) > 20);
        }
    }
}

#[test]
fn on_kvm_every_experiment_of_the_lecture_is_judged_the_same_anew() {
    let folder = record(&["lecture", "--timeout", "3600"], &[0]);
    let events = verify_all(folder.path());
    assert!(events.len() > 10, "{events:?}");
}

#[test]
fn on_kvm_every_cell_of_the_lab_is_judged_the_same_anew() {
    let size = ["--processes", "1,4,16", "--allocations", "4"];
    let folder = record(&[&["lab", "--memory", "64M"][..], &size].concat(), &[0]);
    let events = verify_all(folder.path());
    assert!(events.len() >= 15, "{events:?}");
}
