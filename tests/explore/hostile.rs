//! Names and texts come from guests and from files: whatever they say, the page shows it as text.

use heirloom_explorer::{About, Event, Group, NamedRange, Sign, SpaceInfo, Timeline};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Capturer, Depth, Mode, RootLabel, VirtAddr, VirtRange};
use serde_json::json;

use crate::open_timeline;

const HOSTILE: [&str; 7] = [
    "</script><script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title = 'taken'\">",
    "<!--<script>",
    "]]>--></style><script src=\"http://127.0.0.1:9/x.js\"></script>",
    "'\"`${document.title = 'taken'}&lt;&#39;",
    "javascript:document.title='taken'",
    "\u{2028}\u{2029}\u{0}\u{202e}\u{ffff}",
];

fn timeline(text: &str) -> Timeline {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let about = About {
        title: text.into(),
        verdict: text.into(),
        holds: Some(false),
        regions: vec![NamedRange {
            name: text.into(),
            range: VirtRange::new(VirtAddr::new(1 << 63), 1 << 62).unwrap(),
        }],
        notes: vec![text.into()],
    };
    let group = Group {
        name: text.into(),
        note: text.into(),
    };
    let mut timeline = Timeline::new(about, vec![group]);
    for number in 0..2 {
        let snapshot = Capturer::new().capture(
            &memory,
            Mode::typical(Depth::Four),
            &[(RootLabel::Process(1), root)],
        );
        timeline.moment(
            &snapshot,
            Event::new(number, Sign::Checkpoint, text),
            |_| SpaceInfo {
                name: text.into(),
                kind: text.into(),
                ..SpaceInfo::default()
            },
        );
    }
    timeline
}

#[test]
fn hostile_names_and_texts_are_shown_and_do_nothing() {
    for text in HOSTILE {
        let mut browser = open_timeline(timeline(text));
        for selector in [
            ".space .name",
            ".space .kind",
            "#event-text",
            "#notes p",
            ".group h3",
        ] {
            let shown = browser.eval(&format!("document.querySelector('{selector}').textContent"));
            assert_eq!(shown, json!(text), "{selector}");
        }
        let title = browser.eval("document.title");
        assert!(
            title.as_str().unwrap().ends_with("heirloom explorer"),
            "{text}: {title}"
        );
        assert_eq!(browser.eval("document.scripts.length"), json!(3), "{text}");
        assert_eq!(browser.eval("document.images.length"), json!(0), "{text}");
        browser.press(&["[", "]"]);
        browser.is_content();
    }
}

#[test]
fn the_page_itself_forbids_every_other_script_and_every_request() {
    let mut browser = open_timeline(timeline("quiet"));
    // Not `is_content` afterwards: these attempts are to be complained of.
    let attempts = browser.eval(
        "(async () => {
            const script = document.createElement('script');
            script.textContent = 'window.taken = true';
            document.body.append(script);
            const image = document.createElement('div');
            image.innerHTML = '<img src=x onerror=\"window.taken = true\">';
            document.body.append(image);
            const asked = await fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused');
            await new Promise((done) => setTimeout(done, 100));
            return [window.taken === true, asked];
        })()",
    );
    assert_eq!(attempts, json!([false, "refused"]));
    assert!(
        browser
            .complaints()
            .iter()
            .any(|told| told.contains("Content Security Policy")),
        "{:?}",
        browser.complaints()
    );
}
