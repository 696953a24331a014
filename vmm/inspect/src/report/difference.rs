//! What changed between two moments.

use serde::Serialize;

use super::subject::Subject;
use crate::difference::{Difference, RangeChange};
use crate::discover::Discovery;
use crate::layout::{Area, area_at};

/// What `heirloom diff` found.
#[derive(Clone, Debug, Serialize)]
pub struct DifferenceReport {
    /// The version of this form, [`super::INSPECTION_VERSION`].
    pub version: u32,
    /// The earlier moment, or the first guest.
    pub before: Subject,
    /// The later moment, or the second guest.
    pub after: Subject,
    /// What differs.
    #[serde(flatten)]
    pub difference: Difference,
    /// Where each changed range lies.
    #[serde(skip)]
    pub areas: Vec<Option<Area>>,
}

impl DifferenceReport {
    /// The report of `difference`, which is of two targets with their names.
    pub fn new(
        (before_name, before): (&str, &Discovery),
        (after_name, after): (&str, &Discovery),
        difference: Difference,
    ) -> DifferenceReport {
        let area = |change: &RangeChange| area_at(&after.layout, change.range.first);
        DifferenceReport {
            version: super::INSPECTION_VERSION,
            before: Subject::new(before_name, before),
            after: Subject::new(after_name, after),
            areas: difference.ranges.iter().map(area).collect(),
            difference,
        }
    }
}
