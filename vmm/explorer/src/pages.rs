//! The contents of table pages as bytes: each content once, sparse, and where that is shorter as the
//! difference from an earlier one.
//!
//! A page is `base`, `count`, and `count` runs of neighbouring entries that look alike:
//!
//! ```text
//! base    0: the other entries are zero; n: they are those of the n-th page before this one
//! gap     entries to leave as they are
//! shape   bit 0: same flags as the run before; bit 1: frame numbers ascend by 1; rest: entries in the run
//! flags   (unless same) bits 11–0 of the entry, and above them its bits 63–52
//! frame   bits 51–12 of the first entry, less what would follow the last entry of the run before
//! ```
//!
//! All are numbers of [`varint`]. So a PT of the direct map is one run of a few bytes.

use std::collections::HashMap;

use heirloom_inspect::memory::Words;

use crate::varint;

/// A page's number in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PageId(pub(crate) u32);

/// Every content of a table page that was seen.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    bytes: Vec<u8>,
    /// Where each page ends in `bytes`.
    ends: Vec<usize>,
    /// How many differences lie between each page and one that is whole.
    chain: Vec<u8>,
    /// Whole pages as bytes.
    known: HashMap<Box<[u8]>, PageId>,
}

/// A reader may have to undo so many differences for one page.
const LONGEST_CHAIN: u8 = 24;

impl Pool {
    /// The number of the page with these words; `before` is what stood there a moment ago.
    pub(crate) fn intern(&mut self, words: &Words, before: Option<(PageId, &Words)>) -> PageId {
        let whole = encode(0, words, |index| words[index] != 0);
        if let Some(&known) = self.known.get(whole.as_slice()) {
            return known;
        }
        // 2^32 pages would be 16 TiB of tables.
        let id = PageId(u32::try_from(self.ends.len()).unwrap_or(u32::MAX));
        let difference = before.and_then(|(base, old)| {
            let chain = *self.chain.get(base.0 as usize)?;
            let distance = u64::from(id.0 - base.0);
            let bytes = encode(distance, words, |index| words[index] != old[index]);
            (chain < LONGEST_CHAIN && bytes.len() < whole.len()).then_some((chain + 1, bytes))
        });
        let (chain, bytes) = match &difference {
            Some((chain, bytes)) => (*chain, bytes),
            None => (0, &whole),
        };
        self.chain.push(chain);
        self.bytes.extend(bytes);
        self.ends.push(self.bytes.len());
        self.known.insert(whole.into(), id);
        id
    }

    /// Distinct pages.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Appends the number of pages, the length of each, and the pages.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        varint::put(bytes, self.ends.len() as u64);
        let mut start = 0;
        for &end in &self.ends {
            varint::put(bytes, (end - start) as u64);
            start = end;
        }
        bytes.extend(&self.bytes);
    }
}

const FRAME_SHIFT: u32 = 12;
const FRAME_MASK: u64 = (1 << 40) - 1;

/// Bits 11–0, and above them bits 63–52.
const fn flags(word: u64) -> u64 {
    word & 0xfff | word >> 52 << 12
}

const fn frame(word: u64) -> u64 {
    word >> FRAME_SHIFT & FRAME_MASK
}

/// The page as bytes, as far as `told` says that an entry must be told.
fn encode(base: u64, words: &Words, told: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut runs = Vec::new();
    let mut count = 0;
    let (mut index, mut end) = (0, 0);
    let mut last_flags = None;
    let mut expected = 0;
    while index < words.len() {
        if !told(index) {
            index += 1;
            continue;
        }
        let (first, first_flags) = (frame(words[index]), flags(words[index]));
        let alike = |step: u64| {
            words[index..]
                .iter()
                .enumerate()
                .zip((0..).map(|n| first + step * n))
                .take_while(|((offset, word), wanted)| {
                    told(index + offset) && flags(**word) == first_flags && frame(**word) == *wanted
                })
                .count()
        };
        let (equal, ascending) = (alike(0), alike(1));
        let (length, step) = if ascending >= equal {
            (ascending, 1)
        } else {
            (equal, 0)
        };
        let same_flags = last_flags == Some(first_flags);
        varint::put(&mut runs, (index - end) as u64);
        varint::put(
            &mut runs,
            (length as u64) << 2 | step << 1 | u64::from(same_flags),
        );
        if !same_flags {
            varint::put(&mut runs, first_flags);
        }
        varint::put_difference(&mut runs, expected, first);
        last_flags = Some(first_flags);
        expected = first + step * (length as u64 - 1) + 1;
        count += 1;
        index += length;
        end = index;
    }
    let mut bytes = Vec::with_capacity(runs.len() + 4);
    varint::put(&mut bytes, base);
    varint::put(&mut bytes, count);
    bytes.extend(runs);
    bytes
}

/// What a reader does: every page of a pool that [`Pool::write`] wrote; takes it off the front.
#[cfg(test)]
pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Vec<Words>> {
    let count = varint::take(bytes)?;
    for _ in 0..count {
        varint::take(bytes)?;
    }
    let mut pages: Vec<Words> = Vec::new();
    for _ in 0..count {
        let base = usize::try_from(varint::take(bytes)?).ok()?;
        let mut page = match base {
            0 => [0; 512],
            _ => pages[pages.len() - base],
        };
        let (mut index, mut flags, mut expected) = (0, 0, 0);
        for _ in 0..varint::take(bytes)? {
            index += usize::try_from(varint::take(bytes)?).ok()?;
            let shape = varint::take(bytes)?;
            if shape & 1 == 0 {
                flags = varint::take(bytes)?;
            }
            let mut frame = varint::take_difference(bytes, expected)?;
            for _ in 0..shape >> 2 {
                page[index] = flags & 0xfff | frame << FRAME_SHIFT | flags >> 12 << 52;
                expected = frame + 1;
                frame += shape >> 1 & 1;
                index += 1;
            }
        }
        pages.push(page);
    }
    Some(pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![
            3 => Just(0),
            2 => (0u64..40).prop_map(|frame| frame << 12 | 0x63),
            1 => any::<u64>(),
        ]
    }

    fn page() -> impl Strategy<Value = Words> {
        proptest::collection::vec(word(), 512).prop_map(|words| words.try_into().unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_page_comes_back_word_for_word(
            first in page(),
            changes in proptest::collection::vec((0usize..512, word()), 0..60),
        ) {
            let mut pool = Pool::default();
            let mut history = vec![first];
            let mut ids = vec![pool.intern(&first, None)];
            for (index, word) in changes {
                let before = *history.last().unwrap();
                let mut after = before;
                after[index] = word;
                ids.push(pool.intern(&after, Some((*ids.last().unwrap(), &before))));
                history.push(after);
            }
            let mut bytes = Vec::new();
            pool.write(&mut bytes);
            let mut rest = bytes.as_slice();
            let pages = decode(&mut rest).unwrap();
            prop_assert!(rest.is_empty());
            for (id, words) in ids.iter().zip(&history) {
                prop_assert_eq!(&pages[id.0 as usize], words);
            }
        }
    }

    #[test]
    fn a_page_of_the_direct_map_is_a_few_bytes_and_its_copy_none() {
        let mut words = [0; 512];
        for (frame, word) in (0x1_2345..).zip(&mut words) {
            *word = 1 << 63 | frame << 12 | 0x163;
        }
        let mut pool = Pool::default();
        let id = pool.intern(&words, None);
        assert!(pool.bytes.len() < 16, "{} bytes", pool.bytes.len());
        assert_eq!(pool.intern(&words, None), id);
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn one_entry_written_costs_a_few_bytes() {
        let mut words = [0; 512];
        for (number, word) in (0u64..).zip(&mut words) {
            *word = ((number * number) << 12) | 7;
        }
        let mut pool = Pool::default();
        let id = pool.intern(&words, None);
        let whole = pool.bytes.len();
        let before = words;
        words[77] = 0;
        pool.intern(&words, Some((id, &before)));
        assert!(pool.bytes.len() - whole < 10, "{}", pool.bytes.len());
    }
}
