//! Which piece of guest-physical memory comes from where.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use heirloom_inspect::{PhysAddr, PhysRange};

/// First address that no CPU can have: physical addresses have at most 52 bits.
pub(crate) const ADDRESS_LIMIT: u64 = 1 << 52;
/// More RAM is not believed, so that looking at all of it ends.
pub(crate) const RAM_LIMIT: u64 = heirloom_inspect::memory::MAX_RAM;

/// A range of guest-physical memory and where its bytes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    ram: PhysRange,
    /// Which of the memory's sources.
    source: usize,
    /// Of its first byte in the source.
    offset: u64,
}

impl Piece {
    /// `ram` stands in source number `source` from `offset` on.
    pub(crate) fn new(ram: PhysRange, source: usize, offset: u64) -> Piece {
        Piece {
            ram,
            source,
            offset,
        }
    }

    pub(crate) fn range(&self) -> PhysRange {
        self.ram
    }

    pub(crate) fn start(&self) -> PhysAddr {
        self.ram.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ram.bytes == 0
    }

    /// First address behind it.
    pub(crate) fn end(&self) -> u64 {
        self.ram.end().get()
    }

    pub(crate) fn source(&self) -> usize {
        self.source
    }

    /// Where the byte at `at`, which lies in the piece, stands in the source.
    pub(crate) fn offset_of(&self, at: PhysAddr) -> u64 {
        self.offset
            .wrapping_add(at.get().wrapping_sub(self.ram.start.get()))
    }

    /// Whether `next` goes on where this one ends, here and in the source.
    fn continues_in(&self, next: &Piece) -> bool {
        self.end() == next.ram.start.get()
            && self.source == next.source
            && self.offset_of(next.ram.start) == next.offset
    }
}

/// Pieces in ascending order that do not overlap.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout(Vec<Piece>);

impl Layout {
    /// Lays out `wanted`, whose pieces may overlap: an address comes from the first that has it. Takes
    /// n log n steps for n pieces, however they lie.
    pub(crate) fn of(wanted: Vec<Piece>) -> Layout {
        let mut by_start: Vec<(usize, Piece)> = wanted
            .into_iter()
            .enumerate()
            .filter(|(_, piece)| piece.ram.bytes > 0)
            .collect();
        by_start.sort_by_key(|(_, piece)| piece.ram.start);
        let mut edges: Vec<u64> = by_start
            .iter()
            .flat_map(|(_, piece)| [piece.ram.start.get(), piece.end()])
            .collect();
        edges.sort_unstable();
        edges.dedup();

        let mut pieces: Vec<Piece> = Vec::new();
        // Indices into `by_start` of the pieces that have begun, the first wanted on top.
        let mut begun: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
        let mut coming = by_start.iter().enumerate().peekable();
        for (edge, next) in edges.iter().zip(edges.iter().skip(1)) {
            while let Some((index, (priority, _))) =
                coming.next_if(|(_, (_, piece))| piece.ram.start.get() <= *edge)
            {
                begun.push(Reverse((*priority, index)));
            }
            while let Some(Reverse((_, index))) = begun.peek() {
                let piece = &by_start[*index].1;
                if piece.end() <= *edge {
                    begun.pop();
                    continue;
                }
                let start = PhysAddr::new(*edge);
                let ram = PhysRange {
                    start,
                    bytes: next - edge,
                };
                push(
                    &mut pieces,
                    Piece::new(ram, piece.source, piece.offset_of(start)),
                );
                break;
            }
        }
        Layout(pieces)
    }

    /// The same, of a source in which all of it stands `bytes` later.
    pub(crate) fn shifted(self, bytes: u64) -> Layout {
        let pieces = self.0.into_iter().map(|piece| Piece {
            offset: piece.offset.saturating_add(bytes),
            ..piece
        });
        Layout(pieces.collect())
    }

    /// The piece with `at` in it, or else the next one.
    pub(crate) fn at_or_behind(&self, at: PhysAddr) -> Option<&Piece> {
        self.0
            .get(self.0.partition_point(|piece| piece.end() <= at.get()))
    }

    /// The addresses that are laid out, touching pieces joined.
    pub(crate) fn ram(&self) -> Vec<PhysRange> {
        let mut ram: Vec<PhysRange> = Vec::new();
        for piece in &self.0 {
            match ram.last_mut() {
                Some(last) if last.end() == piece.ram.start => last.bytes += piece.ram.bytes,
                _ => ram.push(piece.ram),
            }
        }
        ram
    }

    /// First address behind all pieces.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().map_or(0, Piece::end)
    }

    /// All bytes that are laid out.
    pub(crate) fn bytes(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, piece| sum.saturating_add(piece.ram.bytes))
    }
}

fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last) if last.continues_in(&piece) => last.ram.bytes += piece.ram.bytes,
        _ => pieces.push(piece),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(start: u64, bytes: u64, source: usize, offset: u64) -> Piece {
        let start = PhysAddr::new(start);
        Piece::new(PhysRange { start, bytes }, source, offset)
    }

    #[test]
    fn the_first_of_two_pieces_wins_where_they_overlap() {
        let layout = Layout::of(vec![piece(10, 10, 0, 100), piece(0, 40, 1, 500)]);
        assert_eq!(
            layout.0,
            [
                piece(0, 10, 1, 500),
                piece(10, 10, 0, 100),
                piece(20, 20, 1, 520)
            ]
        );
        assert_eq!(layout.ram().len(), 1);
        assert_eq!(layout.bytes(), 40);
    }

    #[test]
    fn pieces_that_go_on_in_the_same_source_become_one_and_others_do_not() {
        let layout = Layout::of(vec![
            piece(0, 10, 0, 0),
            piece(20, 10, 0, 20),
            piece(10, 10, 0, 10),
            piece(30, 10, 0, 99),
            piece(50, 0, 0, 50),
        ]);
        assert_eq!(layout.0, [piece(0, 30, 0, 0), piece(30, 10, 0, 99)]);
    }

    proptest! {
        #[test]
        fn every_address_comes_from_the_first_piece_that_has_it(
            wanted in prop::collection::vec((0_u64..80, 0_u64..40, 0_usize..3, 0_u64..1000), 0..12)
        ) {
            let wanted: Vec<Piece> = wanted
                .into_iter()
                .map(|(start, bytes, source, offset)| piece(start, bytes, source, offset))
                .collect();
            let layout = Layout::of(wanted.clone());
            let source_of = |pieces: &[Piece], at: u64| {
                pieces
                    .iter()
                    .find(|piece| piece.start().get() <= at && at < piece.end())
                    .map(|piece| (piece.source, piece.offset_of(PhysAddr::new(at))))
            };
            for at in 0..130 {
                prop_assert_eq!(source_of(&layout.0, at), source_of(&wanted, at));
                let found = layout.at_or_behind(PhysAddr::new(at));
                prop_assert!(found.is_none_or(|piece| at < piece.end()));
            }
            prop_assert!(layout.0.is_sorted_by(|one, two| one.end() <= two.start().get()));
            let ram = layout.ram();
            prop_assert!(ram.is_sorted_by(|one, two| one.end() < two.start));
        }
    }
}
