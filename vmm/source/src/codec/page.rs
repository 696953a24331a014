//! A page of 512 words, written as what makes an earlier one to it.

use heirloom_inspect::memory::Words;

use super::{Get, Malformed, Put};

/// What a page is that was not there before.
pub const ZERO: Words = [0; 512];

/// The page is gone.
const GONE: u8 = 0;
/// All 4096 bytes follow.
const WHOLE: u8 = 1;
/// The words that changed follow.
const CHANGED: u8 = 2;

/// Writes what makes `before` to `after`: changed words or the whole page, whichever is shorter.
pub fn put(out: &mut Vec<u8>, before: &Words, after: &Words) {
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
            out.put_difference(previous, word);
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
pub fn put_gone(out: &mut Vec<u8>) {
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

/// Reads what [`put`] or [`put_gone`] wrote and changes `page`, which is what the page was before, to what
/// it became: `false` if it is gone.
///
/// # Errors
/// [`Malformed`]; `page` may then be anything.
pub fn get(from: &mut Get<'_>, page: &mut Words) -> Result<bool, Malformed> {
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
                    .ok_or(Malformed::Value("a run of words"))?;
                let mut previous = 0_u64;
                for word in run {
                    previous = from.difference(previous, "a word")?;
                    *word = previous;
                }
            }
        }
        _ => return Err(Malformed::Value("a page's form")),
    }
    Ok(true)
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
        fn any_bytes_are_a_page_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut from = Get::new(&bytes);
            match get(&mut from, &mut { ZERO }) {
                Ok(_) => prop_assert!(!bytes.is_empty()),
                Err(error) => prop_assert!(matches!(error, Malformed::Short(_) | Malformed::Value(_))),
            }
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
    fn a_page_is_written_as_the_format_has_it() {
        let mut before = ZERO;
        (before[0], before[5], before[6]) = (7, 9, 9);
        let mut after = before;
        (after[5], after[6], after[511]) = (0x1003, 0x2003, 1);
        let mut bytes = Vec::new();
        put(&mut bytes, &before, &after);
        // Two runs: 5 words stay, 2 change, by 0x1003 and 0x1000 more; 504 stay, 1 changes.
        assert_eq!(
            bytes,
            [2, 2, 5, 2, 0x86, 0x40, 0x80, 0x40, 0xf8, 0x03, 1, 2]
        );
        let mut page = before;
        assert_eq!(get(&mut Get::new(&bytes), &mut page), Ok(true));
        assert_eq!(page, after);

        bytes.clear();
        put(&mut bytes, &after, &after);
        assert_eq!(bytes, [2, 0]);
        bytes.clear();
        put_gone(&mut bytes);
        assert_eq!(bytes, [0]);
        assert_eq!(get(&mut Get::new(&bytes), &mut page), Ok(false));
        assert_eq!(
            get(&mut Get::new(&[3]), &mut page),
            Err(Malformed::Value("a page's form"))
        );
    }

    #[test]
    fn a_page_whose_difference_is_longer_is_written_whole() {
        let mut after = ZERO;
        for (index, word) in (0..).zip(&mut after) {
            // Each differs from its neighbour in all of its bits.
            *word = if index % 2 == 0 {
                0x5555_5555_5555_5555
            } else {
                0xffff_0000_ffff_0000
            };
        }
        let mut bytes = Vec::new();
        put(&mut bytes, &ZERO, &after);
        assert_eq!((bytes.len(), bytes[0]), (1 + 4096, 1));
        assert_eq!(bytes[9..17], 0xffff_0000_ffff_0000_u64.to_le_bytes());
        let mut page = [3; 512];
        assert_eq!(get(&mut Get::new(&bytes), &mut page), Ok(true));
        assert_eq!(page, after);
        assert_eq!(
            get(&mut Get::new(&bytes[..4096]), &mut page),
            Err(Malformed::Short("a page"))
        );
    }

    #[test]
    fn a_run_that_leaves_the_page_is_refused() {
        for runs in [
            &[1, 0xff, 0x03, 2][..],
            &[1, 0x80, 0x04, 1],
            &[1, 0, 0x81, 0x04],
        ] {
            let mut bytes = vec![CHANGED];
            bytes.extend(runs);
            bytes.extend([0; 1000]);
            let error = get(&mut Get::new(&bytes), &mut { ZERO });
            assert_eq!(error, Err(Malformed::Value("a run of words")), "{runs:?}");
        }
    }
}
