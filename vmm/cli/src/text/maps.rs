//! One line for each merged range of an address space: written as it is found, however many there are.

use std::fmt;

use heirloom_inspect::MappedRange;
use heirloom_inspect::report::NamedRange;

use super::Text;

/// The names of the columns of [`NamedRange`]'s lines.
pub(crate) const HEADER: &str = "addresses                              rights      size  physical            area            pages";

/// `0xffff888000000000–0xffff88801fffffff  rw--  524288 KiB  0x0…  direct map  256 pages of 2 MiB`
impl Text for NamedRange {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MappedRange {
            range,
            pa,
            rights,
            pages,
        } = self.mapped;
        let area = self.name;
        write!(
            f,
            "{range}  {rights}  {:>9}K  {pa:<#18x}  {area:<14}  {pages}",
            range.bytes() >> 10
        )
    }
}
