//! Pictures: those of the README, and some to be looked at.

use std::path::PathBuf;

use crate::common::browser::{Browser, LAPTOP, PHONE};
use crate::{moment_where, page_of};

/// Where screenshots go, if any are wanted.
fn gallery() -> PathBuf {
    std::env::var_os("HEIRLOOM_SCREENSHOTS")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

fn keep(browser: &mut Browser, name: &str) {
    std::fs::write(gallery().join(name), browser.screenshot()).unwrap();
}

/// `make screenshots`.
#[test]
#[ignore = "writes the README's screenshots"]
fn screenshots_for_the_readme() {
    let mut browser = Browser::open(page_of("none"), "", (1280, 820));
    browser.prefer("light");
    browser.eval(
        "explorer.panel.go(explorer.panel.findings.all.find((finding) => finding.rule === 'propagated' && finding.whose.startsWith('process')))",
    );
    keep(&mut browser, "explorer-light.png");
    let mut browser = Browser::open(page_of("prealloc"), "", (1280, 820));
    browser.prefer("dark");
    let read = moment_where(&mut browser, "event.kind === 'read' && event.number > 60");
    browser.eval(&format!("explorer.timeline.seek({read})"));
    browser.eval("explorer.grid.focus()");
    keep(&mut browser, "explorer-dark.png");
}

/// Many views at once, to be looked at.
#[test]
#[ignore = "writes pictures to be looked at"]
fn gallery_of_views() {
    for (name, screen, scheme, script) in [
        ("phone", PHONE, "light", "0"),
        (
            "phone-dark",
            PHONE,
            "dark",
            "explorer.view.compare(explorer.world.event.who)",
        ),
        (
            "tablet",
            (820, 1180),
            "light",
            "explorer.view.find(0xffffc98000000000n)",
        ),
        (
            "wide",
            (1920, 1080),
            "dark",
            "explorer.view.compare(explorer.world.event.who); explorer.view.find(0xffffc98000000000n)",
        ),
        (
            "frame",
            LAPTOP,
            "light",
            "explorer.view.find(0xffff888000005123n); explorer.view.enter()",
        ),
        (
            "help",
            LAPTOP,
            "dark",
            "document.getElementById('help').showModal()",
        ),
        (
            "pt",
            LAPTOP,
            "dark",
            "explorer.view.find(0xffffc97ffffff000n)",
        ),
    ] {
        let mut browser = Browser::open(page_of("none"), "", screen);
        browser.prefer(scheme);
        browser.eval(&format!("{script}; 0"));
        keep(&mut browser, &format!("{name}.png"));
    }
}
