//! Which pages are in a dump, and the how-manieth of them each is.

use heirloom_inspect::{PhysAddr, PhysRange};

use super::header::PAGE;
use crate::input::{Input, Window};

/// Bytes of a bitmap for which the pages before them are counted once.
const GROUP_BYTES: usize = 512;
const GROUP: u64 = GROUP_BYTES as u64;
/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;
/// Bytes that are read at once to look a page up.
const LOOKUP: usize = 4096;
/// A machine with more ranges of RAM is not believed.
const RANGES: usize = 1 << 18;

/// Where bits of one bitmap are looked up. Those of one frame after the other need no counting.
#[derive(Debug, Default)]
pub(in crate::dump) struct Place {
    window: Window,
    /// A frame, and how many bits are set below.
    next: Option<(u64, u64)>,
}

/// The pages whose bits are set.
#[derive(Debug)]
pub(in crate::dump) struct Bitmap {
    /// Where in the file.
    start: u64,
    /// How many bits there are.
    frames: u64,
    /// Bits that are set before each group of bytes.
    before: Vec<u64>,
    /// Bits that are set.
    pub(in crate::dump) count: u64,
}

impl Bitmap {
    /// Counts the bits of the bitmap at `start`; `None` if the file does not have all of it.
    pub(in crate::dump) fn read(input: &Input, start: u64, frames: u64) -> Option<Bitmap> {
        let mut before = Vec::new();
        let mut count = 0;
        for_each_block(input, start, frames, |block| match block {
            Block::Zeros(bytes) => {
                before.extend((0..bytes.div_ceil(GROUP)).map(|_| count));
            }
            Block::Bytes(bytes) => {
                for group in bytes.chunks(GROUP_BYTES) {
                    before.push(count);
                    count += ones(group);
                }
            }
        })?;
        Some(Bitmap {
            start,
            frames,
            before,
            count,
        })
    }

    /// Which of the set bits is that of `frame`, counted from 0; `None` if it is not set. The error is
    /// that the file does not have it any more.
    pub(in crate::dump) fn rank(
        &self,
        input: &Input,
        place: &mut Place,
        frame: u64,
    ) -> Result<Option<u64>, ()> {
        if frame >= self.frames {
            return Ok(None);
        }
        let group = frame / 8 / GROUP;
        let bytes = (frame / 8 % GROUP) as usize + 1;
        let window = &mut place.window;
        let part = window
            .get(input, self.start + group * GROUP, bytes, LOOKUP)
            .ok_or(())?;
        let (last, whole) = part.split_last().ok_or(())?;
        let bit = 1_u8 << (frame % 8);
        let rank = match place.next {
            Some((next, rank)) if next == frame => rank,
            _ => {
                let index = usize::try_from(group).map_err(|_| ())?;
                let before = self.before.get(index).copied().ok_or(())?;
                before + ones(whole) + u64::from((last & (bit - 1)).count_ones())
            }
        };
        let is_set = last & bit != 0;
        place.next = Some((frame + 1, rank + u64::from(is_set)));
        Ok(is_set.then_some(rank))
    }

    /// How many bits are set below `frame`.
    pub(in crate::dump) fn set_below(&self, input: &Input, frame: u64) -> Option<u64> {
        if frame >= self.frames {
            return Some(self.count);
        }
        let group = frame / 8 / GROUP;
        let bytes = (frame / 8 % GROUP) as usize + 1;
        let part = input.bytes(self.start + group * GROUP, bytes)?;
        let (last, whole) = part.split_last()?;
        let below = last & ((1_u8 << (frame % 8)) - 1);
        let before = self.before.get(usize::try_from(group).ok()?)?;
        Some(before + ones(whole) + u64::from(below.count_ones()))
    }
}

/// The ranges of the frames whose bits are set; `None` if there are absurdly many, or the file does not have
/// all of the bitmap.
pub(in crate::dump) fn ranges(input: &Input, start: u64, frames: u64) -> Option<Vec<PhysRange>> {
    let mut ranges: Vec<PhysRange> = Vec::new();
    let mut frame = 0;
    let mut many = false;
    let mut add = |first: u64, count: u64| {
        let (at, bytes) = (PhysAddr::new(first * PAGE), count * PAGE);
        let room = ranges.len() < RANGES;
        match ranges.last_mut() {
            Some(last) if last.end() == at => last.bytes += bytes,
            _ if room => ranges.push(PhysRange { start: at, bytes }),
            _ => many = true,
        }
    };
    for_each_block(input, start, frames, |block| match block {
        Block::Zeros(bytes) => frame += bytes * 8,
        Block::Bytes(bytes) => {
            for byte in bytes {
                let count = 8.min(frames.saturating_sub(frame));
                match *byte {
                    0 => {}
                    0xff if count == 8 => add(frame, 8),
                    byte => (0..count)
                        .filter(|bit| byte & 1 << bit != 0)
                        .for_each(|bit| add(frame + bit, 1)),
                }
                frame += 8;
            }
        }
    })?;
    (!many).then_some(ranges)
}

/// A part of a bitmap.
enum Block<'a> {
    /// So many bytes in a hole of the file.
    Zeros(u64),
    Bytes(&'a [u8]),
}

/// Hands over the bitmap of `frames` at `start` block by block; bits behind its end are clear.
fn for_each_block(
    input: &Input,
    start: u64,
    frames: u64,
    mut take: impl FnMut(Block<'_>),
) -> Option<()> {
    let bytes = frames.div_ceil(8);
    let mut block = vec![0; BLOCK];
    let mut done = 0;
    while done < bytes {
        let here = usize::try_from(bytes - done).unwrap_or(BLOCK).min(BLOCK);
        // Holes of sparse files take no time: 64 TiB have two bitmaps of 2 GiB.
        let hole = input.hole_at(start + done).min(bytes - done) / BLOCK as u64 * BLOCK as u64;
        if hole > 0 {
            take(Block::Zeros(hole));
            done += hole;
            continue;
        }
        let part = &mut block[..here];
        if !input.read(start + done, part) {
            return None;
        }
        done += here as u64;
        if done == bytes && !frames.is_multiple_of(8) {
            part[here - 1] &= (1 << (frames % 8)) - 1;
        }
        take(Block::Bytes(part));
    }
    Some(())
}

fn ones(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    let ones = words.map(u64::count_ones).sum::<u32>();
    u64::from(ones + rest.iter().map(|byte| byte.count_ones()).sum::<u32>())
}
