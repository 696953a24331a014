//! A headless Chromium that is driven over its DevTools protocol: real key presses and clicks, and an
//! ear for everything that the page complains of or asks the network for.

mod devtools;

use std::path::Path;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use devtools::{DevTools, PATIENCE};

/// The browser with one page.
pub(crate) struct Browser {
    devtools: DevTools,
}

/// What a page did, counted: the same on a busy machine as on an idle one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Blocks of its script that ran: functions, branches, turns of loops.
    pub(crate) blocks: u64,
    /// Elements that it has now.
    pub(crate) elements: u64,
    /// The page's CPU time since it was made, for whoever reads the test's output.
    pub(crate) cpu_until_now: Duration,
}

/// Relative luminance and contrast as WCAG 2 defines them, of the texts that are seen.
pub(crate) const CONTRAST: &str = r"(() => {
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

/// A screen: width and height in CSS pixels.
pub(crate) const LAPTOP: (u32, u32) = (1280, 800);
pub(crate) const PHONE: (u32, u32) = (390, 844);

impl Browser {
    /// Starts the browser and opens a file, maybe with a `#fragment`, on a screen of this size; waits
    /// until the page says that it is ready.
    ///
    /// # Panics
    /// Where there is no Chromium: these tests fail without it, they are never skipped.
    pub(crate) fn open(file: &Path, fragment: &str, screen: (u32, u32)) -> Browser {
        let mut browser = Browser::blank(screen);
        browser.load(file, fragment);
        browser
    }

    /// The same, and the work that the page's script did until it was ready.
    pub(crate) fn open_counting(file: &Path, screen: (u32, u32)) -> (Browser, Work) {
        let mut browser = Browser::blank(screen);
        browser.devtools.call(
            "Performance.enable",
            &json!({ "timeDomain": "threadTicks" }),
        );
        browser.devtools.call("Profiler.enable", &json!({}));
        browser.devtools.call(
            "Profiler.startPreciseCoverage",
            &json!({ "callCount": true, "detailed": true }),
        );
        browser.load(file, "");
        let work = browser.work();
        (browser, work)
    }

    /// The work since it was last asked for, if the browser counts.
    pub(crate) fn work(&mut self) -> Work {
        let metrics = self.devtools.call("Performance.getMetrics", &json!({}));
        let metric = |name: &str| {
            let mut metrics = metrics["metrics"].as_array().unwrap().iter();
            let metric = metrics.find(|metric| metric["name"] == name).unwrap();
            metric["value"].as_f64().unwrap()
        };
        let cpu_until_now = Duration::from_secs_f64(metric("TaskDuration"));
        let covered = self
            .devtools
            .call("Profiler.takePreciseCoverage", &json!({}));
        let list = |value: &Value, name: &str| value[name].as_array().unwrap().clone();
        let blocks = list(&covered, "result")
            .iter()
            .flat_map(|script| list(script, "functions"))
            .flat_map(|function| list(&function, "ranges"))
            .map(|range| range["count"].as_u64().unwrap())
            .sum();
        assert!(blocks > 0, "nothing was counted");
        let elements = self.eval("document.getElementsByTagName('*').length");
        Work {
            blocks,
            elements: elements.as_u64().unwrap(),
            cpu_until_now,
        }
    }

    /// The browser with an empty page.
    fn blank(screen: (u32, u32)) -> Browser {
        let mut browser = Browser {
            devtools: DevTools::start(),
        };
        let created = browser
            .devtools
            .call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attached = browser.devtools.call(
            "Target.attachToTarget",
            &json!({ "targetId": created["targetId"], "flatten": true }),
        );
        browser.devtools.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser
                .devtools
                .call(&format!("{domain}.enable"), &json!({}));
        }
        browser.resize(screen);
        browser
    }

    fn load(&mut self, file: &Path, fragment: &str) {
        let file = file.canonicalize().unwrap();
        let url = format!("file://{}{fragment}", file.display());
        self.devtools.loaded = false;
        self.devtools.call("Page.navigate", &json!({ "url": url }));
        while !self.devtools.loaded {
            self.devtools.listen();
        }
        self.until("document.documentElement.dataset.ready !== undefined");
    }

    /// Gives the page a screen of this size.
    pub(crate) fn resize(&mut self, (width, height): (u32, u32)) {
        self.devtools.call(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
        );
    }

    /// Tells the page that the system's colours are dark, or light.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        self.devtools.call(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
    }

    /// What a JavaScript expression is.
    ///
    /// # Panics
    /// If it throws.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let result = self.devtools.call(
            "Runtime.evaluate",
            &json!({ "expression": expression, "returnByValue": true, "awaitPromise": true }),
        );
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {}",
            result["exceptionDetails"]
        );
        result["result"]["value"].clone()
    }

    /// The same as text, as a reader sees it: white space in one piece is one blank.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!(
            "document.querySelector({})?.innerText ?? '(no such element)'",
            json!(selector)
        ));
        let words: Vec<&str> = text
            .as_str()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        words.join(" ")
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// If it does not become so.
    pub(crate) fn until(&mut self, expression: &str) {
        let begun = Instant::now();
        while self.eval(expression) != json!(true) {
            assert!(
                begun.elapsed() < PATIENCE,
                "never true: {expression}; the page says {:?}",
                self.devtools.complaints
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Clicks in the middle of an element.
    ///
    /// # Panics
    /// If there is none, or something else lies over it.
    pub(crate) fn click(&mut self, selector: &str) {
        let at = self.middle(selector);
        for kind in ["mousePressed", "mouseReleased"] {
            self.devtools.call(
                "Input.dispatchMouseEvent",
                &json!({ "type": kind, "x": at["x"], "y": at["y"], "button": "left", "clickCount": 1 }),
            );
        }
    }

    /// Moves the mouse to the middle of an element.
    ///
    /// # Panics
    /// As for a click.
    pub(crate) fn hover(&mut self, selector: &str) {
        let at = self.middle(selector);
        self.devtools.call(
            "Input.dispatchMouseEvent",
            &json!({ "type": "mouseMoved", "x": at["x"], "y": at["y"] }),
        );
    }

    fn middle(&mut self, selector: &str) -> Value {
        let selector = json!(selector);
        let at = self.eval(&format!(
            "(() => {{
                const element = document.querySelector({selector});
                if (!element) return 'no such element';
                element.scrollIntoView({{ block: 'nearest', inline: 'nearest' }});
                const box = element.getBoundingClientRect();
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                const top = document.elementFromPoint(x, y);
                return element.contains(top) || top?.contains(element) ? {{ x, y }} : `covered by ${{top?.outerHTML.slice(0, 90)}}`;
            }})()"
        ));
        assert!(at.is_object(), "cannot reach {selector}: {at}");
        at
    }

    /// Presses keys, one after the other, by their names: `ArrowDown`, `Enter`, `/`.
    pub(crate) fn press(&mut self, keys: &[&str]) {
        for key in keys {
            let code = match *key {
                "Enter" => 13,
                "Escape" => 27,
                "Backspace" => 8,
                "Tab" => 9,
                "PageUp" => 33,
                "PageDown" => 34,
                "End" => 35,
                "Home" => 36,
                "ArrowLeft" => 37,
                "ArrowUp" => 38,
                "ArrowRight" => 39,
                "ArrowDown" => 40,
                _ => 0,
            };
            let text = match *key {
                "Enter" => "\r",
                key if key.chars().count() == 1 => key,
                _ => "",
            };
            for kind in ["keyDown", "keyUp"] {
                let mut event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code });
                if kind == "keyDown" && !text.is_empty() {
                    event["text"] = json!(text);
                }
                self.devtools.call("Input.dispatchKeyEvent", &event);
            }
        }
    }

    /// Types text where the keyboard's focus is.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.devtools
            .call("Input.insertText", &json!({ "text": text }));
    }

    /// A picture of the screen as PNG.
    pub(crate) fn screenshot(&mut self) -> Vec<u8> {
        let shot = self
            .devtools
            .call("Page.captureScreenshot", &json!({ "format": "png" }));
        BASE64_STANDARD
            .decode(shot["data"].as_str().unwrap())
            .unwrap()
    }

    /// Asserts that the page has had nothing to complain of, and asked for nothing but itself.
    pub(crate) fn is_content(&mut self) {
        // Whatever is under way arrives before the answer.
        self.eval("new Promise((done) => setTimeout(() => done(true), 50))");
        assert_eq!(self.devtools.complaints, Vec::<String>::new());
        let requests = &self.devtools.requests;
        let others: Vec<&String> = requests
            .iter()
            .filter(|url| !url.starts_with("file:") && *url != "about:blank")
            .collect();
        assert!(others.is_empty(), "the page asked for {others:?}");
        assert_eq!(requests.len(), 1, "{requests:?}");
    }

    /// What the page complained of.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.devtools.complaints
    }
}
