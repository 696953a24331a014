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
pub(super) struct Sketches(RwLock<HashMap<u64, Arc<[AtomicU64]>>>);

/// The sketches of some pages.
pub(super) struct Chunk {
    number: u64,
    sketches: Option<Arc<[AtomicU64]>>,
}

impl Sketches {
    /// Those of page `page` and its neighbours; `last` if it is one of them.
    pub(super) fn chunk(&self, page: u64, last: Option<Chunk>) -> Chunk {
        let number = page / CHUNK;
        if let Some(last) = last.filter(|last| last.number == number) {
            return last;
        }
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let sketches = known.get(&number).cloned();
        drop(known);
        let sketches = sketches.or_else(|| {
            let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= CHUNKS && !known.contains_key(&number) {
                return None;
            }
            let new = || (0..CHUNK).map(|_| AtomicU64::new(0)).collect();
            Some(Arc::clone(known.entry(number).or_insert_with(new)))
        });
        Chunk { number, sketches }
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
            let found = words.map_or(0, sketch_of);
            sketch.store(found | KNOWN, Ordering::Relaxed);
        }
    }

    fn of(&self, page: u64) -> Option<&AtomicU64> {
        self.sketches.as_ref()?.get((page % CHUNK) as usize)
    }
}

const fn bit(word: usize) -> u64 {
    let group = word / 8;
    1 << if group < 62 { group } else { 62 }
}

fn sketch_of(page: &Page) -> u64 {
    let words = page.as_chunks::<8>().0.iter().enumerate();
    words
        .filter(|(_, word)| may_lead(u64::from_le_bytes(**word)))
        .fold(0, |sketch, (number, _)| sketch | bit(number))
}

/// Whether an entry can be present and lead to memory that a machine has. Of the bits of an address those that may
/// say that a frame is encrypted, 47 and 51, are let pass.
const fn may_lead(entry: u64) -> bool {
    const PRESENT: u64 = 1;
    const TOO_HIGH: u64 = 1 << 46 | 1 << 48 | 1 << 49 | 1 << 50;
    entry & (PRESENT | TOO_HIGH) == PRESENT
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
        // Another look at the same chunk has what was remembered; far more RAM has nothing.
        assert!(!sketches.chunk(6, None).may_lead(6, 0));
        for number in 0..2 * CHUNKS as u64 {
            let chunk = sketches.chunk(number * CHUNK, None);
            chunk.remember(number * CHUNK, None);
            assert_eq!(chunk.may_lead(number * CHUNK, 0), number >= CHUNKS as u64);
        }
    }
}
