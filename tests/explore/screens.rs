//! How it looks: colours with enough contrast, and room on every screen.

use serde_json::json;

use crate::common::browser::{Browser, LAPTOP, PHONE};
use crate::page_of;

/// Relative luminance and contrast as WCAG 2 defines them, of the texts that are seen.
const CONTRAST: &str = r"(() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (colour) => colour.slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour[3] > 250) return colour;
        }
        return rgb(getComputedStyle(document.documentElement).getPropertyValue('--paper'));
    };
    const poor = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest('script, style, svg, option, dialog')) continue;
        const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        const large = element.matches('.cell') ? 3 : 4.5;
        if (ratio < large) poor.push(`${element.className} ${element.textContent.slice(0, 20)}: ${ratio.toFixed(2)}`);
    }
    return [...new Set(poor)].slice(0, 20);
})()";

#[test]
fn light_and_dark_follow_the_system_and_the_switch_with_enough_contrast() {
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
fn nothing_is_wider_than_the_screen_on_a_phone_or_a_laptop() {
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
