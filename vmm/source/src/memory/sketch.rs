//! What is remembered of pages that were unpacked once: where in them an entry may lead to a table.
//!
//! The search for roots looks through all of memory for one entry after the other, and unpacking a page again
//! for each is most of its time. Of each page it is remembered in which groups of eight words there is anything to be
//! found, and of those groups which words, as long as there is room: a third of all pages have small numbers
//! somewhere that look like entries, but one in a hundred has one at a given place. That one is kept, too: the
//! search comes back to the same places.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::paged::Page;

/// Pages that are remembered together.
const CHUNK: u64 = 1 << 15;
/// As many such take 48 MiB: they are of 16 GiB of RAM. Of more, nothing is remembered.
const CHUNKS: usize = 128;
/// Bytes for the words of groups, one for each group that has any. When they are used up, groups must do.
const WORDS: usize = 8 << 20;
/// As many words are kept as they are, which take 4 MiB.
const KEPT: usize = 1 << 17;
/// A page of which nothing is known yet.
const UNKNOWN: u32 = 0;
/// A page of whose groups the words are not known.
const GROUPS_ONLY: u32 = 1;
/// The place of the first byte.
const FIRST: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Sketches {
    chunks: RwLock<HashMap<u64, Arc<Pages>>>,
    /// Bits that no address of the guest's RAM has.
    too_high: u64,
    /// What all pages take together.
    used: Arc<Used>,
}

#[derive(Debug, Default)]
struct Used {
    /// Bytes for the words of groups.
    bytes: AtomicUsize,
    /// Words that are kept.
    kept: AtomicUsize,
}

/// What is remembered of some pages.
#[derive(Debug)]
struct Pages {
    /// For each page a bit for each eight words.
    groups: Box<[AtomicU64]>,
    /// For each page where in `words` its bytes begin.
    places: Box<[AtomicU32]>,
    /// For each group whose bit is set, ascending, a bit for each word.
    words: RwLock<Vec<u8>>,
    /// Words that were asked for, by page and place.
    kept: RwLock<HashMap<u32, u64>>,
    /// Of all pages, these and others.
    used: Arc<Used>,
}

/// The sketches of some pages.
pub(super) struct Chunk {
    number: u64,
    too_high: u64,
    pages: Option<Arc<Pages>>,
}

impl Sketches {
    /// From now on, of a guest whose RAM ends below `end`. The more is known, the fewer words of data look as if
    /// they led to a table: without it a fifth of all pages is unpacked again for each entry.
    pub(super) fn below(&mut self, end: u64) {
        let below = end.checked_next_power_of_two().unwrap_or(1 << 63);
        *self = Sketches {
            too_high: ADDRESS & !(below - 1),
            ..Sketches::default()
        };
    }

    /// Those of page `page` and its neighbours; `last` if it is one of them.
    pub(super) fn chunk(&self, page: u64, last: Option<Chunk>) -> Chunk {
        let number = page / CHUNK;
        if let Some(last) = last.filter(|last| last.number == number) {
            return last;
        }
        let known = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let pages = known.get(&number).cloned();
        drop(known);
        let pages = pages.or_else(|| {
            let mut known = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= CHUNKS && !known.contains_key(&number) {
                return None;
            }
            let new = || Arc::new(Pages::new(Arc::clone(&self.used)));
            Some(Arc::clone(known.entry(number).or_insert_with(new)))
        });
        Chunk {
            number,
            too_high: self.too_high,
            pages,
        }
    }
}

impl Chunk {
    /// Whether the word at `offset` of a page may lead to a table, or it is not known.
    pub(super) fn may_lead(&self, page: u64, offset: usize) -> bool {
        let pages = self.pages.as_ref();
        pages.is_none_or(|pages| pages.may_lead((page % CHUNK) as usize, offset / 8))
    }

    /// The word at `offset` of a page, if it was kept.
    pub(super) fn kept(&self, page: u64, offset: usize) -> Option<u64> {
        let pages = self.pages.as_ref()?;
        let kept = pages.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.get(&word_of(page, offset)).copied()
    }

    /// Keeps the word at `offset` of a page, if it may lead to a table and there is room.
    pub(super) fn keep(&self, page: u64, offset: usize, word: u64) {
        let Some(pages) = self
            .pages
            .as_ref()
            .filter(|_| may_lead(word, self.too_high))
        else {
            return;
        };
        if pages.used.kept.fetch_add(1, Ordering::Relaxed) >= KEPT {
            pages.used.kept.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let mut kept = pages.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.insert(word_of(page, offset), word);
    }

    /// Remembers a page; `None` if there is nothing in it.
    pub(super) fn remember(&self, page: u64, words: Option<&Page>) {
        if let Some(pages) = &self.pages {
            let page = (page % CHUNK) as usize;
            match words {
                Some(words) => pages.remember(page, &words_that_lead(words, self.too_high)),
                None => pages.places[page].store(GROUPS_ONLY, Ordering::Release),
            }
        }
    }
}

impl Pages {
    fn new(used: Arc<Used>) -> Pages {
        Pages {
            groups: (0..CHUNK).map(|_| AtomicU64::new(0)).collect(),
            places: (0..CHUNK).map(|_| AtomicU32::new(UNKNOWN)).collect(),
            words: RwLock::default(),
            kept: RwLock::default(),
            used,
        }
    }

    fn may_lead(&self, page: usize, word: usize) -> bool {
        let (group, word) = (word / 8, word % 8);
        // The place is stored last.
        let place = self.places[page].load(Ordering::Acquire);
        let groups = self.groups[page].load(Ordering::Relaxed);
        match place {
            UNKNOWN => true,
            _ if groups & 1 << group == 0 => false,
            GROUPS_ONLY => true,
            place => {
                let below = (groups & ((1 << group) - 1)).count_ones();
                let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
                let byte = words.get((place - FIRST + below) as usize);
                byte.is_none_or(|byte| byte & 1 << word != 0)
            }
        }
    }

    fn remember(&self, page: usize, found: &[u8; 64]) {
        if self.places[page].load(Ordering::Relaxed) > GROUPS_ONLY {
            return;
        }
        let is_set = |group: usize| u64::from(found[group] != 0) << group;
        let groups = (0..64).map(is_set).fold(0, |all, bit| all | bit);
        let place = self.keep(found).unwrap_or(GROUPS_ONLY);
        self.groups[page].store(groups, Ordering::Relaxed);
        self.places[page].store(place, Ordering::Release);
    }

    /// Keeps the bytes that are not zero: their place, if there is room.
    fn keep(&self, found: &[u8; 64]) -> Option<u32> {
        let bytes = found.iter().filter(|byte| **byte != 0).count();
        let used = &self.used.bytes;
        if used.fetch_add(bytes, Ordering::Relaxed) > WORDS - 64 {
            used.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        let mut words = self.words.write().unwrap_or_else(PoisonError::into_inner);
        let place = u32::try_from(words.len()).ok()?.checked_add(FIRST)?;
        words.extend(found.iter().filter(|byte| **byte != 0));
        Some(place)
    }
}

/// The how-manieth word of its chunk the one at `offset` of a page is.
fn word_of(page: u64, offset: usize) -> u32 {
    u32::try_from(page % CHUNK * 512 + offset as u64 / 8).unwrap_or_default()
}

/// The bits of an entry that are an address, and not 47 and 51.
const ADDRESS: u64 = 0x0007_7fff_ffff_f000;

/// For each eight words, a bit for each that may lead to a table.
fn words_that_lead(page: &Page, too_high: u64) -> [u8; 64] {
    let mut found = [0; 64];
    for (group, words) in found.iter_mut().zip(page.as_chunks::<64>().0) {
        let words = words.as_chunks::<8>().0;
        let mut bits = [0; 8];
        for (bit, word) in bits.iter_mut().zip(words) {
            *bit = u8::from(may_lead(u64::from_le_bytes(*word), too_high));
        }
        *group = (0..8).fold(0, |all, bit| all | bits[bit] << bit);
    }
    found
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
            let leads = [7, 495, 511].contains(&word);
            assert_eq!(chunk.may_lead(5, 8 * word), leads, "{word}");
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

    #[test]
    fn a_word_that_may_lead_to_a_table_is_kept_as_long_as_there_is_room() {
        let sketches = Sketches::default();
        let chunk = sketches.chunk(5, None);
        assert_eq!(chunk.kept(5, 8), None);
        chunk.keep(5, 8, 0x1063);
        chunk.keep(5, 16, 0x1062);
        chunk.keep(6, 24, 0x2063);
        assert_eq!(chunk.kept(5, 8), Some(0x1063));
        assert_eq!(chunk.kept(5, 16), None, "not present");
        let chunk = sketches.chunk(6, Some(chunk));
        for page in 0..KEPT as u64 {
            let chunk = sketches.chunk(page, None);
            chunk.keep(page, 4088, page << 12 | 1);
        }
        assert_eq!(chunk.kept(6, 4088), Some(0x6001));
        let last = KEPT as u64 - 1;
        assert_eq!(sketches.chunk(last, None).kept(last, 4088), None);
    }

    #[test]
    fn where_there_is_no_room_for_words_their_groups_are_known() {
        let sketches = Sketches::default();
        let chunk = sketches.chunk(0, None);
        let mut page: Page = [0; 4096];
        for word in (0..512).step_by(8) {
            page[word * 8] = 1;
        }
        let room = WORDS as u64 / 64;
        for number in 0..2 * room {
            let chunk = sketches.chunk(number, None);
            // A second time takes no more room.
            chunk.remember(number, Some(&page));
            chunk.remember(number, Some(&page));
        }
        for (number, is_known) in [(0, true), (room - 1, true), (room + 1, false)] {
            let chunk = sketches.chunk(number, None);
            assert!(chunk.may_lead(number, 8 * 80));
            assert_eq!(chunk.may_lead(number, 8 * 81), !is_known, "{number}");
        }
        page = [0; 4096];
        page[8] = 1;
        let last = 2 * room;
        let chunk_of_last = sketches.chunk(last, Some(chunk));
        chunk_of_last.remember(last, Some(&page));
        assert!(!chunk_of_last.may_lead(last, 8 * 8));
    }
}
