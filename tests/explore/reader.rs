//! What a reader does: descends, types addresses, steps through events, compares, follows findings.

use serde_json::{Value, json};

use crate::common::browser::{Browser, LAPTOP};
use crate::{moment_where, page_of};

#[test]
fn on_kvm_a_reader_descends_from_the_pgd_to_a_page_and_up_again() {
    let mut browser = Browser::open(page_of("prealloc"), "", LAPTOP);
    // The mouse over an entry shows what it says; a click goes where it points.
    for (index, table) in [("273", "PDPT["), ("0", "PD["), ("0", "PT[")] {
        let cell = format!(".pane .cell[data-index='{index}']");
        browser.hover(&cell);
        let entry = browser.text("#entry");
        for words in [
            &format!("[{index}]"),
            "points to",
            "Shared",
            "This very table is also in",
        ] {
            assert!(entry.contains(words), "no `{words}` in: {entry}");
        }
        browser.click(&cell);
        let entry = browser.text("#entry h2");
        assert!(entry.starts_with(table), "{entry}");
    }
    browser.hover(".pane .cell[data-index='5']");
    let entry = browser.text("#entry");
    for words in [
        "PT[5]",
        "0xffff888000005000",
        "4 KiB",
        "direct map",
        "maps a 4 KiB page at 0x5000",
        "rw--",
        "Shared",
        "This very page is also in",
    ] {
        assert!(entry.contains(words), "no `{words}` in: {entry}");
    }
    browser.click(".pane .cell[data-index='5']");
    let page = browser.text(".frame");
    for words in [
        "4 KiB page at 0x5000",
        "PGD[273]",
        "PDPT[0]",
        "PD[0]",
        "PT[5]",
        "effective",
        "the kernel only",
        "address spaces have this very frame",
    ] {
        assert!(page.contains(words), "no `{words}` in: {page}");
    }
    let cards = browser.eval("document.querySelectorAll('.pane .card').length");
    assert_eq!(cards, json!(5));
    browser.press(&["Escape", "Escape"]);
    assert_eq!(browser.text("#entry h2"), "PD[0]");
    browser.press(&["Backspace", "Backspace", "Backspace"]);
    assert_eq!(browser.text("#entry h2"), "PGD[273]");
    browser.is_content();
}

#[test]
fn on_kvm_an_address_typed_is_cut_into_its_bits_and_its_walk_is_lit() {
    let mut browser = Browser::open(page_of("prealloc"), "", LAPTOP);
    browser.press(&["/"]);
    browser.type_text("0xffff888000005123");
    browser.press(&["Enter"]);
    let fields = browser.text("#bits .fields");
    for words in [
        "63–48 1111111111111111 sign extension",
        "47–39 100010001 PGD[273]",
        "38–30 000000000 PDPT[0]",
        "29–21 000000000 PD[0]",
        "20–12 000000101 PT[5]",
        "11–0 000100100011 offset+0x123",
    ] {
        assert!(
            fields.replace(' ', "").contains(&words.replace(' ', "")),
            "no `{words}` in: {fields}"
        );
    }
    let why = browser.text("#bits .why");
    assert!(
        why.contains("begins at 0xffff800000000000, not at 0x800000000000"),
        "{why}"
    );
    // Lit at every level: in each card, and in the table that is shown.
    assert_eq!(
        browser.eval("document.querySelectorAll('.card .lit').length"),
        json!(4)
    );
    assert_eq!(browser.text(".cell.lit"), "S");
    assert_eq!(
        browser.eval("document.querySelector('.cell.lit').dataset.index"),
        json!("5")
    );
    assert!(browser.text(".card.page").contains("0x5123"));
    browser.click(".card[data-depth='0']");
    assert_eq!(
        browser.eval("document.querySelector('.cell.lit').dataset.index"),
        json!("273")
    );

    for (address, words) in [
        ("0x800000000000", "Not canonical"),
        ("800000000000", "0xffff800000000000"),
        (
            "0x0000_7fff_ffff_ffff",
            "the user half is entries 0–255 and ends at 0x00007fffffffffff",
        ),
    ] {
        browser.press(&["/"]);
        browser.type_text(address);
        browser.press(&["Enter"]);
        let why = browser.text("#bits .why");
        assert!(why.contains(words), "{address}: {why}");
    }
    // Where a walk ends early, the reason stands there.
    browser.press(&["/"]);
    browser.type_text("0xffff800000000000");
    browser.press(&["Enter"]);
    assert!(browser.text(".walk").contains("not present in the PGD"));
    // What is no address is refused, and says what one looks like.
    browser.press(&["/"]);
    browser.type_text("kernel");
    browser.press(&["Enter"]);
    assert_eq!(
        browser.eval("document.getElementById('address').validity.customError"),
        json!(true)
    );
    browser.is_content();
}

#[test]
fn on_kvm_stepping_through_events_shows_the_entry_appear_the_value_read_elsewhere_and_the_revocation()
 {
    let mut browser = Browser::open(page_of("prealloc"), "", LAPTOP);
    let mapped = moment_where(&mut browser, "event.sign === 'mapped'");
    browser.eval(&format!("explorer.view.seek({})", mapped - 1));
    browser.press(&["]"]);
    let told = browser.text(".event");
    assert!(told.contains("allocated"), "{told}");
    let changes = browser.text("#changes");
    assert!(
        changes.contains(" PT[") && changes.contains("absent → page 0x"),
        "{changes}"
    );
    // The entry that appeared is one click away.
    browser.click("#changes li:nth-child(3) .change");
    assert!(browser.text("#entry h2").starts_with("PT["));
    assert_eq!(
        browser.eval("document.querySelector('.cell.cursor').classList.contains('written')"),
        json!(true)
    );
    let maker = browser.eval("explorer.guest.event.who");

    // Another process reads there what was written.
    let read = moment_where(
        &mut browser,
        &format!("event.sign === 'read' && event.who !== {maker}"),
    );
    browser.eval(&format!("explorer.view.seek({})", read - 1));
    browser.press(&["]"]);
    let told = browser.text(".event");
    let value = browser.eval("explorer.guest.event.value");
    assert!(told.contains(value.as_str().unwrap()), "{told}");
    assert!(told.contains("By its tables there: page at 0x"), "{told}");
    // Following, the page has turned to the reader.
    let reader = browser.eval("explorer.guest.spaces[explorer.guest.event.who].name");
    assert_eq!(json!(browser.text(".pane h2")), reader);

    let freed = moment_where(&mut browser, "event.sign === 'unmapped'");
    browser.eval(&format!("explorer.view.seek({})", freed - 1));
    browser.press(&["]"]);
    let changes = browser.text("#changes");
    assert!(
        changes.contains("page 0x") && changes.contains("→ absent"),
        "{changes}"
    );
    assert!(browser.text(".event").contains("not present"));

    // Back again: the tables are those of before.
    browser.press(&["["]);
    assert!(!browser.text(".event").contains("freed"));
    browser.press(&["}"]);
    assert!(browser.text(".event").contains("the run is over"));
    browser.press(&["{"]);
    assert!(browser.text(".event").contains("the kernel is up"));
    browser.click("#play");
    browser.until("explorer.guest.moment >= 2");
    browser.click("#play");
    browser.is_content();
}

#[test]
fn on_kvm_two_processes_side_by_side_show_who_has_the_entry_and_who_has_not() {
    let mut browser = Browser::open(page_of("none"), "", LAPTOP);
    let maker = browser.eval("explorer.guest.event.who");
    let lacks = browser.eval(&format!(
        "explorer.guest.live.find((space) => space.id !== {maker} && !space.reference).id"
    ));
    browser.click(&format!(".space[data-space='{maker}']"));
    browser.click(&format!(".space[data-space='{lacks}'] .beside"));
    browser.eval("explorer.view.find(0xffffc98000000000n)");
    assert_eq!(
        browser.eval("document.querySelectorAll('.pane:not([hidden])').length"),
        json!(2)
    );
    let class = |pane: u32| {
        format!("document.getElementById('cell-{pane}-403').getAttribute('aria-label')")
    };
    let has = browser.eval(&class(0));
    assert!(has.as_str().unwrap().contains("diverging"), "{has}");
    let has_not = browser.eval(&class(1));
    assert!(has_not.as_str().unwrap().contains("absent"), "{has_not}");
    let ends = browser.text("#panes .pane:nth-child(2) .walk");
    assert!(ends.contains("not present in the PGD"), "{ends}");
    let entries = browser.text("#entry");
    assert!(
        entries.contains("Diverging: absent in kernel") && entries.contains("Absent"),
        "{entries}"
    );
    // Keys change sides and close the second.
    browser.press(&["g", "x", "c"]);
    assert_eq!(
        browser.eval("document.querySelectorAll('.pane:not([hidden])').length"),
        json!(1)
    );
    browser.is_content();
}

#[test]
fn on_kvm_a_finding_leads_to_its_entry_at_its_event_with_one_who_has_it_beside() {
    let mut browser = Browser::open(page_of("none"), "", LAPTOP);
    browser.press(&["{"]);
    let count = browser.eval("explorer.guest.data.findings.length");
    assert!(count.as_u64().unwrap() >= 3, "{count}");
    let finding = browser.eval(
        "explorer.guest.data.findings.findIndex((finding) => finding.rule === 'propagated' && finding.whose.startsWith('process'))",
    );
    let place = finding.as_u64().unwrap() + 1;
    browser.click(&format!("#findings li:nth-child({place}) summary"));
    let told = browser.text(&format!("#findings li:nth-child({place})"));
    for words in [
        "propagated",
        "expected",
        "found not present in the PGD",
        "PGD[403] =",
    ] {
        assert!(told.contains(words), "no `{words}` in: {told}");
    }
    browser.click(&format!("#findings li:nth-child({place}) .go"));
    let shown = browser.text(".event");
    assert!(shown.contains("allocated 16 pages"), "{shown}");
    let wrong = browser
        .eval("document.querySelector('.pane.active .cell.cursor').getAttribute('aria-label')");
    assert!(wrong.as_str().unwrap().contains("PGD[403]"), "{wrong}");
    assert!(wrong.as_str().unwrap().contains("a finding"), "{wrong}");
    assert_eq!(
        browser.eval("document.querySelectorAll('.pane:not([hidden])').length"),
        json!(2)
    );
    let beside = browser.text("#panes .pane:first-child .walk");
    assert!(
        beside.contains("PGD[403]") && beside.contains("page"),
        "{beside}"
    );
    browser.is_content();
}

#[test]
fn on_kvm_everything_can_be_reached_by_keyboard_alone() {
    let mut browser = Browser::open(page_of("none"), "", LAPTOP);
    let focus = |browser: &mut Browser| {
        browser.eval("document.activeElement.dataset.index ?? document.activeElement.dataset.space ?? document.activeElement.id")
    };
    // `g` goes to the table; arrows move in it, by columns of 32.
    browser.press(&["g"]);
    browser.eval("explorer.view.point(273); explorer.grid.focus()");
    browser.press(&["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"]);
    assert_eq!(focus(&mut browser), json!("273"));
    browser.press(&["PageDown"]);
    let next = focus(&mut browser);
    assert_eq!(next, json!("402"));
    browser.press(&["Enter"]);
    assert!(browser.text("#entry h2").starts_with("PDPT["));
    browser.press(&["End", "Home", "Escape"]);
    assert_eq!(focus(&mut browser), json!("402"));
    // Only one cell of a table is a stop of the Tab key.
    assert_eq!(
        browser
            .eval("document.querySelectorAll('.pane:not([hidden]) .cell[tabindex=\"0\"]').length"),
        json!(1)
    );
    // Tab backwards from the table reaches the tree; there, arrows choose and `c` compares.
    browser.eval("document.querySelector('.space[tabindex=\"0\"]').focus()");
    browser.press(&["Home", "ArrowDown", "Enter"]);
    assert_eq!(browser.text(".pane h2"), "process 1");
    browser.press(&["ArrowDown", "c"]);
    assert_eq!(browser.eval("explorer.view.panes.length"), json!(2));
    browser.press(&["c"]);
    assert_eq!(browser.eval("explorer.view.panes.length"), json!(1));
    // The keys are told by `?`, and Escape closes that again.
    browser.press(&["?"]);
    assert_eq!(
        browser.eval("document.getElementById('help').open"),
        json!(true)
    );
    browser.press(&["Escape"]);
    browser.until("!document.getElementById('help').open");
    // Whatever has the focus shows it.
    browser.press(&["g", "ArrowRight"]);
    assert_ne!(
        browser.eval("getComputedStyle(document.activeElement).outlineStyle"),
        json!("none")
    );
    browser.is_content();
}

#[test]
fn on_kvm_copies_that_map_the_same_are_told_from_shared_tables() {
    let mut browser = Browser::open(page_of("copy-all"), "", LAPTOP);
    let marks: Value = browser.eval(
        "[...document.querySelectorAll('.space:not([hidden])')].filter((row) => !row.classList.contains('ended')).map((row) => row.querySelector('.mark').dataset.mark)",
    );
    let marks: Vec<&str> = marks
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(marks[0], "reference");
    assert!(marks[1..].iter().all(|mark| *mark == "copies"), "{marks:?}");
    browser.click(".space:not([hidden]):not(.ended)[data-space='1']");
    let states = browser.eval("[...explorer.sharing.states(explorer.view.space, [])].slice(256).filter((state) => state !== 0)");
    assert!(
        states
            .as_array()
            .unwrap()
            .iter()
            .all(|state| *state == json!(2)),
        "{states}"
    );
    browser.is_content();
}
