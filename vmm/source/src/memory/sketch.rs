//! What is remembered of pages that were unpacked once: where in them an entry may lead to a table.
//!
//! The search for roots looks through all of memory for one entry after the other, and unpacking a page again
//! for each is most of its time. Eight bytes for each page tell in which of its words there is
//! anything to be found; of pages of data that is little.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::paged::Page;

/// Pages that are remembered together.
const CHUNK: u64 = 1 << 15;
/// As many such take 32 MiB: they are of 16 GiB of RAM. Of more, nothing is remembered.
const CHUNKS: usize = 128;
/// The page is known. The bits below are one for each eight words, the last two of them sharing one.
const KNOWN: u64 = 1 << 63;

#[derive(Debug, Default)]
pub(super) struct Sketches {
    chunks: RwLock<HashMap<u64, Arc<[AtomicU64]>>>,
    /// Bits that no address of the guest's RAM has.
    too_high: u64,
}

/// The sketches of some pages.
pub(super) struct Chunk {
    number: u64,
    too_high: u64,
    sketches: Option<Arc<[AtomicU64]>>,
}

impl Sketches {
    /// From now on, of a guest whose RAM ends below `end`. The more is known, the fewer words of data look as if
    /// they led to a table: without it a fifth of all pages is unpacked again for each entry.
    pub(super) fn below(&mut self, end: u64) {
        let below = end.checked_next_power_of_two().unwrap_or(1 << 63);
        self.too_high = ADDRESS & !(below - 1);
        self.chunks
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Those of page `page` and its neighbours; `last` if it is one of them.
    pub(super) fn chunk(&self, page: u64, last: Option<Chunk>) -> Chunk {
        let number = page / CHUNK;
        if let Some(last) = last.filter(|last| last.number == number) {
            return last;
        }
        let known = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let sketches = known.get(&number).cloned();
        drop(known);
        let sketches = sketches.or_else(|| {
            let mut known = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= CHUNKS && !known.contains_key(&number) {
                return None;
            }
            let new = || (0..CHUNK).map(|_| AtomicU64::new(0)).collect();
            Some(Arc::clone(known.entry(number).or_insert_with(new)))
        });
        Chunk {
            number,
            too_high: self.too_high,
            sketches,
        }
    }
}

impl Chunk {
    /// Whether the word at `offset` of a page may lead to a table, or it is not known.
    pub(super) fn may_lead(&self, page: u64, offset: usize) -> bool {
        let sketch = self.of(page).map_or(0, |it| it.load(Ordering::Relaxed));
        sketch & KNOWN == 0 || sketch & bit(offset / 8) != 0
    }

    /// Remembers a page; `None` if there is nothing in it.
    pub(super) fn remember(&self, page: u64, words: Option<&Page>) {
        if let Some(sketch) = self.of(page) {
            let found = words.map_or(0, |words| sketch_of(words, self.too_high));
            sketch.store(found | KNOWN, Ordering::Relaxed);
        }
    }

    fn of(&self, page: u64) -> Option<&AtomicU64> {
        self.sketches.as_ref()?.get((page % CHUNK) as usize)
    }
}

/// The bits of an entry that are an address, and not 47 and 51.
const ADDRESS: u64 = 0x0007_7fff_ffff_f000;

const fn bit(word: usize) -> u64 {
    let group = word / 8;
    1 << if group < 62 { group } else { 62 }
}

fn sketch_of(page: &Page, too_high: u64) -> u64 {
    let words = page.as_chunks::<8>().0.iter().enumerate();
    words
        .filter(|(_, word)| may_lead(u64::from_le_bytes(**word), too_high))
        .fold(0, |sketch, (number, _)| sketch | bit(number))
}

/// Whether an entry can be present and lead to memory that a machine has. Of the bits of an address those that may
/// say that a frame is encrypted, 47 and 51, are let pass.
const fn may_lead(entry: u64, too_high: u64) -> bool {
    const PRESENT: u64 = 1;
    const TOO_HIGH: u64 = 1 << 46 | 1 << 48 | 1 << 49 | 1 << 50;
    entry & (PRESENT | TOO_HIGH | too_high) == PRESENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_lead_to_a_table_is_never_passed_over_and_data_mostly_is() {
        let sketches = Sketches::default();
        let chunk = sketches.chunk(5, None);
        assert!(chunk.may_lead(5, 8 * 300));
        let mut page: Page = [0xff; 4096];
        for (word, entry) in [
            (7, 0x1000_u64 | 0x67),
            (495, 1),
            (511, 1 << 63 | 0x3f_ffff_f001),
        ] {
            page[word * 8..word * 8 + 8].copy_from_slice(&entry.to_le_bytes());
        }
        chunk.remember(5, Some(&page));
        chunk.remember(6, None);
        for word in 0..512 {
            let is_near = word < 8 || (488..496).contains(&word) || word >= 496;
            assert_eq!(chunk.may_lead(5, 8 * word), is_near, "{word}");
            assert!(!chunk.may_lead(6, 8 * word));
            assert!(chunk.may_lead(7, 8 * word));
        }
        // With less RAM, fewer words can lead there.
        let mut small = Sketches::default();
        small.below(3 << 30);
        let chunk = small.chunk(0, None);
        page.fill(0);
        for (word, entry) in [
            (7, 0xffff_f001_u64),
            (100, 0x1_0000_0001),
            (200, 1 << 51 | 0x1001),
        ] {
            page[word * 8..word * 8 + 8].copy_from_slice(&entry.to_le_bytes());
        }
        chunk.remember(0, Some(&page));
        for (word, may) in [(7, true), (100, false), (200, true)] {
            assert_eq!(chunk.may_lead(0, 8 * word), may, "{word}");
        }
        // Another look at the same chunk has what was remembered; far more RAM has nothing.
        assert!(!sketches.chunk(6, None).may_lead(6, 0));
        for number in 0..2 * CHUNKS as u64 {
            let chunk = sketches.chunk(number * CHUNK, None);
            chunk.remember(number * CHUNK, None);
            assert_eq!(chunk.may_lead(number * CHUNK, 0), number >= CHUNKS as u64);
        }
    }
}
