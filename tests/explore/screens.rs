//! How it looks: colours with enough contrast, and room on every screen.

use serde_json::json;

use crate::common::browser::{Browser, CONTRAST, LAPTOP, PHONE};
use crate::page_of;

#[test]
fn on_kvm_light_and_dark_follow_the_system_and_the_switch_with_enough_contrast() {
    let mut browser = Browser::open(page_of("none"), "", LAPTOP);
    let ground =
        |browser: &mut Browser| browser.eval("getComputedStyle(document.body).backgroundColor");
    browser.prefer("light");
    let light = ground(&mut browser);
    assert_eq!(browser.eval(CONTRAST), json!([]), "light");
    browser.prefer("dark");
    let dark = ground(&mut browser);
    assert_ne!(light, dark);
    assert_eq!(browser.eval(CONTRAST), json!([]), "dark");
    browser.click("#theme");
    assert_eq!(ground(&mut browser), light);
    browser.prefer("light");
    browser.press(&["t"]);
    assert_eq!(ground(&mut browser), dark);
    browser.is_content();
}

#[test]
fn on_kvm_nothing_is_wider_than_the_screen_on_a_phone_or_a_laptop() {
    for screen in [PHONE, (768, 1024), LAPTOP, (1920, 1080)] {
        let mut browser = Browser::open(page_of("none"), "", screen);
        let wide = browser.eval("document.documentElement.scrollWidth > innerWidth");
        assert_eq!(wide, json!(false), "{screen:?}");
        browser.eval("explorer.view.compare(explorer.guest.event.who)");
        let wide = browser.eval("document.documentElement.scrollWidth > innerWidth");
        assert_eq!(wide, json!(false), "{screen:?} side by side");
        // A table can be used there: every entry is on the screen's width and large enough to hit.
        let smallest = browser.eval(
            "Math.min(...[...document.querySelectorAll('.pane:not([hidden]) .cell')].map((cell) => cell.getBoundingClientRect().width))",
        );
        assert!(smallest.as_f64().unwrap() >= 8.0, "{screen:?}: {smallest}");
        browser.is_content();
    }
}
