//! Sizes for people.

use std::fmt;

/// A number of bytes in the unit in which it is read at a glance: KiB while those are at most four digits, else the
/// largest unit of which it is one or more.
///
/// ```
/// use heirloom_inspect::Size;
///
/// let shown = |bytes: u64| Size(bytes).to_string();
/// assert_eq!(shown(44 << 10), "44 KiB");
/// assert_eq!(shown(9999 << 10), "9999 KiB");
/// assert_eq!(shown(256 << 20), "256 MiB");
/// assert_eq!(shown(1 << 40), "1 TiB");
/// assert_eq!(shown((5 << 30) / 2), "2.5 GiB");
/// assert_eq!(shown(100), "100 bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// More KiB than these are told in a larger unit.
const MAX_KIB: u64 = 9999;

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size(bytes) = *self;
        if bytes < 1 << 10 {
            return write!(f, "{bytes} bytes");
        }
        if bytes >> 10 <= MAX_KIB {
            return write!(f, "{} KiB", bytes >> 10);
        }
        let units = [(50, "PiB"), (40, "TiB"), (30, "GiB")];
        let larger = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
        let (shift, unit) = larger.unwrap_or((20, "MiB"));
        let whole = bytes >> shift;
        match ((bytes & ((1 << shift) - 1)) * 10) >> shift {
            0 => write!(f, "{whole} {unit}"),
            tenths => write!(f, "{whole}.{tenths} {unit}"),
        }
    }
}
