//! The lecture as slides to project: a page of its own, with a picture of each claim from its real run.

use heirloom_explorer::deck::{Deck, Picture, Slide};
use heirloom_explorer::{About, Event, Group, NamedRange, Sign, SpaceInfo, Timeline};
use heirloom_harness::event::{EventKind, describe};
use heirloom_harness::lecture::slides::{COURSE, SLIDES, TEACHER, TITLE};
use heirloom_harness::lecture::{self, ClaimResult};
use heirloom_harness::region::{Region, range_of_region};
use heirloom_inspect::RootLabel;

use super::show::{Lecture, verdict};

/// What was seen of the claims, by number.
#[derive(Default)]
pub(super) struct Pictures(Vec<(u8, lecture::Picture)>);

impl Pictures {
    /// Keeps what was seen of a claim.
    pub(super) fn keep(&mut self, claim: u8, picture: Option<lecture::Picture>) {
        self.0.extend(picture.map(|picture| (claim, picture)));
    }

    /// The page, in the order of the lecture's slides.
    pub(super) fn page(
        mut self,
        lecture: &Lecture,
    ) -> Result<String, heirloom_explorer::RenderError> {
        let mut slides = Vec::new();
        for told in &SLIDES {
            let Some(result) = lecture.claims().find(|result| result.number == told.claim) else {
                continue;
            };
            let place = self.0.iter().position(|(claim, _)| *claim == told.claim);
            let picture = place.map(|place| picture(self.0.swap_remove(place).1));
            slides.push(slide(told, result, picture));
        }
        let deck = Deck {
            course: COURSE.into(),
            title: TITLE.into(),
            author: TEACHER.into(),
            verdict: lecture.sentence(),
        };
        heirloom_explorer::deck::render(&deck, slides)
    }
}

fn slide(told: &lecture::slides::Slide, result: &ClaimResult, picture: Option<Picture>) -> Slide {
    Slide {
        number: result.number,
        title: told.title.into(),
        claim: result.claim.into(),
        explanation: told.explanation.into(),
        verdict: verdict(result).into(),
        holds: (!result.out_of_time).then_some(result.holds),
        tables: result.tables.clone(),
        cpu: result.cpu.clone(),
        objections: result.objections.clone(),
        picture,
    }
}

/// A moment as a timeline of its own.
fn picture(seen: lecture::Picture) -> Picture {
    let lecture::Picture {
        strategy,
        event,
        snapshot,
        walks,
    } = seen;
    let text = match &event.claim {
        EventKind::Checkpoint { text } => format!("the program says \u{201c}{text}\u{201d}"),
        _ => describe(&event),
    };
    let isolated = strategy == heirloom_harness::Strategy::Isolated;
    let regions = Region::ALL.into_iter().map(|region| NamedRange {
        name: region.name().to_owned(),
        range: range_of_region(region, snapshot.mode().depth),
    });
    let about = About {
        title: format!("propagation={}", strategy.name()),
        regions: regions.collect(),
        ..About::default()
    };
    let all = Group {
        name: "address spaces".into(),
        note: String::new(),
    };
    let mut timeline = Timeline::new(about, vec![all]);
    timeline.moment(
        &snapshot,
        Event::new(event.sequence, Sign::Found, text.clone()),
        |root| {
            let is_kernel = root.label == RootLabel::Kernel;
            SpaceInfo {
                name: root.label.to_string(),
                // An isolated kernel is not to be compared with the processes.
                set: Some(usize::from(isolated && !is_kernel)),
                reference: is_kernel,
                ..SpaceInfo::default()
            }
        },
    );
    Picture {
        timeline,
        caption: format!(
            "A real run under propagation={}, at event {}: {text}.",
            strategy.name(),
            event.sequence
        ),
        walks,
    }
}
