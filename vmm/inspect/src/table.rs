//! One captured page table: a frame's words, and what they mean at the level where it is used.

use std::sync::Arc;

use crate::memory::Words;
use heirloom_paging::addr::Pfn;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::Level;
use heirloom_paging::mode::Mode;

/// Where a snapshot keeps a table: an index that stays the same from one capture to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A page table as it was when it was captured. Immutable; a later snapshot that found the same
/// bytes holds the same `Arc`.
#[derive(Debug)]
pub struct Table {
    pfn: Pfn,
    level: Level,
    mode: Mode,
    words: Arc<Words>,
    present: EntrySet,
    /// The entries that point to tables …
    pointers: EntrySet,
    /// … and where those are, in the same order; `None` for those that no longer fitted.
    links: Box<[Option<Slot>]>,
    /// No present entry has a reserved bit set.
    sound: bool,
}

impl Table {
    /// Reads the meaning of `words`; `intern` says where the table that an entry (by its index) points to
    /// is kept.
    pub(crate) fn parse(
        pfn: Pfn,
        level: Level,
        mode: Mode,
        words: Arc<Words>,
        mut intern: impl FnMut(u16, Pfn, Level) -> Option<Slot>,
    ) -> Table {
        let mut present = EntrySet::default();
        let mut pointers = EntrySet::default();
        let mut links = Vec::new();
        let mut sound = true;
        for (index, &word) in (0u16..).zip(words.iter()) {
            match Entry::new(word).decode(level, &mode) {
                Decoded::Absent => continue,
                Decoded::Table(target) => {
                    if let Some(next) = level.next() {
                        pointers.insert(index);
                        links.push(intern(index, target, next));
                    }
                }
                Decoded::Leaf(_) => {}
                Decoded::Reserved { .. } => sound = false,
            }
            present.insert(index);
        }
        Table {
            pfn,
            level,
            mode,
            words,
            present,
            pointers,
            links: links.into(),
            sound,
        }
    }

    /// The frame that the table is in.
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The level at which it is used.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Entry `index`, below 512; higher ones are absent.
    #[inline]
    pub fn entry(&self, index: u16) -> Entry {
        self.words
            .get(usize::from(index))
            .map_or(Entry::ABSENT, |&word| Entry::new(word))
    }

    /// What entry `index` means.
    #[inline]
    pub fn decode(&self, index: u16) -> Decoded {
        self.entry(index).decode(self.level, &self.mode)
    }

    /// The entries with P set, with reserved bits or without.
    pub fn present(&self) -> EntrySet {
        self.present
    }

    /// The entries with P set that point to tables.
    pub fn pointers(&self) -> EntrySet {
        self.pointers
    }

    /// Every entry with P set, with its index, ascending.
    pub fn entries(&self) -> impl Iterator<Item = (u16, Entry)> {
        self.present.iter().map(|index| (index, self.entry(index)))
    }

    /// The 512 words. Tables of one frame used at several levels share them.
    pub fn words(&self) -> &Arc<Words> {
        &self.words
    }

    /// Where the table that entry `index` points to is kept.
    pub(crate) fn link(&self, index: u16) -> Option<Slot> {
        if !self.pointers.contains(index) {
            return None;
        }
        *self.links.get(self.pointers.rank(index))?
    }

    /// All tables that entries point to.
    pub(crate) fn links(&self) -> impl Iterator<Item = Slot> {
        self.links.iter().copied().flatten()
    }

    /// Entries that point to tables, and where those are kept.
    pub(crate) fn indexed_links(&self) -> impl Iterator<Item = (u16, Slot)> {
        self.pointers
            .iter()
            .zip(self.links.iter())
            .filter_map(|(index, slot)| Some((index, (*slot)?)))
    }

    /// Whether no present entry has a reserved bit set.
    pub fn is_sound(&self) -> bool {
        self.sound
    }
}
