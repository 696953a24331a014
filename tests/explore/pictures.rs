//! The README's pictures can be made again: `make screenshots` keeps what this test takes.

use std::path::PathBuf;

use crate::common::browser::Browser;
use crate::{moment_where, page_of};

/// The size of the pictures.
const SCREEN: (u32, u32) = (1280, 820);

/// Writes a screenshot to where they are wanted, or else where Cargo keeps what tests make.
fn keep(browser: &mut Browser, name: &str) {
    let folder = std::env::var_os("HEIRLOOM_SCREENSHOTS")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let png = browser.screenshot();
    // PNG (RFC 2083, 11.2.1): width and height are big-endian, behind the signature and a chunk's head.
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert!(png.starts_with(b"\x89PNG"), "{name}");
    assert_eq!((number(16), number(20)), SCREEN, "{name}");
    std::fs::write(folder.join(name), png).unwrap();
}

#[test]
fn on_kvm_the_readmes_pictures_show_a_finding_side_by_side_and_a_walk_in_the_dark() {
    let mut browser = Browser::open(page_of("none"), "", SCREEN);
    browser.prefer("light");
    browser.eval(
        "explorer.panel.go(explorer.panel.findings.all.find((finding) => finding.rule === 'propagated' && finding.whose.startsWith('process')))",
    );
    keep(&mut browser, "explorer-light.png");
    let mut browser = Browser::open(page_of("prealloc"), "", SCREEN);
    browser.prefer("dark");
    let read = moment_where(&mut browser, "event.sign === 'read' && event.number > 60");
    browser.eval(&format!("explorer.timeline.seek({read})"));
    browser.eval("explorer.grid.focus()");
    keep(&mut browser, "explorer-dark.png");
}
