//! Recordings of real runs: judged again from the file, they come to what the live run came to.

mod common;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    let record = ["run", "--json", "--record", text(&file)];
    let live = heirloom(&[&record, arguments].concat());
    let replay = heirloom(&["replay", "--json", text(&file)]);
    assert_eq!(live.code, replay.code, "{arguments:?}: {}", replay.stderr);
    let played = json(&replay);
    assert_eq!(json(&live), played["report"], "{arguments:?}");
    let said = |run: &Run| {
        run.stderr
            .find("heirloom: ")
            .map(|at| run.stderr[at..].to_owned())
    };
    assert_eq!(said(&live), said(&replay), "{arguments:?}");
    let events = played["events"].as_array().unwrap().len() as u64;
    assert_eq!(played["report"]["events"], events, "{arguments:?}");
    played
}

#[test]
fn every_strategys_verdict_is_the_same_from_the_recording() {
    for strategy in heirloom_abi::options::Strategy::ALL {
        let name = strategy.name();
        let played = assert_same_verdict(&["--propagation", name]);
        assert_eq!(played["report"]["propagation"], name);
        assert_eq!(played["report"]["holds"], name != "none");
    }
}

#[test]
fn the_verdict_on_bugs_of_every_kind_is_the_same_from_the_recording() {
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
fn a_guest_that_is_killed_for_what_it_did_is_replayed_with_its_exit_code() {
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
fn a_replay_lists_every_event_and_ends_with_the_live_runs_report() {
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
fn one_event_is_shown_with_the_entries_that_it_changed() {
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
fn a_file_that_exists_is_not_overwritten_and_nothing_is_run() {
    let (_directory, file) = file();
    fs::write(&file, "precious").unwrap();
    let run = heirloom(&["run", "--record", text(&file)]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("not overwritten"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn where_nothing_can_be_written_it_is_said_before_the_run() {
    for file in ["/dev/full", "/nonexistent/run.rec"] {
        let run = heirloom(&["run", "--record", file]);
        assert_eq!(run.code, Some(2));
        assert!(run.stderr.contains(file), "{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn a_recording_that_breaks_off_does_not_cost_the_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || {
            // Reads a little and goes away.
            let mut bytes = [0; 500];
            fs::File::open(pipe)
                .unwrap()
                .read_exact(&mut bytes)
                .unwrap();
        })
    };
    let run = heirloom(&["run", "--record", text(&pipe)]);
    reader.join().unwrap();
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stdout.contains("\nHOLDS: "), "{}", run.stdout);
    assert!(
        run.stderr.contains("could not go on with the recording"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("pipe"), "{}", run.stderr);
}

/// Starts a long run that is recorded, and waits until the recording has grown.
fn long_run(file: &Path) -> std::process::Child {
    let child = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args([
            "run",
            "--processes",
            "1000",
            "--timeout",
            "100",
            "--record",
            text(file),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while fs::metadata(file).map_or(0, |file| file.len()) < 30_000 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "nothing is recorded"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn a_recording_is_read_while_it_grows_and_after_ctrl_c() {
    let (_directory, file) = file();
    let mut child = long_run(&file);
    let growing = heirloom(&["replay", text(&file)]);
    assert_eq!(growing.code, Some(4), "{}", growing.stderr);
    assert!(
        growing.stderr.contains("was not ended"),
        "{}",
        growing.stderr
    );
    assert!(
        growing.stdout.contains("process 1 is the first"),
        "{}",
        growing.stdout
    );

    let kill = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let stopped = heirloom(&["replay", text(&file)]);
    assert_eq!(stopped.code, Some(4), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("interrupted"), "{}", stopped.stderr);
    assert!(
        stopped.stdout.contains("BROKEN OFF: "),
        "{}",
        stopped.stdout
    );
}

#[test]
fn a_recording_whose_writer_was_killed_is_read_up_to_there() {
    let (_directory, file) = file();
    let mut child = long_run(&file);
    child.kill().unwrap();
    child.wait().unwrap();
    let replay = heirloom(&["replay", "--json", text(&file)]);
    assert!(matches!(replay.code, Some(2 | 4)), "{}", replay.stderr);
    assert!(json(&replay)["events"].as_array().unwrap().len() > 20);
}

#[test]
fn a_recording_that_was_cut_or_damaged_is_shown_up_to_there_and_called_so() {
    let (directory, file) = file();
    heirloom(&["run", "--record", text(&file)]);
    let whole = fs::read(&file).unwrap();
    let half = whole.len() / 2;
    let mut damaged = whole.clone();
    damaged[half] ^= 1;
    for (bytes, words) in [
        (&whole[..half], "is cut: "),
        (&damaged[..], "is damaged at byte "),
    ] {
        let file = directory.path().join("broken.rec");
        fs::write(&file, bytes).unwrap();
        let replay = heirloom(&["replay", text(&file)]);
        assert_eq!(replay.code, Some(2), "{}", replay.stderr);
        assert!(replay.stderr.contains(words), "{}", replay.stderr);
        assert!(replay.stdout.contains("BROKEN OFF: "), "{}", replay.stdout);
        assert!(
            replay.stdout.contains("process 1 is the first"),
            "{}",
            replay.stdout
        );
    }
    let none = heirloom(&["replay", env!("CARGO_BIN_EXE_heirloom")]);
    assert_eq!(none.code, Some(2));
    assert!(none.stderr.contains("no recording"), "{}", none.stderr);
}

#[test]
fn every_inspection_works_on_a_moment_of_a_recording_and_two_of_them_compare() {
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
    inspect(&["check", &after], &["HOLDS: all "]);
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
fn a_booted_kernel_is_recorded_as_one_moment_and_inspected_from_there() {
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

/// The recordings in a directory, by name.
fn recordings(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn each_run_of_the_bugs_has_a_recording_that_is_judged_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let tapes = directory.path().join("tapes");
    let bugs = ["child-misses-entry", "sync-skips-one"];
    let run = heirloom(&[&["bugs", "--run", "--record", text(&tapes)], &bugs[..]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let files = recordings(&tapes);
    assert_eq!(files.len(), 2);
    for (file, bug) in files.iter().zip(bugs) {
        let replay = heirloom(&["replay", "--json", text(file)]);
        assert_eq!(replay.code, Some(1), "{}", replay.stderr);
        assert_eq!(json(&replay)["bug"], bug);
    }
    // A second time, nothing is overwritten; the matrix is shown all the same.
    let again = heirloom(&[&["bugs", "--run", "--record", text(&tapes)], &bugs[..]].concat());
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("not overwritten"), "{}", again.stderr);
    assert!(again.stdout.contains("2 of 2 kernels"), "{}", again.stdout);
}

#[test]
fn the_cells_of_the_lab_are_recorded_at_every_event_and_hold_every_rule() {
    let directory = tempfile::tempdir().unwrap();
    let tapes = directory.path();
    let lab = [
        "lab",
        "--json",
        "--strategies",
        "sync,fault",
        "--processes",
        "1,3",
    ];
    let size = ["--memory", "64M", "--allocations", "4"];
    let plain = heirloom(&[&lab[..], &size].concat());
    let recorded = heirloom(&[&lab[..], &size, &["--record", text(tapes)]].concat());
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    // Recording changes nothing that is counted.
    let counts =
        |run: &Run| json(run)["cells"][3]["phases"][0]["counted"]["kernel_entry_writes"].clone();
    assert_eq!(counts(&plain), counts(&recorded));
    let files = recordings(tapes);
    assert_eq!(files.len(), 4);
    for file in files {
        let replay = heirloom(&["replay", "--json", text(&file)]);
        assert_eq!(
            replay.code,
            Some(0),
            "{}: {}",
            file.display(),
            replay.stderr
        );
        let events = json(&replay)["events"].as_array().unwrap().clone();
        assert!(events.iter().all(|event| event["roots"].is_number()));
    }
}

#[test]
fn the_experiments_of_a_claim_are_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let lecture = heirloom(&[
        "lecture",
        "--claim",
        "8",
        "--record",
        text(directory.path()),
    ]);
    assert_eq!(lecture.code, Some(0), "{}", lecture.stderr);
    let files = recordings(directory.path());
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let expected = if name.contains("-none-") {
            Some(1)
        } else {
            Some(0)
        };
        let replay = heirloom(&["replay", text(&file)]);
        assert_eq!(replay.code, expected, "{name}: {}", replay.stderr);
    }
}
