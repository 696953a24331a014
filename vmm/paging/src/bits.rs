//! A set of the 512 entries of a table.

/// Which of a table's 512 entries have some property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EntrySet([u64; 8]);

impl EntrySet {
    /// No entry.
    pub const EMPTY: EntrySet = EntrySet([0; 8]);

    /// Adds entry `index`; indices beyond a table are folded into it.
    pub const fn insert(&mut self, index: u16) {
        self.0[(index as usize / 64) % 8] |= 1 << (index % 64);
    }

    /// Takes entry `index` out.
    pub const fn remove(&mut self, index: u16) {
        self.0[(index as usize / 64) % 8] &= !(1 << (index % 64));
    }

    /// Whether entry `index` is in the set.
    pub const fn contains(&self, index: u16) -> bool {
        self.0[(index as usize / 64) % 8] & 1 << (index % 64) != 0
    }

    /// How many entries are in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no entry is.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 8]
    }

    /// How many entries below `index` are in the set.
    #[inline]
    pub fn rank(&self, index: u16) -> usize {
        let word = index as usize / 64 % 8;
        let below = self.0[word] & ((1 << (index % 64)) - 1);
        self.0[..word]
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum::<usize>()
            + below.count_ones() as usize
    }

    /// The first entry of the set that is not below `index`.
    #[inline]
    pub fn next_from(&self, index: u16) -> Option<u16> {
        let mut word = index as usize / 64;
        let mut bits = self.0.get(word)? & (u64::MAX << (index % 64));
        while bits == 0 {
            word += 1;
            bits = *self.0.get(word)?;
        }
        // A word number below 8 and a bit number below 64.
        #[expect(clippy::cast_possible_truncation, reason = "at most 511")]
        Some((word as u32 * 64 + bits.trailing_zeros()) as u16)
    }

    /// The entries of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + use<> {
        let set = *self;
        let mut next = 0;
        core::iter::from_fn(move || {
            let index = set.next_from(next)?;
            next = index + 1;
            Some(index)
        })
    }

    /// The entries that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &EntrySet) -> EntrySet {
        let mut both = *self;
        for (word, other) in both.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        both
    }

    /// The entries that are in either set.
    #[must_use]
    pub fn union(&self, other: &EntrySet) -> EntrySet {
        let mut union = *self;
        for (word, more) in union.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        union
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::prelude::rust_2024::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_small_numbers(members in proptest::collection::btree_set(0u16..512, 0..512), probe in 0u16..512) {
            let mut set = EntrySet::default();
            for &member in &members {
                set.insert(member);
            }
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), members.clone());
            prop_assert_eq!(set.len(), members.len());
            prop_assert_eq!(set.is_empty(), members.is_empty());
            prop_assert_eq!(set.contains(probe), members.contains(&probe));
            prop_assert_eq!(set.rank(probe), members.range(..probe).count());
            prop_assert_eq!(set.next_from(probe), members.range(probe..).next().copied());
        }
    }

    #[test]
    fn a_union_has_what_either_has_and_an_intersection_what_both_have() {
        let set = |members: &[u16]| {
            let mut set = EntrySet::default();
            for &member in members {
                set.insert(member);
            }
            set
        };
        let (one, other) = (set(&[0, 63, 64, 511]), set(&[63, 64, 300]));
        assert_eq!(one.union(&other), set(&[0, 63, 64, 300, 511]));
        assert_eq!(one.intersection(&other), set(&[63, 64]));
    }

    #[test]
    fn nothing_follows_the_last_entry() {
        let mut set = EntrySet::default();
        set.insert(511);
        assert_eq!(set.next_from(512), None);
        assert_eq!(set.iter().collect::<Vec<_>>(), [511]);
    }
}
