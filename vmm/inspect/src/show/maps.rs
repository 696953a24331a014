//! One line for each merged range of an address space: written as it is found, however many there are.

use std::fmt;

use serde::Serialize;

use crate::discover::Discovery;
use crate::layout::{Area, area_at};
use crate::ranges::MappedRange;

/// A range with the name of where it lies.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct NamedRange {
    #[serde(flatten)]
    pub mapped: MappedRange,
    pub area: Option<Area>,
}

impl NamedRange {
    /// Names `mapped` by the layout of `discovery`.
    pub fn new(mapped: MappedRange, discovery: &Discovery) -> NamedRange {
        NamedRange {
            mapped,
            area: area_at(&discovery.layout, &discovery.snapshot, mapped.range.first),
        }
    }

    /// The names of the columns of [`NamedRange`]'s lines.
    pub const HEADER: &'static str = "addresses                              rights      size  physical            area            pages";
}

/// `0xffff888000000000–0xffff88801fffffff  rw--  524288 KiB  0x0…  direct map  256 pages of 2 MiB`
impl fmt::Display for NamedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MappedRange {
            range,
            pa,
            rights,
            pages,
        } = self.mapped;
        let area = self.area.map_or("", Area::name);
        write!(
            f,
            "{range}  {rights}  {:>9}K  {pa:<#18x}  {area:<14}  {pages}",
            range.bytes() >> 10
        )
    }
}
