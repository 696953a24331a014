//! The table pages of a moment, as a memory that a capturer can read.

use std::collections::{HashMap, HashSet};

use heirloom_inspect::memory::{MemoryError, PhysicalMemory, Words};
use heirloom_inspect::{Capturer, Pfn, PhysAddr};

use crate::codec::{Get, Malformed, page};

/// Most pages that a moment may have: 512 MiB.
pub(super) const MAX_PAGES: usize = Capturer::DEFAULT_LIMIT;

/// The table pages of a moment, as a memory that a capturer can read.
#[derive(Debug)]
pub(super) struct Pages {
    /// There may be so many.
    max: usize,
    frames: HashMap<Pfn, Box<Words>>,
    /// Those that changed since [`Pages::seen`]; `None` if any may have.
    changed: Option<HashSet<Pfn>>,
}

impl Default for Pages {
    fn default() -> Pages {
        Pages {
            max: MAX_PAGES,
            frames: HashMap::new(),
            changed: None,
        }
    }
}

impl Pages {
    /// Forgets all pages.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.changed = None;
    }

    /// Takes in a list of pages: frame numbers and what became of them.
    pub(super) fn apply(&mut self, from: &mut Get<'_>) -> Result<(), Malformed> {
        for _ in 0..from.count("the number of pages")? {
            let pfn = Pfn::new(from.varint("a frame number")?);
            if pfn.base().pfn() != pfn {
                return Err(Malformed::Value("a frame number"));
            }
            let words = self
                .frames
                .entry(pfn)
                .or_insert_with(|| Box::new(page::ZERO));
            if !page::get(from, words)? {
                self.frames.remove(&pfn);
            }
            if self.frames.len() > self.max {
                return Err(Malformed::TooMany {
                    what: "pages",
                    max: self.max,
                });
            }
            if let Some(changed) = &mut self.changed {
                changed.insert(pfn);
            }
            // Pages that come and go need not be remembered without end.
            self.changed.take_if(|changed| changed.len() > self.max);
        }
        Ok(())
    }

    /// What changed since a capturer last read them; `None` if anything may have.
    pub(super) fn written(&self) -> Option<Vec<Pfn>> {
        let changed = self.changed.as_ref()?;
        Some(changed.iter().copied().collect())
    }

    /// A capturer has read them as they are now.
    pub(super) fn seen(&mut self) {
        self.changed.get_or_insert_default().clear();
    }
}

impl PhysicalMemory for Pages {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        super::memory::read_by_frame(at, buffer, |pfn| self.frames.get(&pfn).map(|page| &**page))
            .ok_or(MemoryError { at, length })
    }

    fn read_table(&self, table: Pfn, words: &mut Words) -> Result<(), MemoryError> {
        let page = self.frames.get(&table).ok_or(MemoryError {
            at: table.base(),
            length: size_of::<Words>(),
        })?;
        words.copy_from_slice(&**page);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Put;
    use proptest::prelude::*;

    /// A list of pages: `(frame, first word)`, or `None` for one that is gone.
    fn list(pages: &[(u64, Option<u64>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_varint(pages.len() as u64);
        for (frame, word) in pages {
            bytes.put_varint(*frame);
            match word {
                None => page::put_gone(&mut bytes),
                Some(word) => {
                    let mut words = page::ZERO;
                    words[0] = *word;
                    page::put(&mut bytes, &page::ZERO, &words);
                }
            }
        }
        bytes
    }

    fn word(pages: &Pages, frame: u64) -> Option<u64> {
        pages.read_u64(Pfn::new(frame).base()).ok()
    }

    #[test]
    fn pages_come_change_and_go() {
        let mut pages = Pages::default();
        let mut apply = |list: &[u8]| {
            pages
                .apply(&mut Get::new(list))
                .map(|()| pages.frames.len())
        };
        assert_eq!(apply(&list(&[(1, Some(7)), (2, Some(8))])), Ok(2));
        assert_eq!(apply(&list(&[(1, None), (3, Some(0))])), Ok(2));
        assert_eq!(apply(&list(&[(9, None)])), Ok(2));
        assert_eq!(
            [1, 2, 3, 9].map(|frame| word(&pages, frame)),
            [None, Some(8), Some(0), None]
        );
        pages.clear();
        assert_eq!(word(&pages, 2), None);
    }

    #[test]
    fn only_pages_that_were_listed_since_they_were_read_have_changed() {
        let mut pages = Pages::default();
        pages.apply(&mut Get::new(&list(&[(1, Some(7))]))).unwrap();
        let written = |pages: &Pages| {
            let mut written = pages.written()?;
            written.sort();
            Some(written)
        };
        assert_eq!(written(&pages), None, "nobody has read them");
        pages.seen();
        assert_eq!(written(&pages), Some(vec![]));
        pages.apply(&mut Get::new(&list(&[(2, Some(7))]))).unwrap();
        assert_eq!(written(&pages), Some(vec![Pfn::new(2)]));
        pages.seen();
        pages.clear();
        assert_eq!(written(&pages), None, "they may be others");
    }

    #[test]
    fn a_frame_number_beyond_all_addresses_is_refused() {
        let beyond = u64::MAX >> 12;
        let mut pages = Pages::default();
        assert_eq!(
            pages.apply(&mut Get::new(&list(&[(beyond, Some(1))]))),
            Ok(())
        );
        assert_eq!(
            pages.apply(&mut Get::new(&list(&[(beyond + 1, Some(1))]))),
            Err(Malformed::Value("a frame number"))
        );
    }

    #[test]
    fn more_pages_than_a_moment_may_have_are_refused_and_as_many_are_not() {
        let mut pages = Pages {
            max: 3,
            ..Pages::default()
        };
        let mut apply = |list: &[u8]| pages.apply(&mut Get::new(list));
        let three = [(0, Some(1)), (1, Some(1)), (2, Some(1))];
        assert_eq!(apply(&list(&three)), Ok(()));
        assert_eq!(apply(&list(&three)), Ok(()));
        assert_eq!(apply(&list(&[(0, None), (3, Some(1))])), Ok(()));
        assert_eq!(
            apply(&list(&[(0, Some(1))])),
            Err(Malformed::TooMany {
                what: "pages",
                max: 3
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_pages_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut pages = Pages::default();
            if pages.apply(&mut Get::new(&bytes)).is_ok() {
                prop_assert!(!bytes.is_empty());
            }
        }
    }
}
