//! What is wrong, as the page shows it. Who judges is no matter of the page's.

use heirloom_inspect::VirtAddr;
use serde::Serialize;

use crate::timeline::SpaceId;

/// Something that is wrong at a moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Finding {
    /// The same at another moment has the same identity, and nothing else has.
    #[serde(skip)]
    pub identity: String,
    /// Name of the rule that is broken.
    pub rule: String,
    /// What the rule states.
    pub statement: String,
    /// The spaces that are wrong, or the first of them.
    pub spaces: Vec<SpaceId>,
    /// The same in words.
    pub whose: String,
    /// Where: `PGD[403]`.
    pub place: String,
    /// The first address that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<VirtAddr>,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// The walks that show it, as text.
    pub walks: Vec<String>,
}

/// A finding and when it is there.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sighting {
    #[serde(flatten)]
    pub(crate) finding: Finding,
    /// Stretches of moments at which it is there: first, and first at which it is not any more.
    moments: Vec<(usize, usize)>,
}

impl Sighting {
    /// It was found first at moment `now`.
    pub(crate) fn new(finding: Finding, now: usize) -> Sighting {
        Sighting {
            finding,
            moments: vec![(now, now + 1)],
        }
    }

    /// It is there at moment `now`, too.
    pub(crate) fn seen_at(&mut self, now: usize) {
        match self.moments.last_mut() {
            Some((_, end)) if *end == now => *end = now + 1,
            Some((_, end)) if *end > now => {}
            _ => self.moments.push((now, now + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_that_follow_each_other_are_one_stretch() {
        let mut sighting = Sighting::new(Finding::default(), 3);
        for now in [3, 4, 5, 9, 9, 10] {
            sighting.seen_at(now);
        }
        assert_eq!(sighting.moments, [(3, 6), (9, 11)]);
    }
}
