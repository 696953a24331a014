//! The page: one HTML file that holds style, script and data, and may load nothing.

use base64::prelude::{BASE64_STANDARD, Engine};
use miniz_oxide::deflate::compress_to_vec;
use serde::Serialize;

use crate::document::{Document, escaped};
use crate::event::Event;
use crate::finding::Sighting;
use crate::history::TableHistory;
use crate::timeline::{About, Group, ModeFrom, Space, SpaceId, Timeline};

/// Version of the data in the page; grows when its form changes.
pub const DATA_VERSION: u32 = 2;

/// Deflate's effort, of 10: more costs seconds and gains nothing.
const EFFORT: u8 = 7;

/// Style sheets, in the order in which they stand in the page.
const STYLES: [&str; 7] = [
    include_str!("../assets/css/tokens.css"),
    include_str!("../assets/css/page.css"),
    include_str!("../assets/css/spaces.css"),
    include_str!("../assets/css/walk.css"),
    include_str!("../assets/css/grid.css"),
    include_str!("../assets/css/panels.css"),
    include_str!("../assets/css/timeline.css"),
];

/// Scripts: each is one idea and uses those before it.
const SCRIPTS: [&str; 17] = [
    include_str!("../assets/js/bytes.js"),
    include_str!("../assets/js/tables.js"),
    include_str!("../assets/js/paging.js"),
    include_str!("../assets/js/guest.js"),
    include_str!("../assets/js/sharing.js"),
    include_str!("../assets/js/changes.js"),
    include_str!("../assets/js/view.js"),
    include_str!("../assets/js/dom.js"),
    include_str!("../assets/js/spaces.js"),
    include_str!("../assets/js/bits.js"),
    include_str!("../assets/js/walk.js"),
    include_str!("../assets/js/grid.js"),
    include_str!("../assets/js/frame.js"),
    include_str!("../assets/js/entry.js"),
    include_str!("../assets/js/timeline.js"),
    include_str!("../assets/js/findings.js"),
    include_str!("../assets/js/main.js"),
];

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// There is nothing to show.
    #[error("the timeline has no moment: nothing was captured, so there is nothing to explore")]
    Empty,
    /// The data of the page.
    #[error("the page's data cannot be written as JSON: {0}; please report it")]
    Json(#[from] serde_json::Error),
}

/// All of the data but the tables.
#[derive(Serialize)]
pub(crate) struct Data<'a> {
    version: u32,
    #[serde(flatten)]
    about: &'a About,
    start: usize,
    /// The space that is shown first, where it is not the one that others are compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<SpaceId>,
    modes: &'a [ModeFrom],
    groups: &'a [Group],
    spaces: &'a [Space],
    events: &'a [Event],
    findings: &'a [Sighting],
}

/// The timeline as one HTML file.
///
/// # Errors
/// [`RenderError`].
pub fn render(timeline: Timeline) -> Result<String, RenderError> {
    if timeline.events.is_empty() {
        return Err(RenderError::Empty);
    }
    let data = inert(&serde_json::to_string(&Data::of(&timeline))?);
    let title = timeline.about.title;
    let tables = packed(timeline.tables);
    let page = Document {
        title: &title,
        kind: "explorer",
        styles: &STYLES,
        scripts: &SCRIPTS,
        body: format!(
            include_str!("../templates/page.html"),
            title = escaped(&title)
        ),
        data,
        more_data: format!(r#"<script type="text/plain" id="tables">{tables}</script>"#),
    };
    Ok(page.to_html())
}

impl<'a> Data<'a> {
    /// Those of a timeline.
    pub(crate) fn of(timeline: &'a Timeline) -> Data<'a> {
        Data {
            version: DATA_VERSION,
            about: &timeline.about,
            start: timeline.start(),
            opened: timeline.opened,
            modes: &timeline.modes,
            groups: &timeline.groups,
            spaces: &timeline.spaces,
            events: &timeline.events,
            findings: &timeline.findings,
        }
    }
}

/// Tables as they stand in a page.
pub(crate) fn packed(tables: TableHistory) -> String {
    BASE64_STANDARD.encode(compress_to_vec(&tables.into_bytes(), EFFORT))
}

/// JSON that cannot end the element that it stands in, nor begin a comment there: `<` is only ever
/// part of a string.
pub(crate) fn inert(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_without_moments_is_an_error_and_no_page() {
        let empty = Timeline::new(About::default(), Vec::new());
        assert!(matches!(render(empty), Err(RenderError::Empty)));
    }

    #[test]
    fn no_text_can_end_the_element_that_the_data_stand_in() {
        let hostile = "</script><!--<script>\"'&<\u{2028}";
        let json = inert(&serde_json::to_string(hostile).unwrap());
        assert!(!json.contains('<'), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }

    #[test]
    fn the_parts_of_the_page_can_stand_inside_their_elements() {
        crate::document::tests::assert_inert(&STYLES, &SCRIPTS);
    }
}
