//! Guest memory that is unpacked page by page when it is read.
//!
//! What takes the time is unpacking; so pages that were read are kept, in a cache whose size does not depend
//! on the dump. Looking through all of memory (`read_column`) passes it by: it would only drive out
//! what is of use.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use heirloom_inspect::Entry;

use super::sketch::{Chunk, Sketches};

pub(crate) const PAGE: usize = 4096;
/// A page's bytes.
pub(crate) type Page = [u8; PAGE];

/// Parts of the cache, each with a lock of its own.
const SHARDS: usize = 16;
/// Pages in each of them: 32 MiB in all.
const SHARD: usize = 512;

/// What there is of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The buffer holds it.
    Here,
    /// It is all zero; the buffer holds anything.
    Zero,
    /// The file does not have it.
    LeftOut,
    /// The file has it, but it cannot be unpacked.
    Damaged,
}

/// A format whose pages are unpacked one by one. Pages are counted from guest-physical address 0.
pub(crate) trait Format: Debug + Send + Sync {
    /// What reading page after page goes by: buffers, the place in the file.
    type Reader: Debug + Default + Send;

    /// Unpacks page `number`.
    fn unpack(&self, reader: &mut Self::Reader, number: u64, page: &mut Page) -> Found;

    /// The first offset that the file has lost since it was opened.
    fn lost_at(&self) -> Option<u64>;
}

/// [`Format`] without its type.
pub(crate) trait PagedSource: Debug + Send + Sync {
    /// Fills `buffer` from guest-physical address `at` on: whether all of it is there.
    fn read(&self, at: u64, buffer: &mut [u8]) -> bool;
    /// Reads the words at `at`, `at` + 4096 and so on; absent where there is no page.
    fn read_column(&self, at: u64, entries: &mut [Entry]);
    /// The same, of entries that lead to tables: others may come as absent.
    fn read_links(&self, at: u64, entries: &mut [Entry]);
    /// The guest has no RAM from `end` on.
    fn ends_at(&mut self, end: u64);
    /// The first offset that the file has lost since it was opened.
    fn lost_at(&self) -> Option<u64>;
    /// How many times a page could not be unpacked, and the last such page.
    fn damaged(&self) -> Option<u64>;
}

/// Memory in a format.
#[derive(Debug)]
pub(crate) struct Paged<F: Format> {
    format: F,
    shards: [Mutex<Shard>; SHARDS],
    /// Those that nobody reads with now.
    readers: Mutex<Vec<F::Reader>>,
    sketches: Sketches,
    /// One more than the number of a page that could not be unpacked; 0 if there was none.
    damaged: AtomicU64,
}

/// A part of the cache. A page that was asked for since the hand last came by is passed over once.
#[derive(Debug, Default)]
struct Shard {
    places: HashMap<u64, usize>,
    pages: Vec<Kept>,
    hand: usize,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    /// `None`: all zero.
    page: Option<Box<Page>>,
    asked_for: bool,
}

impl<F: Format> Paged<F> {
    pub(crate) fn new(format: F) -> Paged<F> {
        Paged {
            format,
            shards: Default::default(),
            readers: Mutex::default(),
            sketches: Sketches::default(),
            damaged: AtomicU64::new(0),
        }
    }

    fn reader(&self) -> F::Reader {
        lock(&self.readers).pop().unwrap_or_default()
    }

    fn put_back(&self, reader: F::Reader) {
        lock(&self.readers).push(reader);
    }

    fn unpack(&self, reader: &mut F::Reader, number: u64, page: &mut Page) -> Found {
        let found = self.format.unpack(reader, number, page);
        if found == Found::Damaged {
            self.damaged.store(number + 1, Ordering::Relaxed);
        }
        found
    }

    /// Unpacks a page into `page` for its word at `from`, and remembers of it what may lead to tables.
    fn link(
        &self,
        reader: &mut F::Reader,
        sketches: &Chunk,
        (number, from): (u64, usize),
        page: &mut Page,
    ) -> Entry {
        let found = self.unpack(reader, number, page);
        let words = (found == Found::Here).then_some(&*page);
        sketches.remember(number, words);
        let Some(word) = words.and_then(|words| words[from..].first_chunk()) else {
            return Entry::ABSENT;
        };
        let word = u64::from_le_bytes(*word);
        sketches.keep(number, from, word);
        Entry::new(word)
    }

    /// Copies the part of page `number` that begins at `from`.
    fn copy(&self, number: u64, from: usize, buffer: &mut [u8]) -> bool {
        let shard = &self.shards[modulo(number, SHARDS)];
        if lock(shard).copy(number, from, buffer) {
            return true;
        }
        let mut page = Box::new([0; PAGE]);
        let mut reader = self.reader();
        let found = self.unpack(&mut reader, number, &mut page);
        self.put_back(reader);
        let page = match found {
            Found::Here => Some(page),
            Found::Zero => None,
            Found::LeftOut | Found::Damaged => return false,
        };
        let mut shard = lock(shard);
        shard.keep(number, page);
        shard.copy(number, from, buffer)
    }
}

impl<F: Format> PagedSource for Paged<F> {
    fn read(&self, at: u64, buffer: &mut [u8]) -> bool {
        let (mut at, mut rest) = (at, buffer);
        while !rest.is_empty() {
            let from = modulo(at, PAGE);
            let here = (PAGE - from).min(rest.len());
            let (now, later) = rest.split_at_mut(here);
            if !self.copy(at / PAGE as u64, from, now) {
                return false;
            }
            at = at.wrapping_add(here as u64);
            rest = later;
        }
        true
    }

    fn read_column(&self, at: u64, entries: &mut [Entry]) {
        let mut page = Box::new([0; PAGE]);
        let mut reader = self.reader();
        let from = modulo(at, PAGE);
        for (number, entry) in (at / PAGE as u64..).zip(entries) {
            let mut word = [0; 8];
            *entry = match page.get(from..from + 8) {
                // It reaches over the end of its page.
                None if self.read(number * PAGE as u64 + from as u64, &mut word) => {
                    Entry::new(u64::from_le_bytes(word))
                }
                None => Entry::ABSENT,
                Some(_) => match self.unpack(&mut reader, number, &mut page) {
                    Found::Here => {
                        word.copy_from_slice(&page[from..from + 8]);
                        Entry::new(u64::from_le_bytes(word))
                    }
                    _ => Entry::ABSENT,
                },
            };
        }
        self.put_back(reader);
    }

    fn read_links(&self, at: u64, entries: &mut [Entry]) {
        let from = modulo(at, PAGE);
        if !from.is_multiple_of(8) {
            return self.read_column(at, entries);
        }
        let mut page = Box::new([0; PAGE]);
        let mut reader = self.reader();
        let mut chunk = None;
        for (number, entry) in (at / PAGE as u64..).zip(entries) {
            *entry = Entry::ABSENT;
            let sketches = self.sketches.chunk(number, chunk.take());
            if sketches.may_lead(number, from) {
                *entry = match sketches.kept(number, from) {
                    Some(word) => Entry::new(word),
                    None => self.link(&mut reader, &sketches, (number, from), &mut page),
                };
            }
            chunk = Some(sketches);
        }
        self.put_back(reader);
    }

    fn ends_at(&mut self, end: u64) {
        self.sketches.below(end);
    }

    fn lost_at(&self) -> Option<u64> {
        self.format.lost_at()
    }

    fn damaged(&self) -> Option<u64> {
        self.damaged.load(Ordering::Relaxed).checked_sub(1)
    }
}

impl Shard {
    fn copy(&mut self, number: u64, from: usize, buffer: &mut [u8]) -> bool {
        let Some(place) = self.places.get(&number) else {
            return false;
        };
        let kept = &mut self.pages[*place];
        kept.asked_for = true;
        match &kept.page {
            Some(page) => buffer.copy_from_slice(&page[from..from + buffer.len()]),
            None => buffer.fill(0),
        }
        true
    }

    fn keep(&mut self, number: u64, page: Option<Box<Page>>) {
        if self.places.contains_key(&number) {
            return;
        }
        let kept = Kept {
            number,
            page,
            asked_for: false,
        };
        if self.pages.len() < SHARD {
            self.places.insert(number, self.pages.len());
            self.pages.push(kept);
            return;
        }
        while std::mem::take(&mut self.pages[self.hand].asked_for) {
            self.hand = (self.hand + 1) % SHARD;
        }
        let old = std::mem::replace(&mut self.pages[self.hand], kept);
        self.places.remove(&old.number);
        self.places.insert(number, self.hand);
        self.hand = (self.hand + 1) % SHARD;
    }
}

/// `value` modulo `of`.
fn modulo(value: u64, of: usize) -> usize {
    usize::try_from(value % of as u64).unwrap_or_default()
}

/// What a thread that panicked left is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
