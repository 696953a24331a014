//! The guest kernel's list of its deliberate bugs holds against the places where it asks for them, and
//! both against the abi's list.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use heirloom_abi::bugs;

/// A deliberate bug (by its name) in a function of a file.
type Place = (String, String, String);

const INDEX: &str = "fault_injection.rs";

fn kernel() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/src")
}

/// Every Rust file of the kernel: its path below `src`, and its text.
fn sources() -> Vec<(String, String)> {
    let root = kernel();
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                sources.push((name.to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources
}

/// The rows of the table in the index's documentation.
fn listed() -> Vec<Place> {
    let text = fs::read_to_string(kernel().join(INDEX)).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .map(|row| {
            let columns: Vec<&str> = row
                .split('|')
                .map(|column| column.trim().trim_matches('`'))
                .collect();
            let [bug, file, function, ""] = columns[..] else {
                panic!("not a row of bug, file and function: {row}");
            };
            (bug.to_owned(), file.to_owned(), function.to_owned())
        })
        .collect()
}

/// The word that `keyword` introduces in a line of code: `fn name(…)`, `Bug::Name`.
fn word_behind<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(keyword)?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
}

/// Every call of `inject`, in which function of which file.
fn called() -> Vec<Place> {
    let mut called = Vec::new();
    for (file, text) in sources() {
        if file == INDEX {
            continue;
        }
        let mut function = "";
        for line in text.lines() {
            let code = line.split("//").next().unwrap_or_default();
            let begins = code.trim_start().starts_with("fn ");
            if let Some(name) = word_behind(code, if begins { "fn " } else { " fn " }) {
                function = name;
            }
            for call in code.split("inject(").skip(1) {
                let bug = word_behind(call, "Bug::").unwrap_or_else(|| panic!("{file}: {line}"));
                let info = bugs::ALL
                    .iter()
                    .find(|info| format!("{:?}", info.bug) == bug)
                    .unwrap_or_else(|| panic!("{file}: the abi has no bug {bug}"));
                called.push((info.name.to_owned(), file.clone(), function.to_owned()));
            }
        }
    }
    called
}

#[test]
fn the_index_lists_every_place_where_the_kernel_asks_for_a_bug_and_no_other() {
    let (listed, called) = (listed(), called());
    let unique: BTreeSet<&Place> = listed.iter().collect();
    assert_eq!(unique.len(), listed.len(), "a row stands twice");
    assert_eq!(unique, called.iter().collect());
}

#[test]
fn every_bug_of_the_abi_has_a_place_in_the_kernel() {
    let called: BTreeSet<String> = called().into_iter().map(|(bug, ..)| bug).collect();
    let known = bugs::ALL.iter().map(|info| info.name.to_owned());
    assert_eq!(called, known.collect());
}

#[test]
fn bugs_are_asked_for_through_the_one_interface_only() {
    for (file, text) in sources() {
        for line in text.lines() {
            let others = line
                .replace("inject(Bug::", "")
                .replace("Bug::from_name", "");
            assert!(!others.contains("Bug::"), "{file}: {line}");
        }
    }
}
