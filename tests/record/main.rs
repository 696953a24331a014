//! Recordings of real runs: judged again from the file, they come to what the live run came to.

mod broken_off;
#[path = "../common/mod.rs"]
mod common;
mod many;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use common::{Run, heirloom};

/// A file that does not exist yet, in a directory that is gone with the first of the two.
fn file() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("run.rec");
    (directory, file)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}, in: {}\n{}", run.stdout, run.stderr))
}

/// Runs and records, replays, and compares everything that both say: the report, the exit code, and the
/// last words.
fn assert_same_verdict(arguments: &[&str]) -> Value {
    let (_directory, file) = file();
    let record = ["-q", "run", "--json", "--record", text(&file)];
    let live = heirloom(&[&record, arguments].concat());
    let replay = heirloom(&["-q", "replay", "--json", text(&file)]);
    assert_eq!(live.code, replay.code, "{arguments:?}: {}", replay.stderr);
    let played = json(&replay);
    assert_eq!(json(&live), played["report"], "{arguments:?}");
    let said = |run: &Run| {
        // The progress that a slow machine shows is not among the last words.
        let is_progress = |line: &&str| {
            let rest = line.strip_prefix("heirloom: ").unwrap_or_default();
            rest.starts_with(|c: char| c.is_ascii_digit())
        };
        let said = run.said();
        let said: Vec<&str> = said.lines().filter(|line| !is_progress(line)).collect();
        let said = said.join("\n");
        said.find("heirloom: ").map(|at| said[at..].to_owned())
    };
    assert_eq!(said(&live), said(&replay), "{arguments:?}");
    let events = played["events"].as_array().unwrap().len() as u64;
    assert_eq!(played["report"]["events"], events, "{arguments:?}");
    played
}

#[test]
fn on_kvm_every_strategys_verdict_is_the_same_from_the_recording() {
    for strategy in heirloom_abi::options::Strategy::ALL {
        let name = strategy.name();
        let played = assert_same_verdict(&["--propagation", name]);
        assert_eq!(played["report"]["propagation"], name);
        assert_eq!(played["report"]["holds"], name != "none");
    }
}

#[test]
fn on_kvm_the_verdict_on_bugs_of_every_kind_is_the_same_from_the_recording() {
    // One bug for each rule, so that each finds again what it found.
    let mut rules = std::collections::BTreeSet::new();
    for bug in heirloom_abi::bugs::ALL {
        if rules.insert(bug.rule) {
            let strategy = bug.strategy.name();
            let played = assert_same_verdict(&["--propagation", strategy, "--bug", bug.name]);
            assert_eq!(played["bug"], bug.name);
            assert_eq!(played["report"]["holds"], false, "{}", bug.name);
        }
    }
    assert!(rules.len() > 10, "{rules:?}");
}

#[test]
fn on_kvm_a_guest_that_is_killed_for_what_it_did_is_replayed_with_its_exit_code() {
    let played = assert_same_verdict(&["--cmdline", "init=trials"]);
    let killed = played["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["what"].as_str().unwrap().ends_with("is killed"))
        .count();
    assert!(killed > 3, "{killed}");
}

#[test]
fn on_kvm_a_replay_lists_every_event_and_ends_with_the_live_runs_report() {
    let (_directory, file) = file();
    let live = heirloom(&["run", "--record", text(&file)]);
    assert_eq!(live.code, Some(0), "{}", live.stderr);
    let replay = heirloom(&["replay", text(&file)]);
    assert_eq!(replay.code, Some(0), "{}", replay.stderr);
    let report = |run: &Run| {
        let start = run.stdout.find("family (").unwrap();
        run.stdout[start..].to_owned()
    };
    assert_eq!(report(&live), report(&replay));
    for words in [
        "the kernel is up",
        "process 1 has a child, process 2",
        " read kernel memory at 0xffffc9",
        "7 new tables",
        "7 tables gone",
        "the run came to its end",
    ] {
        assert!(replay.stdout.contains(words), "{words}: {}", replay.stdout);
    }
}

#[test]
fn on_kvm_one_event_is_shown_with_the_entries_that_it_changed() {
    let (_directory, file) = file();
    heirloom(&["run", "--record", text(&file)]);
    let list = json(&heirloom(&["replay", "--json", text(&file)]));
    let crossing = list["events"].as_array().unwrap().iter().find(|event| {
        event["what"]
            .as_str()
            .unwrap()
            .contains("allocated 16 pages")
    });
    let number = crossing.unwrap()["event"].to_string();
    let run = heirloom(&["replay", text(&file), "--event", &number]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for words in [
        "allocated 16 pages",
        "CR3 0x",
        "2 new tables",
        "PT[511] of table 0x",
    ] {
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }
    let event = json(&heirloom(&[
        "replay",
        "--json",
        text(&file),
        "--event",
        &number,
    ]));
    assert_eq!(event["new_tables"].as_array().unwrap().len(), 2);
    assert_eq!(event["told"]["kind"], "kernel-mapped");

    let none = heirloom(&["replay", text(&file), "--event", "4711"]);
    assert_eq!(none.code, Some(2));
    assert!(
        none.stderr.contains("no event 4711; it has events 0 to "),
        "{}",
        none.stderr
    );
}

#[test]
fn on_kvm_every_inspection_works_on_a_moment_of_a_recording_and_two_of_them_compare() {
    let (_directory, file) = file();
    heirloom(&["run", "--record", text(&file)]);
    let list = json(&heirloom(&["replay", "--json", text(&file)]));
    let events = list["events"].as_array().unwrap();
    let crossing = events
        .iter()
        .find(|event| {
            event["what"]
                .as_str()
                .unwrap()
                .contains("allocated 16 pages")
        })
        .unwrap();
    let number = crossing["event"].as_u64().unwrap();
    let at = |number: u64| format!("rec:{}@{number}", file.display());
    let inspect = |arguments: &[&str], words: &[&str]| {
        let run = heirloom(arguments);
        assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
        for words in words {
            assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
        }
    };
    let (before, after) = (at(number - 1), at(number));
    // Opened apart from each other, they share nothing; what changed is what the event did.
    inspect(
        &["diff", &before, &after],
        &[
            "tables: 2 new, 0 gone",
            "PT[511] in frame 0x",
            "–0xffffc97fffffffff vmalloc ",
            "mapped: nothing → 0x",
        ],
    );
    inspect(&["diff", &after, &after], &["nothing changed"]);
    inspect(
        &["check", &after],
        &[
            "HOLDS: 16 of 20 rules hold, 4 not tried: no user root",
            "; in all 9 live roots (",
        ],
    );
    inspect(&["roots", &after], &[" 8 process", "the guest says so"]);
    inspect(&["layout", &after], &["direct map", "0xffff888000000000"]);
    inspect(&["maps", &after, "--kernel"], &["vmalloc"]);
    inspect(
        &["translate", &after, "0xffffc98000000000"],
        &["PGD[403]", " page 0x"],
    );

    // Without an event it is the last: all processes have ended.
    let whole = format!("rec:{}", file.display());
    inspect(&["roots", &whole], &["1 kernel"]);
    let none = heirloom(&["roots", &at(4711)]);
    assert_eq!(none.code, Some(2));
    assert!(none.stderr.contains("no event 4711"), "{}", none.stderr);
}

#[test]
fn on_kvm_whatever_processes_there_are_a_recording_is_of_our_own_guest() {
    let (_directory, file) = file();
    let run = heirloom(&["-q", "run", "--record", text(&file)]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    // The kernel's root alone; process 1; a family; the kernel's root alone again.
    for event in [0, 1, 50, 88] {
        let target = format!("rec:{}@{event}", text(&file));
        let roots = json(&heirloom(&["roots", &target, "--json"]));
        assert_eq!(roots["target"]["profile"]["name"], "heirloom", "{target}");
        assert_eq!(heirloom(&["check", &target]).code, Some(0), "{target}");
    }
}

#[test]
fn on_kvm_a_booted_kernel_is_recorded_as_one_moment_and_inspected_from_there() {
    let (directory, file) = file();
    let guest = directory.path().join("guest");
    assert_eq!(heirloom(&["extract", text(&guest)]).code, Some(0));
    let kernel = guest.join("heirloom-kernel");
    let boot = [
        "boot",
        text(&kernel),
        "--memory",
        "64M",
        "--until",
        "MiB of RAM",
    ];
    let live = heirloom(&[&boot[..], &["--record", text(&file)]].concat());
    let target = format!("rec:{}", file.display());
    let played = heirloom(&["check", &target]);
    assert_eq!(played.code, live.code, "{}\n{}", live.stderr, played.stderr);
    let verdict = |run: &Run| run.stdout.lines().last().unwrap().to_owned();
    assert_eq!(verdict(&live), verdict(&played));
    let replay = heirloom(&["replay", text(&file)]);
    assert_eq!(replay.code, Some(0), "{}", replay.stderr);
    assert!(replay.stdout.contains("\n1 moment; "), "{}", replay.stdout);
    assert!(replay.stdout.contains(" new tables"), "{}", replay.stdout);
}
