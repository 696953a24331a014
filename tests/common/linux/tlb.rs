//! `info tlb` of QEMU: every leaf of the first CPU's address space, by QEMU's own walk (its
//! target/i386/monitor.c).

use heirloom_inspect::{Entry, Mapping};

/// Bits 49–12, which QEMU prints of a leaf's address.
const SHOWN: u64 = 0x0003_ffff_ffff_f000;

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) va: u64,
    pub(crate) pa: u64,
    /// The leaf's own flags, not those of the entries above: `XGPDACTUW` or `-`.
    pub(crate) flags: [u8; 9],
}

/// What the letters stand for.
const FLAGS: [(u8, Entry); 9] = [
    (b'X', Entry::NO_EXECUTE),
    (b'G', Entry::GLOBAL),
    (b'P', Entry::LARGE),
    (b'D', Entry::DIRTY),
    (b'A', Entry::ACCESSED),
    (b'C', Entry::CACHE_DISABLE),
    (b'T', Entry::WRITE_THROUGH),
    (b'U', Entry::USER),
    (b'W', Entry::WRITABLE),
];

/// What QEMU printed.
pub(crate) fn parse(text: &str) -> Vec<Line> {
    let line = |line: &str| -> Option<Line> {
        let (va, rest) = line.split_once(": ")?;
        let (pa, flags) = rest.split_once(' ')?;
        Some(Line {
            va: u64::from_str_radix(va, 16).ok()?,
            pa: u64::from_str_radix(pa, 16).ok()?,
            flags: flags.as_bytes().try_into().ok()?,
        })
    };
    text.lines()
        .map(|text| line(text).unwrap_or_else(|| panic!("no line of `info tlb`: {text}")))
        .collect()
}

/// What QEMU should print for a leaf that we found.
pub(crate) fn line_of(page: &Mapping) -> Line {
    Line {
        va: page.va.get(),
        pa: page.pa.get() & SHOWN,
        flags: FLAGS.map(|(letter, flag)| if page.entry.has(flag) { letter } else { b'-' }),
    }
}
