//! Slides to project: one HTML file with a slide for each of some claims, and on it the picture of a moment.
//!
//! The pictures are drawn by the explorer's own parts from the tables of a real run.

use heirloom_inspect::{RootLabel, VirtAddr};
use serde::Serialize;

use crate::document::Document;
use crate::page::{Data, RenderError, inert, packed};
use crate::timeline::{SpaceId, Timeline};

const STYLES: [&str; 3] = [
    include_str!("../assets/css/tokens.css"),
    include_str!("../assets/css/walk.css"),
    include_str!("../assets/css/slides.css"),
];

/// Those that the explorer has, and what puts slides together.
const SCRIPTS: [&str; 11] = [
    include_str!("../assets/js/bytes.js"),
    include_str!("../assets/js/tables.js"),
    include_str!("../assets/js/paging.js"),
    include_str!("../assets/js/guest.js"),
    include_str!("../assets/js/sharing.js"),
    include_str!("../assets/js/view.js"),
    include_str!("../assets/js/dom.js"),
    include_str!("../assets/js/spaces.js"),
    include_str!("../assets/js/walk.js"),
    include_str!("../assets/js/picture.js"),
    include_str!("../assets/js/slides.js"),
];

/// What the slides are about.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Deck {
    /// What stands above the title.
    pub course: String,
    /// The title.
    pub title: String,
    /// Whose it is.
    pub author: String,
    /// What came of it all, in a sentence.
    pub verdict: String,
}

/// A claim, and what was seen of it.
#[derive(Debug)]
pub struct Slide {
    /// The claim's number.
    pub number: u8,
    /// The slide's title.
    pub title: String,
    /// What is claimed.
    pub claim: String,
    /// What that means.
    pub explanation: String,
    /// `HOLDS`, `BROKEN` or such.
    pub verdict: String,
    /// Whether it holds; `None` where it was not judged.
    pub holds: Option<bool>,
    /// What the page tables showed.
    pub tables: Vec<String>,
    /// What the CPU did.
    pub cpu: Vec<String>,
    /// What speaks against it.
    pub objections: Vec<String>,
    /// What it looks like.
    pub picture: Option<Picture>,
}

/// A moment, and the walks to look at.
#[derive(Debug)]
pub struct Picture {
    /// The moment, and no other.
    pub timeline: Timeline,
    /// What had happened, and where.
    pub caption: String,
    /// In which address space, of which address.
    pub walks: Vec<(RootLabel, VirtAddr)>,
}

#[derive(Serialize)]
struct SlideData<'a> {
    number: u8,
    title: &'a str,
    claim: &'a str,
    explanation: &'a str,
    verdict: &'a str,
    holds: Option<bool>,
    tables: &'a [String],
    cpu: &'a [String],
    objections: &'a [String],
    picture: Option<PictureData>,
}

#[derive(Serialize)]
struct PictureData {
    caption: String,
    data: serde_json::Value,
    tables: String,
    walks: Vec<WalkData>,
}

#[derive(Serialize)]
struct WalkData {
    space: SpaceId,
    address: VirtAddr,
}

#[derive(Serialize)]
struct DeckData<'a> {
    #[serde(flatten)]
    deck: &'a Deck,
    slides: Vec<SlideData<'a>>,
}

/// The slides as one HTML file.
///
/// # Errors
/// [`RenderError`].
pub fn render(deck: &Deck, mut slides: Vec<Slide>) -> Result<String, RenderError> {
    if slides.is_empty() {
        return Err(RenderError::Empty);
    }
    let mut pictures = Vec::new();
    for slide in &mut slides {
        let picture = slide
            .picture
            .take()
            .filter(|picture| picture.timeline.moments() > 0);
        pictures.push(picture.map(data_of).transpose()?);
    }
    let slides = slides
        .iter()
        .zip(pictures)
        .map(|(slide, picture)| SlideData {
            number: slide.number,
            title: &slide.title,
            claim: &slide.claim,
            explanation: &slide.explanation,
            verdict: &slide.verdict,
            holds: slide.holds,
            tables: &slide.tables,
            cpu: &slide.cpu,
            objections: &slide.objections,
            picture,
        })
        .collect();
    let page = Document {
        title: &deck.title,
        kind: "lecture",
        styles: &STYLES,
        scripts: &SCRIPTS,
        body: include_str!("../templates/slides.html").to_string(),
        data: inert(&serde_json::to_string(&DeckData { deck, slides })?),
        more_data: String::new(),
    };
    Ok(page.to_html())
}

fn data_of(picture: Picture) -> Result<PictureData, RenderError> {
    let Picture {
        timeline,
        caption,
        walks,
    } = picture;
    let walks = walks
        .into_iter()
        .filter_map(|(whose, address)| {
            let space = timeline.space_of(whose)?;
            Some(WalkData { space, address })
        })
        .collect();
    Ok(PictureData {
        caption,
        data: serde_json::to_value(Data::of(&timeline))?,
        tables: packed(timeline.tables),
        walks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deck_without_slides_is_an_error_and_no_page() {
        let empty = render(&Deck::default(), Vec::new());
        assert!(matches!(empty, Err(RenderError::Empty)));
    }

    #[test]
    fn the_parts_of_the_page_can_stand_inside_their_elements() {
        crate::document::tests::assert_inert(&STYLES, &SCRIPTS);
    }
}
