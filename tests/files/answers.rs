//! What `heirloom` answers about a file, and how two answers compare.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::heirloom;

/// Runs `heirloom ARGUMENTS --json`: the exit code and the report.
///
/// # Panics
/// If it prints no JSON.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, Value) {
    let run = heirloom(&[arguments, &["--json"]].concat());
    let report = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}, in: {}{}", run.stdout, run.stderr));
    (run.code, report)
}

/// All that is asked about a target, without what each file says of itself: its name, its notes.
#[derive(Debug, PartialEq)]
pub(crate) struct Answers {
    roots: Value,
    check: Value,
    maps: Value,
    translations: Vec<Value>,
}

/// What all kernels map, and what none does.
const ADDRESSES: [&str; 2] = ["0xfffffe0000000000", "0xffffdead00000000"];

impl Answers {
    /// Asks.
    ///
    /// # Panics
    /// If a rule is broken, or anything else keeps `heirloom` from answering.
    pub(crate) fn of(target: &str) -> Answers {
        let ask = |arguments: &[&str]| {
            let (code, report) = run(arguments);
            let answered = arguments[0] == "translate" || code == Some(0);
            assert!(answered, "{arguments:?}: {code:?}: {report}");
            report
        };
        let check = ask(&["check", target]);
        assert_eq!(check["holds"], json!(true), "{target}: {check}");
        Answers {
            roots: without_itself(ask(&["roots", target])),
            check: without_itself(check),
            maps: without_itself(ask(&["maps", target, "--root", "kernel"])),
            translations: ADDRESSES
                .iter()
                .map(|address| {
                    without_itself(ask(&["translate", target, address, "--root", "kernel"]))
                })
                .collect(),
        }
    }
}

impl Answers {
    /// Every address space, and in which cluster it is.
    pub(crate) fn spaces(&self) -> &Value {
        &self.roots["roots"]
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.spaces().as_array().unwrap().len()
    }

    /// What the kernel's own root maps.
    pub(crate) fn maps(&self) -> Value {
        without_target(&self.maps)
    }

    /// Every walk.
    pub(crate) fn translations(&self) -> Vec<&Value> {
        self.translations
            .iter()
            .map(|report| &report["walk"])
            .collect()
    }
}

fn without_target(report: &Value) -> Value {
    let mut report = report.clone();
    report.as_object_mut().unwrap().remove("target");
    report
}

/// A report without the target's name and the notes; its CPUs, mode and RAM stay.
fn without_itself(mut report: Value) -> Value {
    let target = report["target"].as_object_mut().unwrap();
    target.remove("name");
    target.remove("notes");
    report.as_object_mut().unwrap().remove("notes");
    report
}

/// The notes of a check.
pub(crate) fn notes(target: &str) -> Vec<String> {
    let (_, report) = run(&["check", target]);
    serde_json::from_value(report["notes"].clone()).unwrap()
}

/// A path as an argument.
pub(crate) fn named(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
