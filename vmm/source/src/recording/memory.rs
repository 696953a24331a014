//! Guest memory around a recording: which bytes of a live guest were looked at, and the bytes of a
//! recorded one.

use std::cell::RefCell;

use heirloom_inspect::memory::{MemoryError, PhysicalMemory, Words};
use heirloom_inspect::paging::addr::{PAGE_SIZE, Pfn, PhysAddr};
use heirloom_inspect::paging::level::Level;
use heirloom_inspect::snapshot::Snapshot;

/// Bytes of guest memory that are no page table, or were not looked at as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they are.
    pub at: PhysAddr,
    /// What they are.
    pub bytes: Vec<u8>,
}

/// Most bytes of a moment that a [`ReadLog`] keeps; a judge looks at a handful.
const MAX_LOGGED: usize = 1 << 16;

/// A guest's memory, and the bytes that were read of it through here.
#[derive(Debug)]
pub struct ReadLog<'m, M: ?Sized> {
    memory: &'m M,
    pieces: RefCell<Vec<Piece>>,
}

impl<'m, M: PhysicalMemory + ?Sized> ReadLog<'m, M> {
    /// Nothing has been read yet.
    pub fn new(memory: &'m M) -> ReadLog<'m, M> {
        ReadLog {
            memory,
            pieces: RefCell::default(),
        }
    }

    /// What was read, neighbours joined.
    pub fn into_pieces(self) -> Vec<Piece> {
        let mut pieces = self.pieces.into_inner();
        pieces.sort_by_key(|piece| piece.at);
        let mut joined: Vec<Piece> = Vec::new();
        for piece in pieces {
            let end = |piece: &Piece| piece.at.get().saturating_add(piece.bytes.len() as u64);
            match joined.last_mut() {
                // The guest stands still, so bytes that were read twice are the same.
                Some(last) if piece.at.get() <= end(last) => {
                    let known = end(last) - piece.at.get();
                    let known = usize::try_from(known).unwrap_or(usize::MAX);
                    last.bytes.extend(piece.bytes.get(known..).unwrap_or(&[]));
                }
                _ => joined.push(piece),
            }
        }
        joined
    }
}

impl<M: PhysicalMemory + ?Sized> PhysicalMemory for ReadLog<'_, M> {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_bytes(at, buffer)?;
        let mut pieces = self.pieces.borrow_mut();
        let kept: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        if kept + buffer.len() <= MAX_LOGGED {
            pieces.push(Piece {
                at,
                bytes: buffer.to_vec(),
            });
        }
        Ok(())
    }
}

/// The memory of a recorded moment: its page tables, and what else was recorded. Reading elsewhere is
/// an error, as if the guest had no memory there.
#[derive(Clone, Debug)]
pub struct RecordedMemory {
    snapshot: Option<Snapshot>,
    pieces: Vec<Piece>,
}

impl RecordedMemory {
    pub(super) fn new(snapshot: Option<Snapshot>, pieces: Vec<Piece>) -> RecordedMemory {
        RecordedMemory { snapshot, pieces }
    }

    /// What was recorded beside the page tables.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    fn table(&self, pfn: Pfn) -> Option<&Words> {
        let snapshot = self.snapshot.as_ref()?;
        Level::ALL
            .into_iter()
            .find_map(|level| snapshot.table(pfn, level))
            .map(|table| &**table.words())
    }
}

impl PhysicalMemory for RecordedMemory {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        let piece = self.pieces.iter().find_map(|piece| {
            let offset = usize::try_from(at.get().checked_sub(piece.at.get())?).ok()?;
            piece.bytes.get(offset..)?.get(..length)
        });
        match piece {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => {
                read_by_frame(at, buffer, |pfn| self.table(pfn)).ok_or(MemoryError { at, length })
            }
        }
    }
}

/// Fills `buffer` from `at` on, out of frames; `None` if one is not there.
pub(super) fn read_by_frame<'f>(
    at: PhysAddr,
    buffer: &mut [u8],
    frame: impl Fn(Pfn) -> Option<&'f Words>,
) -> Option<()> {
    let mut next = at;
    let mut rest = buffer;
    while !rest.is_empty() {
        let offset = next.get() % PAGE_SIZE;
        let in_frame = usize::try_from(PAGE_SIZE - offset).ok()?.min(rest.len());
        let words = frame(next.pfn())?;
        let (now, later) = rest.split_at_mut(in_frame);
        for (at, byte) in (offset..).zip(now) {
            let word = words.get(usize::try_from(at / 8).ok()?)?;
            *byte = word.to_le_bytes()[usize::try_from(at % 8).ok()?];
        }
        rest = later;
        if !rest.is_empty() {
            next = next.checked_add(in_frame as u64)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use heirloom_inspect::Entry;
    use heirloom_inspect::testing::FakeMemory;

    #[test]
    fn a_log_of_reads_joins_what_touches_and_keeps_apart_what_does_not() {
        let mut memory = FakeMemory::new();
        let frame = memory.frame();
        memory.poke(frame, 0, Entry::new(0x0807_0605_0403_0201));
        let log = ReadLog::new(&memory);
        let at = |offset| frame.base().wrapping_add(offset);
        for offset in [2, 0, 1, 1] {
            log.read_bytes(at(offset), &mut [0]).unwrap();
        }
        log.read_bytes(at(6), &mut [0; 2]).unwrap();
        assert!(log.read_bytes(PhysAddr::new(1 << 40), &mut [0]).is_err());
        let piece = |offset, bytes: &[u8]| Piece {
            at: at(offset),
            bytes: bytes.to_vec(),
        };
        assert_eq!(log.into_pieces(), [piece(0, &[1, 2, 3]), piece(6, &[7, 8])]);
    }

    #[test]
    fn a_read_across_frames_needs_both() {
        let page = [0x1122_3344_5566_7788; 512];
        let mut buffer = [0; 4];
        let end = PhysAddr::new(0x1ffe);
        assert_eq!(read_by_frame(end, &mut buffer, |_| Some(&page)), Some(()));
        assert_eq!(buffer, [0x22, 0x11, 0x88, 0x77]);
        let first = |pfn: Pfn| (pfn.get() == 1).then_some(&page);
        assert_eq!(read_by_frame(end, &mut buffer, first), None);
        assert_eq!(read_by_frame(end, &mut buffer[..2], first), Some(()));
        let last = PhysAddr::new(u64::MAX);
        assert_eq!(read_by_frame(last, &mut buffer, |_| Some(&page)), None);
        assert_eq!(
            read_by_frame(last, &mut buffer[..1], |_| Some(&page)),
            Some(())
        );
    }
}
