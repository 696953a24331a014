//! Commands that make many runs record each into a file of its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Run, heirloom};
use crate::{json, text};

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
fn on_kvm_each_run_of_the_bugs_has_a_recording_that_is_judged_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("folder");
    let bugs = ["child-misses-entry", "sync-skips-one"];
    let run = heirloom(&[&["bugs", "--run", "--record", text(&folder)], &bugs[..]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let files = recordings(&folder);
    assert_eq!(files.len(), 2);
    for (file, bug) in files.iter().zip(bugs) {
        let replay = heirloom(&["replay", "--json", text(file)]);
        assert_eq!(replay.code, Some(1), "{}", replay.stderr);
        assert_eq!(json(&replay)["bug"], bug);
    }
    // A second time, nothing is overwritten; the matrix is shown all the same.
    let again = heirloom(&[&["bugs", "--run", "--record", text(&folder)], &bugs[..]].concat());
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("not overwritten"), "{}", again.stderr);
    assert!(again.stdout.contains("2 of 2 kernels"), "{}", again.stdout);
}

#[test]
fn on_kvm_the_cells_of_the_lab_are_recorded_at_every_event_and_hold_every_rule() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
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
    let recorded = heirloom(&[&lab[..], &size, &["--record", text(folder)]].concat());
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    // Recording changes nothing that is counted.
    let counts =
        |run: &Run| json(run)["cells"][3]["phases"][0]["counted"]["kernel_entry_writes"].clone();
    assert_eq!(counts(&plain), counts(&recorded));
    let files = recordings(folder);
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
fn on_kvm_the_experiments_of_a_claim_are_recorded() {
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
