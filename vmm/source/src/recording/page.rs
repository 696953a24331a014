//! Pages of 512 words, as differences against what they were before.

use std::collections::{HashMap, HashSet};

use super::wire::{Get, Nonsense, Put, unzigzag, zigzag};
use heirloom_inspect::PhysAddr;
use heirloom_inspect::memory::{MemoryError, PhysicalMemory, Words};
use heirloom_inspect::paging::addr::Pfn;

/// What a page is that was not there before.
pub(super) const ZERO: Words = [0; 512];
/// Most pages that a moment may have: 512 MiB.
pub(super) const MOST_PAGES: usize = heirloom_inspect::Capturer::DEFAULT_LIMIT;

/// The page is gone.
const GONE: u8 = 0;
/// All 4096 bytes follow.
const WHOLE: u8 = 1;
/// The words that changed follow.
const CHANGED: u8 = 2;

/// Writes what makes `before` to `after`: changed words or the whole page, whichever is shorter.
pub(super) fn put(out: &mut Vec<u8>, before: &Words, after: &Words) {
    let start = out.len();
    out.push(CHANGED);
    let runs = runs(before, after);
    out.put_varint(runs.len() as u64);
    let mut at = 0;
    for (first, end) in runs {
        out.put_varint((first - at) as u64);
        out.put_varint((end - first) as u64);
        let mut previous = 0_u64;
        for &word in &after[first..end] {
            out.put_varint(zigzag(word.wrapping_sub(previous)));
            previous = word;
        }
        at = end;
    }
    if out.len() - start > size_of::<Words>() {
        out.truncate(start);
        out.push(WHOLE);
        out.extend(after.iter().flat_map(|word| word.to_le_bytes()));
    }
}

/// Writes that a page is gone.
pub(super) fn put_gone(out: &mut Vec<u8>) {
    out.push(GONE);
}

/// The runs of words that differ: first index, and the one after the last.
fn runs(before: &Words, after: &Words) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut index = 0;
    while index < 512 {
        if before[index] == after[index] {
            index += 1;
            continue;
        }
        let first = index;
        while index < 512 && before[index] != after[index] {
            index += 1;
        }
        runs.push((first, index));
    }
    runs
}

/// Reads what [`put`] wrote and changes `page` accordingly; `false` if the page is gone.
pub(super) fn get(from: &mut Get<'_>, page: &mut Words) -> Result<bool, Nonsense> {
    match from.byte("a page's form")? {
        GONE => return Ok(false),
        WHOLE => {
            let bytes = from.bytes(size_of::<Words>(), "a page")?;
            let (words, _) = bytes.as_chunks::<8>();
            for (word, bytes) in page.iter_mut().zip(words) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        CHANGED => {
            let mut at = 0_usize;
            for _ in 0..from.count("the number of a page's runs")? {
                let first = from.varint("where a run of words starts")?;
                let length = from.varint("the length of a run of words")?;
                let run = usize::try_from(first)
                    .ok()
                    .and_then(|first| at.checked_add(first))
                    .and_then(|start| {
                        let end = start.checked_add(usize::try_from(length).ok()?)?;
                        at = end;
                        page.get_mut(start..end)
                    })
                    .ok_or(Nonsense::Value("a run of words"))?;
                let mut previous = 0_u64;
                for word in run {
                    previous = previous.wrapping_add(unzigzag(from.varint("a word")?));
                    *word = previous;
                }
            }
        }
        _ => return Err(Nonsense::Value("a page's form")),
    }
    Ok(true)
}

/// The table pages of a moment, as a memory that a capturer can read.
#[derive(Debug, Default)]
pub(super) struct Pages {
    frames: HashMap<Pfn, Box<Words>>,
    /// Those that changed since [`Pages::seen`]; `None` if any may have.
    changed: Option<HashSet<Pfn>>,
}

impl Pages {
    /// Forgets all pages.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.changed = None;
    }

    /// Takes in a list of pages: frame numbers and what became of them.
    pub(super) fn apply(&mut self, from: &mut Get<'_>) -> Result<(), Nonsense> {
        for _ in 0..from.count("the number of pages")? {
            let pfn = Pfn::new(from.varint("a frame number")?);
            if pfn.base().pfn() != pfn {
                return Err(Nonsense::Value("a frame number"));
            }
            let page = self.frames.entry(pfn).or_insert_with(|| Box::new(ZERO));
            if !get(from, page)? {
                self.frames.remove(&pfn);
            }
            if self.frames.len() > MOST_PAGES {
                return Err(Nonsense::TooMany {
                    what: "pages",
                    most: MOST_PAGES,
                });
            }
            if let Some(changed) = &mut self.changed {
                changed.insert(pfn);
            }
            // Pages that come and go need not be remembered without end.
            self.changed.take_if(|changed| changed.len() > MOST_PAGES);
        }
        Ok(())
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

    fn is_unchanged(&self, pfn: Pfn) -> bool {
        self.changed
            .as_ref()
            .is_some_and(|changed| !changed.contains(&pfn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words() -> impl Strategy<Value = Box<Words>> {
        let word = prop_oneof![Just(0), 1..4_u64, any::<u64>()];
        proptest::collection::vec((0..512_usize, word), 0..600).prop_map(|list| {
            let mut words = Box::new(ZERO);
            for (index, word) in list {
                words[index] = word;
            }
            words
        })
    }

    proptest! {
        #[test]
        fn a_difference_makes_the_one_page_to_the_other(before in words(), after in words()) {
            let mut bytes = Vec::new();
            put(&mut bytes, &before, &after);
            prop_assert!(bytes.len() <= 1 + 4096);
            let mut page = before.clone();
            let mut from = Get::new(&bytes);
            prop_assert_eq!(get(&mut from, &mut page), Ok(true));
            prop_assert_eq!(from.end(), Ok(()));
            prop_assert_eq!(page, after);
        }

        #[test]
        fn any_bytes_are_pages_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pages::default().apply(&mut Get::new(&bytes));
        }
    }

    #[test]
    fn one_changed_entry_takes_a_few_bytes_and_a_page_of_neighbours_little_more() {
        let mut after = ZERO;
        after[403] = 0x1e_8003;
        let mut bytes = Vec::new();
        put(&mut bytes, &ZERO, &after);
        assert!(bytes.len() <= 10, "{bytes:x?}");

        for (index, word) in (0..).zip(&mut after) {
            *word = 0x8000_0000_0000_0163 + 0x1000 * index;
        }
        bytes.clear();
        put(&mut bytes, &ZERO, &after);
        assert!(bytes.len() < 1200, "{}", bytes.len());
    }

    #[test]
    fn a_run_that_leaves_the_page_is_refused() {
        for runs in [&[1, 255, 4, 1][..], &[1, 0, 0xff, 0x7f]] {
            let mut bytes = vec![CHANGED];
            bytes.extend(runs);
            bytes.extend([0; 1000]);
            let error = get(&mut Get::new(&bytes), &mut { ZERO });
            assert_eq!(error, Err(Nonsense::Value("a run of words")), "{runs:?}");
        }
    }
}
