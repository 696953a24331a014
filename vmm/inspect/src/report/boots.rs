//! How two boots differ.

use serde::Serialize;

use super::subject::Subject;
use crate::boots::Boots;
use crate::discover::Discovery;

/// What `heirloom diff` found of two boots.
#[derive(Clone, Debug, Serialize)]
pub struct BootsReport {
    /// The version of this form, [`super::INSPECTION_VERSION`].
    pub version: u32,
    /// The first boot.
    pub before: Subject,
    /// The second boot.
    pub after: Subject,
    /// How they differ.
    pub boots: Boots,
}

impl BootsReport {
    /// The report of `boots`, which is of two targets with their names.
    pub fn new(
        (before_name, before): (&str, &Discovery),
        (after_name, after): (&str, &Discovery),
        boots: Boots,
    ) -> BootsReport {
        BootsReport {
            version: super::INSPECTION_VERSION,
            before: Subject::new(before_name, before),
            after: Subject::new(after_name, after),
            boots,
        }
    }
}
