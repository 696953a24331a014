//! Looking through all of guest memory: one entry of every frame, as if each were a page table.

use crate::addr::{PAGE_SIZE, Pfn};
use crate::entry::Entry;
use crate::memory::{PhysRange, PhysicalMemory};

/// Frames that are asked for at once: 1 GiB of memory. How to read so many, and by how many threads, is
/// the memory's business.
const PIECE: u64 = 1 << 18;

/// The frames of `ram` whose entry `index` is `wanted`, ascending.
pub(super) fn frames_where<M: PhysicalMemory + ?Sized>(
    memory: &M,
    ram: &[PhysRange],
    index: u16,
    wanted: impl Fn(Entry) -> bool,
) -> Vec<Pfn> {
    let mut found = Vec::new();
    let mut column = Vec::new();
    for range in ram {
        let whole = range.whole_frames();
        let (mut next, end) = (whole.start / PAGE_SIZE, whole.end / PAGE_SIZE);
        while next < end {
            let frames = (end - next).min(PIECE);
            column.clear();
            column.resize(usize::try_from(frames).unwrap_or(0), Entry::ABSENT);
            memory.read_column(Pfn::new(next), index, &mut column);
            let matching = (next..).zip(&column).filter(|(_, entry)| wanted(**entry));
            found.extend(matching.map(|(pfn, _)| Pfn::new(pfn)));
            next += frames;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::GuestPhys;
    use crate::testing::FakeMemory;

    #[test]
    fn every_frame_of_every_piece_of_ram_is_looked_at_and_none_outside() {
        let mut memory = FakeMemory::new();
        let marked = Entry::new(0x1234_5003);
        // The first and last frames of RAM and of pieces asked for, and a frame that is not RAM.
        let wanted = [1, 1 << 18, (1 << 18) + 1, 300_000, 0x10_0000, 0x10_0001];
        for pfn in wanted.into_iter().chain([300_001]) {
            memory.poke(Pfn::new(pfn), 511, marked);
        }
        memory.poke(Pfn::new(5), 510, marked);
        let ram =
            [(0x1000, 300_000 * 4096), (0x1_0000_0000, 0x2000)].map(|(start, bytes)| PhysRange {
                start: GuestPhys::new(start),
                bytes,
            });
        let found = frames_where(&memory, &ram, 511, |entry| entry == marked);
        assert_eq!(found, wanted.map(Pfn::new));
        assert_eq!(frames_where(&memory, &[], 511, |_| true), []);
    }
}
