//! The contents of table pages as bytes: each content once, as what makes a page of zeros to it, or where
//! that is shorter, an earlier content.
//!
//! ```text
//! pages     how many; the bytes of each; then each
//! base        0: from zeros; n: from the n-th page before this one
//! page        as heirloom_source::codec has it
//! ```

use std::collections::HashMap;

use heirloom_inspect::memory::Words;
use heirloom_source::codec::{Put, page};

/// A page's number in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PageId(pub(crate) u32);

/// Every content of a table page that was seen.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    bytes: Vec<u8>,
    /// Where each page ends in `bytes`.
    ends: Vec<usize>,
    /// How many differences lie between each page and one that is made from zeros.
    chain: Vec<u8>,
    /// By what makes a page of zeros to it.
    known: HashMap<Box<[u8]>, PageId>,
}

/// A reader may have to undo so many differences for one page.
const MAX_CHAIN: u8 = 24;

impl Pool {
    /// The number of the page with these words; `before` is what stood there a moment ago.
    pub(crate) fn intern(&mut self, words: &Words, before: Option<(PageId, &Words)>) -> PageId {
        let whole = encode(0, &page::ZERO, words);
        if let Some(&known) = self.known.get(whole.as_slice()) {
            return known;
        }
        // 2^32 pages would be 16 TiB of tables.
        let id = PageId(u32::try_from(self.ends.len()).unwrap_or(u32::MAX));
        let difference = before.and_then(|(base, old)| {
            let chain = *self.chain.get(base.0 as usize)?;
            let bytes = encode(u64::from(id.0 - base.0), old, words);
            (chain < MAX_CHAIN && bytes.len() < whole.len()).then_some((chain + 1, bytes))
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
        bytes.put_varint(self.ends.len() as u64);
        let mut start = 0;
        for &end in &self.ends {
            bytes.put_varint((end - start) as u64);
            start = end;
        }
        bytes.extend(&self.bytes);
    }
}

/// A page as bytes: `after`, told from `before`, which stands `base` pages before it.
fn encode(base: u64, before: &Words, after: &Words) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_varint(base);
    page::put(&mut bytes, before, after);
    bytes
}

/// What a reader does: every page of a pool that [`Pool::write`] wrote.
#[cfg(test)]
pub(crate) fn decode(
    from: &mut heirloom_source::codec::Get<'_>,
) -> Result<Vec<Words>, heirloom_source::codec::Malformed> {
    let count = from.varint("pages")?;
    for _ in 0..count {
        from.varint("a length")?;
    }
    let mut pages: Vec<Words> = Vec::new();
    for _ in 0..count {
        let mut words = match usize::try_from(from.varint("a base")?).unwrap() {
            0 => page::ZERO,
            base => pages[pages.len() - base],
        };
        assert!(page::get(from, &mut words)?);
        pages.push(words);
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use heirloom_source::codec::Get;
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

    fn written(pool: &Pool) -> Vec<Words> {
        let mut bytes = Vec::new();
        pool.write(&mut bytes);
        let mut from = Get::new(&bytes);
        let pages = decode(&mut from).unwrap();
        from.end().unwrap();
        pages
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
            let pages = written(&pool);
            for (id, words) in ids.iter().zip(&history) {
                prop_assert_eq!(&pages[id.0 as usize], words);
            }
        }
    }

    #[test]
    fn the_copy_of_a_page_costs_nothing() {
        let mut words = [0; 512];
        for (frame, word) in (0x1_2345..).zip(&mut words) {
            *word = 1 << 63 | frame << 12 | 0x163;
        }
        let mut pool = Pool::default();
        let id = pool.intern(&words, None);
        assert!(pool.bytes.len() < 1100, "{} bytes", pool.bytes.len());
        assert_eq!(pool.intern(&words, None), id);
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn one_entry_written_costs_a_few_bytes_and_no_page_is_far_from_zeros() {
        let mut words = [0; 512];
        for (number, word) in (0u64..).zip(&mut words) {
            *word = ((number * number) << 12) | 7;
        }
        let mut pool = Pool::default();
        let mut id = pool.intern(&words, None);
        for count in 1..=usize::from(MAX_CHAIN) + 1 {
            let length = pool.bytes.len();
            let before = words;
            words[count] = 0;
            id = pool.intern(&words, Some((id, &before)));
            let grown = pool.bytes.len() - length;
            if count <= usize::from(MAX_CHAIN) {
                assert!(grown < 10, "{count}: {grown}");
            } else {
                assert!(grown > 100, "{count}: {grown}");
            }
        }
        assert_eq!(written(&pool).last(), Some(&words));
    }
}
