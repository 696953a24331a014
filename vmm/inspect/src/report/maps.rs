//! A merged range of an address space, and where it lies.

use serde::Serialize;

use crate::discover::Discovery;
use crate::layout::{Area, area_at};
use crate::ranges::MappedRange;

/// A range with the name of where it lies.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct NamedRange {
    /// The addresses, where they lead and what is allowed.
    #[serde(flatten)]
    pub mapped: MappedRange,
    /// The area that they lie in.
    pub area: Option<Area>,
    /// What people call it.
    #[serde(skip)]
    pub name: &'static str,
}

impl NamedRange {
    /// Names `mapped` by the layout of `discovery`.
    pub fn new(mapped: MappedRange, discovery: &Discovery) -> NamedRange {
        let area = area_at(&discovery.layout, mapped.range.first);
        NamedRange {
            mapped,
            area,
            name: area.map_or("", |area| discovery.name_of(area)),
        }
    }
}
