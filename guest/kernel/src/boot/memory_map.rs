//! Physical memory as the boot loader describes it: which frames are RAM, which of them are taken.

use crate::mm::Pfn;

/// Ranges that are kept; a PC's memory map has about ten.
const MAX_RANGES: usize = 32;

/// Frames `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    const EMPTY: Range = Range { start: 0, end: 0 };

    pub const fn frames(self) -> u64 {
        self.end - self.start
    }
}

/// Ranges of frames in ascending order that do not touch.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    ranges: [Range; MAX_RANGES],
    count: usize,
}

/// The memory map has more ranges than this kernel keeps.
#[derive(Clone, Copy, Debug)]
pub struct TooManyRanges;

impl Ranges {
    pub const fn new() -> Ranges {
        Ranges {
            ranges: [Range::EMPTY; MAX_RANGES],
            count: 0,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges[..self.count].iter().copied()
    }

    /// All frames in all ranges.
    pub const fn frames(&self) -> u64 {
        let mut sum = 0;
        let mut index = 0;
        while index < self.count {
            sum += self.ranges[index].frames();
            index += 1;
        }
        sum
    }

    /// Adds `range`, which may touch or overlap others.
    pub fn insert(&mut self, range: Range) -> Result<(), TooManyRanges> {
        let mut range = range;
        if range.frames() == 0 {
            return Ok(());
        }
        let mut kept = Ranges::new();
        for other in self.iter() {
            if other.end < range.start || range.end < other.start {
                kept.append(other)?;
            } else {
                range = Range {
                    start: range.start.min(other.start),
                    end: range.end.max(other.end),
                };
            }
        }
        kept.append(range)?;
        kept.ranges[..kept.count].sort_unstable_by_key(|range| range.start);
        *self = kept;
        Ok(())
    }

    /// Takes `hole` out.
    pub fn remove(&mut self, hole: Range) -> Result<(), TooManyRanges> {
        let mut kept = Ranges::new();
        for range in self.iter() {
            let below = Range {
                start: range.start,
                end: range.end.min(hole.start),
            };
            let above = Range {
                start: range.start.max(hole.end),
                end: range.end,
            };
            for part in [below, above] {
                if part.start < part.end {
                    kept.append(part)?;
                }
            }
        }
        *self = kept;
        Ok(())
    }

    /// Takes the lowest frame.
    pub fn take_first(&mut self) -> Option<Pfn> {
        let count = self.count;
        let range = self.ranges[..count]
            .iter_mut()
            .find(|range| range.start < range.end)?;
        range.start += 1;
        Some(Pfn::new(range.start - 1))
    }

    /// Takes the lowest `count` frames in one piece, aligned to `count`, a power of two. What
    /// alignment skips stays.
    pub fn take_aligned(&mut self, count: u64) -> Option<Pfn> {
        if count == 1 {
            return self.take_first();
        }
        let start = self.iter().find_map(|range| {
            let start = range.start.next_multiple_of(count);
            (start + count <= range.end).then_some(start)
        })?;
        self.remove(Range {
            start,
            end: start + count,
        })
        .ok()?;
        Some(Pfn::new(start))
    }

    fn append(&mut self, range: Range) -> Result<(), TooManyRanges> {
        *self.ranges.get_mut(self.count).ok_or(TooManyRanges)? = range;
        self.count += 1;
        Ok(())
    }
}
