//! The explorer's page of a real Linux: its roots in clusters, KPTI pairs together, five levels.

use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use crate::common::browser::{Browser, LAPTOP};
use crate::common::heirloom;
use crate::common::linux::Variant;
use crate::image::Image;

fn page_of(variant: Variant) -> (PathBuf, TempDir) {
    let image = Image::of(variant);
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("linux.html");
    let run = heirloom(&["explore", &image.target(), "--html", page.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    (page, directory)
}

#[test]
fn with_kpti_each_process_stands_with_its_user_root_which_has_little_of_the_kernel() {
    let (page, _directory) = page_of(Variant::PTI_ON);
    let mut browser = Browser::open(&page, "", LAPTOP);
    let ready = browser.eval("Number(document.documentElement.dataset.ready)");
    println!("there after {ready} ms");
    assert!(ready.as_f64().unwrap() < 2000.0, "{ready} ms");
    let image = Image::of(Variant::PTI_ON);
    let processes = image.guest.listing.with_memory().count();
    let pairs = browser.eval("explorer.guest.spaces.filter((space) => space.kind.startsWith('user root') && space.parent !== undefined).length");
    assert!(
        pairs.as_u64().unwrap() >= processes as u64,
        "{pairs} pairs of {processes} processes"
    );
    // Side by side: the kernel root maps the direct map's first page, its user root does not.
    let user = browser.eval("explorer.guest.spaces.find((space) => space.kind === 'user root' && space.parent !== undefined).id");
    let kernel = browser.eval(&format!("explorer.guest.spaces[{user}].parent"));
    browser.eval(&format!(
        "document.querySelector('.space[data-space=\"{kernel}\"]').scrollIntoView()"
    ));
    browser.click(&format!(".space[data-space='{kernel}']"));
    browser.click(&format!(".space[data-space='{user}'] .beside"));
    browser.eval("explorer.view.find(explorer.guest.regions.find((region) => region.name === 'direct map').first)");
    assert!(
        browser
            .text("#panes .pane:nth-child(1) .walk")
            .contains("page")
    );
    assert!(
        browser
            .text("#panes .pane:nth-child(2) .walk")
            .contains("not present in the")
    );
    assert_eq!(
        browser.eval("document.getElementById('timeline').hidden"),
        json!(true)
    );
    browser.is_content();
}

#[test]
fn with_five_levels_an_address_is_cut_into_five_indices() {
    let (page, _directory) = page_of(Variant::LA57_PTI_OFF);
    let mut browser = Browser::open(&page, "", LAPTOP);
    browser.press(&["/"]);
    browser.type_text("0xffffffff81000000");
    browser.press(&["Enter"]);
    let fields = browser.text("#bits .fields");
    for words in [
        "63–57 1111111 sign extension",
        "56–48",
        "PML5[511]",
        "PML4[511]",
        "PDPT[510]",
        "PD[8]",
    ] {
        assert!(fields.contains(words), "no `{words}` in: {fields}");
    }
    assert!(
        browser
            .text("#bits .why")
            .contains("begins at 0xff00000000000000")
    );
    browser.is_content();
}
