//! Looking through all of guest memory: some entries of every frame, as if each were a page table.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::memory::{PhysRange, PhysicalMemory, Words};
use heirloom_paging::addr::{PAGE_SIZE, Pfn, PhysAddr};
use heirloom_paging::entry::Entry;

/// Frames that one thread looks through before it takes the next piece: 32 MiB of memory.
const PIECE: u64 = 8192;
/// Frames of which one entry is read before the next one of them: what one entry cost, which is a translation and
/// perhaps a page that is unpacked, is not forgotten then.
const BLOCK: usize = 512;
/// Threads beyond these would wait for memory.
const MAX_THREADS: usize = 4;

/// Consecutive frames.
#[derive(Clone, Copy, Debug)]
struct Piece {
    first: Pfn,
    frames: usize,
}

impl Piece {
    fn pfns(self) -> impl Iterator<Item = Pfn> {
        (self.first.get()..).take(self.frames).map(Pfn::new)
    }

    /// The same frames, at most [`BLOCK`] at a time.
    fn blocks(self) -> impl Iterator<Item = Piece> {
        let firsts = (self.first.get()..).step_by(BLOCK);
        let offsets = (0..self.frames).step_by(BLOCK);
        firsts.zip(offsets).map(move |(first, offset)| Piece {
            first: Pfn::new(first),
            frames: BLOCK.min(self.frames - offset),
        })
    }
}

/// The frames of `ram` one of whose entries `columns` is `wanted`, ascending; an entry that is not present, or leads
/// nowhere, need not be asked about.
pub(super) fn frames_where<M: PhysicalMemory + Sync + ?Sized>(
    memory: &M,
    ram: &[PhysRange],
    columns: &[u16],
    wanted: impl Fn(u16, Entry) -> bool + Sync,
) -> Vec<Pfn> {
    in_pieces(memory, ram, |piece, found| {
        let mut entries = [Entry::ABSENT; BLOCK];
        let mut is_wanted = [false; BLOCK];
        for block in piece.blocks() {
            let entries = &mut entries[..block.frames];
            for index in columns {
                memory.read_links(block.first, *index, entries);
                for (is_wanted, entry) in is_wanted.iter_mut().zip(&*entries) {
                    *is_wanted |= wanted(*index, *entry);
                }
            }
            let all = is_wanted.iter_mut().zip(block.pfns());
            found.extend(all.filter_map(|(is_wanted, pfn)| mem::take(is_wanted).then_some(pfn)));
        }
    })
}

/// The frames of `ram` whose words are `wanted`, ascending: reads all of memory.
pub(super) fn frames_that<M: PhysicalMemory + Sync + ?Sized>(
    memory: &M,
    ram: &[PhysRange],
    wanted: impl Fn(Pfn, &Words) -> bool + Sync,
) -> Vec<Pfn> {
    in_pieces(memory, ram, |piece, found| {
        let mut words: Words = [0; 512];
        found.extend(
            piece
                .pfns()
                .filter(|pfn| memory.read_table(*pfn, &mut words).is_ok() && wanted(*pfn, &words)),
        );
    })
}

/// Whether `at` is RAM.
pub(super) fn is_in_ram(at: PhysAddr, ram: &[PhysRange]) -> bool {
    ram_at(at, ram).is_some()
}

/// The range of RAM that an address lies in.
pub(super) fn ram_at(at: PhysAddr, ram: &[PhysRange]) -> Option<&PhysRange> {
    let first = ram.partition_point(|range| range.end() <= at);
    ram.get(first).filter(|range| range.start <= at)
}

/// Lets several threads look through memory piece by piece: what they find, ascending.
fn in_pieces<M: PhysicalMemory + Sync + ?Sized>(
    memory: &M,
    ram: &[PhysRange],
    look_at: impl Fn(Piece, &mut Vec<Pfn>) + Sync,
) -> Vec<Pfn> {
    let pieces = pieces(memory, ram);
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .clamp(1, MAX_THREADS)
        .min(pieces.len());
    let look = || {
        let mut found = Vec::new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            look_at(*piece, &mut found);
        }
        found
    };
    let mut found = thread::scope(|scope| {
        // Where there is no other thread to be had, this one does it all.
        let other = |_| thread::Builder::new().spawn_scoped(scope, look).ok();
        let others: Vec<_> = (1..threads).map_while(other).collect();
        let mut found = look();
        for other in others {
            match other.join() {
                Ok(more) => found.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        found
    });
    found.sort_unstable();
    found
}

fn pieces<M: PhysicalMemory + ?Sized>(memory: &M, ram: &[PhysRange]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for range in ram {
        let whole = range.whole_frames();
        let (mut next, end) = (whole.start / PAGE_SIZE, whole.end / PAGE_SIZE);
        for data in memory.data_in(*range) {
            // Of a frame that is data in part, all.
            let last = data.end().get().div_ceil(PAGE_SIZE).min(end);
            next = next.max(data.start.get() / PAGE_SIZE);
            add(&mut pieces, next, last);
            next = next.max(last);
        }
    }
    pieces
}

/// The frames from `next` to `end`.
fn add(pieces: &mut Vec<Piece>, mut next: u64, end: u64) {
    while next < end {
        let frames = (end - next).min(PIECE);
        pieces.push(Piece {
            first: Pfn::new(next),
            frames: usize::try_from(frames).unwrap_or(0),
        });
        next += frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeMemory;

    #[test]
    fn every_frame_of_every_piece_of_ram_is_looked_at_and_none_outside() {
        let mut memory = FakeMemory::new();
        let marked = Entry::new(0x1234_5003);
        // The first and last frames of RAM and of pieces, and a frame that is not RAM.
        let wanted = [1, 8192, 8193, 20_000, 0x10_0000, 0x10_0001];
        for pfn in wanted.into_iter().chain([30_000]) {
            memory.poke(Pfn::new(pfn), 511, marked);
        }
        memory.poke(Pfn::new(5), 510, marked);
        let ram =
            [(0x1000, 20_000 * 4096), (0x1_0000_0000, 0x2000)].map(|(start, bytes)| PhysRange {
                start: PhysAddr::new(start),
                bytes,
            });
        let found = frames_where(&memory, &ram, &[511], |_, entry| entry == marked);
        assert_eq!(found, wanted.map(Pfn::new));
        // By another entry, too, in order, and each once.
        for pfn in [2, 8193] {
            memory.poke(Pfn::new(pfn), 510, marked);
        }
        let found = frames_where(&memory, &ram, &[511, 510], |index, entry| {
            entry == marked && index >= 510
        });
        assert_eq!(
            found,
            [1, 2, 5, 8192, 8193, 20_000, 0x10_0000, 0x10_0001].map(Pfn::new)
        );
        let found = frames_where(&memory, &ram, &[511, 510], |index, entry| {
            entry == marked && index == 510
        });
        assert_eq!(found, [2, 5, 8193].map(Pfn::new));
        let found = frames_that(&memory, &ram, |_, words| words[511] == marked.get());
        assert_eq!(found, wanted.map(Pfn::new));
        assert_eq!(frames_where(&memory, &[], &[511], |_, _| true), []);
    }

    /// Memory that knows what of it is data.
    struct Sparse(FakeMemory, Vec<PhysRange>);

    impl PhysicalMemory for Sparse {
        fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), crate::MemoryError> {
            let frame = at.pfn().base();
            assert!(self.1.iter().any(|data| data.overlaps(frame, 4096)), "{at}");
            self.0.read_bytes(at, buffer)
        }

        fn data_in(&self, _: PhysRange) -> Vec<PhysRange> {
            self.1.clone()
        }
    }

    #[test]
    fn holes_are_passed_over_and_frames_that_are_data_in_part_are_not() {
        let mut memory = FakeMemory::new();
        let marked = Entry::new(0x1234_5003);
        for pfn in [2, 3, 0x4000_0000] {
            memory.poke(Pfn::new(pfn), 511, marked);
        }
        let range = |start, bytes| PhysRange {
            start: PhysAddr::new(start),
            bytes,
        };
        let data = vec![range(0x2ff8, 16), range(0x4_0000_0000_0ff0, 16)];
        let memory = Sparse(memory, data);
        let found = frames_where(&memory, &[range(0, 1 << 60)], &[511], |_, entry| {
            entry == marked
        });
        assert_eq!(found, [2, 3].map(Pfn::new));
    }
}
