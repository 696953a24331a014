//! The command: where pages come from, and what it says when something is wrong.

use assert_cmd::Command;

use crate::common::browser::{Browser, LAPTOP};
use crate::common::{heirloom, limited};

#[test]
fn on_kvm_a_recording_gives_the_same_page_as_the_run_that_it_is_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (live, recording, replayed) = (path("live.html"), path("run.rec"), path("replayed.html"));
    let run = heirloom(&[
        "explore",
        "--propagation",
        "sync",
        "--html",
        &live,
        "--record",
        &recording,
    ]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("events"), "{}", run.stderr);
    let again = heirloom(&["explore", &format!("rec:{recording}"), "--html", &replayed]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    assert!(read(&live) == read(&replayed), "the two pages differ");

    // One moment of it is a page without a timeline.
    let moment = path("moment.html");
    let one = heirloom(&["explore", &format!("rec:{recording}@40"), "--html", &moment]);
    assert_eq!(one.code, Some(0), "{}", one.stderr);
    let mut browser = Browser::open(moment.as_ref(), "", LAPTOP);
    assert!(browser.text("#spaces").contains("process 1"));
    assert!(browser.text(".pane header").contains("kernel half"));
    browser.is_content();
}

#[test]
fn what_is_missing_or_cannot_be_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.html");
    let page = page.to_str().unwrap();
    for (arguments, code, words) in [
        (vec!["explore"], 2, "--html"),
        (vec!["explore", "nonsense", "--html", page], 2, "core:FILE"),
        (
            vec!["explore", "rec:/nowhere", "--html", page],
            2,
            "/nowhere",
        ),
        (
            vec!["explore", "core:x", "--propagation", "sync", "--html", page],
            2,
            "cannot be used with",
        ),
        (
            vec!["explore", "--html", "/nowhere/page.html"],
            2,
            "could not write the page /nowhere/page.html",
        ),
    ] {
        let run = heirloom(&arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{arguments:?}: {}", run.stderr);
        assert!(!std::fs::exists(page).unwrap(), "{arguments:?}");
    }
}

#[test]
fn on_kvm_without_a_browser_the_page_is_written_and_the_command_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.html");
    let run = limited(
        Command::new(env!("CARGO_BIN_EXE_heirloom"))
            .args(["explore", "--open", "--html"])
            .arg(&page)
            .env("PATH", directory.path()),
    );
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(
        run.stderr.contains("xdg-open cannot be started")
            && run.stderr.contains("in a browser yourself"),
        "{}",
        run.stderr
    );
    assert!(page.exists());
}
