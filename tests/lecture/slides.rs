//! The lecture as slides: in the lecture's order, with pictures of real runs, read from the last row.

use std::path::PathBuf;

use serde_json::json;

use crate::common::browser::{Browser, CONTRAST, LAPTOP, PHONE};
use crate::common::heirloom;
use crate::{page_in, whole};

/// What a projector shows.
const PROJECTED: (u32, u32) = (1280, 720);

/// The whole lecture.
fn page() -> PathBuf {
    page_in(&whole().2)
}

#[test]
fn on_kvm_the_slides_come_in_the_lectures_order_each_with_its_picture_and_verdict() {
    let mut browser = Browser::open(&page(), "", PROJECTED);
    assert_eq!(browser.text(".current h1"), "Kernel Virtual Address");
    let titles = [
        ("1", "Kernel Virtual Memory"),
        ("2", "Kernel Virtual Memory"),
        ("13", "Kernel Virtual Memory"),
        ("3", "Issue of Kernel VM propagation"),
        ("12", "Issue of Kernel VM propagation"),
        ("5", "Linux strives on family values!"),
        ("4", "Linux strives on family values!"),
        ("6", "Solution overview"),
        ("7", "Solution overview"),
        ("8", "Solution overview"),
        ("9", "Virtual memory layout (x86_64)"),
        ("10", "Virtual memory layout (x86_64)"),
        ("11", "Virtual memory layout (x86_64)"),
    ];
    for (number, title) in titles {
        browser.press(&["ArrowRight"]);
        assert_eq!(browser.text(".current .title"), title);
        assert_eq!(browser.text(".current h2 .number"), number);
        let verdict = browser.text(".current .verdict");
        assert_eq!(verdict, "HOLDS", "claim {number}: {:#}", whole().1);
        let pictured = "document.querySelectorAll('.current .walked').length";
        assert_eq!(browser.eval(pictured), json!(2), "claim {number}");
        let cards = "document.querySelectorAll('.current .card').length >= 3";
        assert_eq!(browser.eval(cards), json!(true), "claim {number}");
        for found in ["What the tables showed", "What the CPU did"] {
            assert!(
                browser.text(".current .found").contains(found),
                "claim {number}"
            );
        }
        // A line that only counts one more would have had room for it.
        let found = browser.text(".current .found");
        assert!(!found.contains("and 1 more"), "claim {number}: {found}");
    }
    browser.press(&["ArrowRight", "ArrowRight"]);
    assert_eq!(browser.text("#position"), "14 / 14");
    browser.press(&["ArrowLeft"]);
    assert_eq!(browser.text(".current h2 .number"), "10");
    browser.press(&["Home"]);
    assert_eq!(browser.text("#position"), "1 / 14");
    browser.is_content();
}

#[test]
fn on_kvm_the_picture_of_the_new_entry_shows_who_has_it_and_where_the_others_walk_ends() {
    let mut browser = Browser::open(&page(), "#10", PROJECTED);
    assert_eq!(browser.text(".current h2 .number"), "8");
    let walk = |browser: &mut Browser, number: u32| {
        browser.text(&format!(".current .walked:nth-of-type({number})"))
    };
    let (has, lacks) = (walk(&mut browser, 1), walk(&mut browser, 2));
    assert!(
        has.contains("process 1") && has.contains("4 KiB page"),
        "{has}"
    );
    assert!(
        lacks.contains("process 2") && lacks.contains("not present in the PGD"),
        "{lacks}"
    );
    assert!(
        browser
            .text(".current figcaption")
            .contains("propagation=none")
    );
    browser.is_content();
}

#[test]
fn on_kvm_every_slide_fits_a_projector_and_is_read_from_the_last_row_in_light_and_dark() {
    let mut browser = Browser::open(&page(), "", PROJECTED);
    for slide in 0..14 {
        let fits = "document.documentElement.scrollHeight <= innerHeight && document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(browser.eval(fits), json!(true), "slide {slide}");
        // Type of at least 14 pixels where the screen has 720 lines.
        let small = browser.eval(
            "[...document.querySelectorAll('.current *')].filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) && parseFloat(getComputedStyle(element).fontSize) < 13.9).map((element) => element.className || element.tagName)",
        );
        assert_eq!(small, json!([]), "slide {slide}");
        // The first, one like all others, and the one that shows most.
        let schemes = if [0, 1, 10].contains(&slide) {
            &["light", "dark"][..]
        } else {
            &[]
        };
        for scheme in schemes {
            browser.prefer(scheme);
            assert_eq!(browser.eval(CONTRAST), json!([]), "slide {slide}, {scheme}");
        }
        browser.press(&["ArrowRight"]);
    }
    for screen in [PHONE, LAPTOP] {
        browser.resize(screen);
        let wide = browser.eval("document.documentElement.scrollWidth > innerWidth");
        assert_eq!(wide, json!(false), "{screen:?}");
    }
    browser.is_content();
}

#[test]
fn on_kvm_one_claim_is_one_slide_and_a_page_that_cannot_be_written_is_said_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("claim.html");
    let run = heirloom(&[
        "lecture",
        "--claim",
        "8",
        "--bug",
        "sync-skips-one",
        "--html",
        path.to_str().unwrap(),
    ]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let mut browser = Browser::open(&path, "", PROJECTED);
    assert_eq!(browser.text("#position"), "1 / 1");
    assert_eq!(browser.text(".current .verdict"), "BROKEN");
    assert!(
        browser
            .text(".current .found")
            .contains("What speaks against it")
    );
    browser.is_content();
    let run = heirloom(&["lecture", "--claim", "8", "--html", "/nodir/page.html"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("/nodir/page.html"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}
