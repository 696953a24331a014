//! `--kernel FILE` of `lecture`, `bugs` and `lab`: the kernel in the file is what runs there, too.

use std::fs;

use heirloom_abi::bugs::Bug;
use serde_json::Value;

use crate::common::guest::extract;
use crate::common::{Run, heirloom};
use crate::kernels::Wrong;

/// Commands that boot a few guests each.
const COMMANDS: [&[&str]; 3] = [
    &["lecture", "--claim", "7"],
    &["bugs", "--run", "user-bit"],
    &[
        "lab",
        "--strategies=prealloc",
        "--processes=1,2,4",
        "--allocations=2",
    ],
];

fn with_kernel(command: &[&str], kernel: &str) -> Run {
    heirloom(&[command, &["--json", "--kernel", kernel]].concat())
}

#[test]
fn on_kvm_lecture_bugs_and_lab_run_the_kernel_that_is_named_and_refuse_one_that_is_cut_off() {
    let guest = extract();
    let kernel = guest.kernel.to_str().unwrap();
    for command in COMMANDS {
        let run = with_kernel(command, kernel);
        assert_eq!(run.code, Some(0), "{command:?}: {}", run.said());
    }
    let whole = fs::read(kernel).unwrap();
    fs::write(kernel, &whole[..whole.len() / 8]).unwrap();
    for command in COMMANDS {
        let run = with_kernel(command, kernel);
        assert_eq!(run.code, Some(2), "{command:?}: {}", run.said());
        assert!(run.stderr.contains(kernel), "{command:?}: {}", run.stderr);
    }
}

#[test]
fn on_kvm_a_students_mistake_fails_the_lectures_claim_and_shows_in_the_lab() {
    let wrong = Wrong::new(Bug::ChildCopiesTable);
    let run = with_kernel(COMMANDS[0], wrong.kernel.to_str().unwrap());
    assert_eq!(run.code, Some(1), "{}", run.said());
    let lecture: Value = serde_json::from_str(&run.stdout).unwrap();
    let objections = lecture["claims"][0]["objections"].to_string();
    assert!(objections.contains("process 2 should read"), "{objections}");
    // A bug that is asked for takes the place of the mistake, and is caught by its own rule.
    let run = with_kernel(COMMANDS[1], wrong.kernel.to_str().unwrap());
    assert_eq!(run.code, Some(0), "{}", run.said());
    // The lab counts the tables that each child has of its own.
    let sound = extract();
    let [sound, wrong] = [&sound.kernel, &wrong.kernel].map(|kernel| {
        let run = with_kernel(COMMANDS[2], kernel.to_str().unwrap());
        assert_eq!(run.code, Some(0), "{}", run.said());
        let lab: Value = serde_json::from_str(&run.stdout).unwrap();
        lab["growth"][0]["laws"]["kernel-table-frames"].clone()
    });
    assert_eq!(sound["class"], "O(1)");
    assert_eq!(wrong["class"], "O(N)");
}
