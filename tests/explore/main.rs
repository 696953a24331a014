//! The explorer in a real browser: what a reader does with it, by mouse and by keyboard alone; how it
//! looks; how much it holds; and that it walks as the inspector does.

#[path = "../common/mod.rs"]
mod common;

mod agreement;
mod command;
mod hostile;
mod load;
mod pictures;
mod reader;
mod screens;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::browser::Browser;
use common::heirloom;
use heirloom_explorer::{Timeline, render};
use tempfile::TempDir;

/// The page of a run with this strategy, made once for all tests of this file.
fn page_of(strategy: &'static str) -> &'static Path {
    static PAGES: OnceLock<TempDir> = OnceLock::new();
    static MADE: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let directory = PAGES.get_or_init(|| tempfile::tempdir().unwrap()).path();
    let (slot, code) = match strategy {
        "prealloc" => (0, 0),
        "copy-all" => (1, 0),
        _ => (2, 1),
    };
    MADE[slot].get_or_init(|| {
        let path = directory.join(format!("{strategy}.html"));
        let run = heirloom(&[
            "run",
            "--propagation",
            strategy,
            "--html",
            path.to_str().unwrap(),
        ]);
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        path
    })
}

/// The number of the first moment whose event satisfies a JavaScript condition on `event`.
fn moment_where(browser: &mut Browser, condition: &str) -> u64 {
    let found = browser.eval(&format!(
        "explorer.guest.data.events.findIndex((event) => {condition})"
    ));
    found
        .as_u64()
        .unwrap_or_else(|| panic!("no event with {condition}"))
}

/// Opens the page of a timeline that a test made.
fn open_timeline(timeline: Timeline) -> Browser {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("timeline.html");
    std::fs::write(&path, render(timeline).unwrap()).unwrap();
    Browser::open(&path, "", common::browser::LAPTOP)
}
