//! What the end-to-end tests share: the command run under a time limit, and what it said.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod browser;
pub(crate) mod corrupted;
pub(crate) mod events;
pub(crate) mod guest;
pub(crate) mod kvm;
pub(crate) mod linux;
pub(crate) mod machine;
pub(crate) mod others;
pub(crate) mod program;
pub(crate) mod promises;

use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;

/// Far more than any of these runs needs on a busy machine, so that one that hangs fails instead of holding
/// up the rest.
pub(crate) const AMPLE: Duration = Duration::from_secs(600);

/// How a command ended.
pub(crate) struct Run {
    /// `None` where a signal ended it, as the time limit does.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Standard error without the lines that say how far a run is which takes seconds, as on a busy machine any
    /// may: `heirloom: 5 s, 33 events judged`.
    pub(crate) fn said(&self) -> String {
        let is_progress = |line: &str| {
            line.strip_prefix("heirloom: ")
                .map(|rest| rest.trim_start_matches(|digit: char| digit.is_ascii_digit()))
                .is_some_and(|rest| rest.starts_with(" s,") || rest.trim_end() == " s")
        };
        let lines = self.stderr.split_inclusive('\n');
        lines.filter(|line| !is_progress(line)).collect()
    }
}

/// Runs `heirloom ARGUMENTS`.
///
/// # Panics
/// If this host has no usable KVM: these tests fail without it, they are never skipped.
pub(crate) fn heirloom(arguments: &[&str]) -> Run {
    let run = limited(
        Command::new(env!("CARGO_BIN_EXE_heirloom"))
            .args(arguments)
            .env_remove("RUST_LOG"),
    );
    assert_ne!(
        run.code,
        Some(3),
        "this test needs a host that can run heirloom: {}",
        run.stderr
    );
    run
}

/// Runs `heirloom -v run --json ARGUMENTS`; also the report.
///
/// # Panics
/// If it is no JSON.
pub(crate) fn heirloom_json(arguments: &[&str]) -> (Run, Value) {
    let run = heirloom(&[&["-v", "run", "--json"], arguments].concat());
    let report = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}, in: {}\n{}", run.stdout, run.stderr));
    (run, report)
}

/// Runs `command` until it ends, or [`AMPLE`] is over.
pub(crate) fn limited(command: &mut Command) -> Run {
    let output = command.timeout(AMPLE).output().unwrap();
    // A serial console ends its lines with both.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    Run {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}
