//! Which slots a frame has: a hash table in pieces, so that the copy in each snapshot shares with the one
//! before what did not change.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::table::Slot;
use heirloom_paging::addr::Pfn;
use heirloom_paging::level::Level;

/// Uses in a bucket on average, at most.
const BUCKET: usize = 16;

/// A frame used as a table of a level.
#[derive(Clone, Copy, Debug)]
struct Use {
    pfn: Pfn,
    level: Level,
    slot: Slot,
}

type Bucket = Vec<Use>;

/// The slots of every frame. Cloning copies a pointer; a change copies a bucket.
#[derive(Clone, Debug)]
pub(crate) struct FrameIndex {
    /// Keyed: a guest chooses the frames of its tables.
    hasher: RandomState,
    /// A power of two of them.
    buckets: Arc<Vec<Arc<Bucket>>>,
    length: usize,
}

impl Default for FrameIndex {
    fn default() -> Self {
        FrameIndex {
            hasher: RandomState::new(),
            buckets: Arc::new(vec![Arc::default()]),
            length: 0,
        }
    }
}

impl FrameIndex {
    /// Every level at which `pfn` is used, with the slot.
    pub(crate) fn uses(&self, pfn: Pfn) -> impl Iterator<Item = (Level, Slot)> + '_ {
        self.buckets[self.number(pfn, self.buckets.len())]
            .iter()
            .filter(move |known| known.pfn == pfn)
            .map(|known| (known.level, known.slot))
    }

    /// The slot of `pfn` as a table of `level`.
    pub(crate) fn slot(&self, pfn: Pfn, level: Level) -> Option<Slot> {
        self.uses(pfn)
            .find_map(|(known, slot)| (known == level).then_some(slot))
    }

    /// Adds a use that is not there yet.
    pub(crate) fn insert(&mut self, pfn: Pfn, level: Level, slot: Slot) {
        if self.length >= self.buckets.len() * BUCKET {
            self.grow();
        }
        self.length += 1;
        self.bucket(pfn).push(Use { pfn, level, slot });
    }

    pub(crate) fn remove(&mut self, pfn: Pfn, level: Level) {
        let bucket = self.bucket(pfn);
        let known = bucket
            .iter()
            .position(|known| known.pfn == pfn && known.level == level);
        if let Some(position) = known {
            bucket.swap_remove(position);
            self.length -= 1;
        }
    }

    fn bucket(&mut self, pfn: Pfn) -> &mut Bucket {
        let number = self.number(pfn, self.buckets.len());
        Arc::make_mut(&mut Arc::make_mut(&mut self.buckets)[number])
    }

    fn number(&self, pfn: Pfn, buckets: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of it will do")]
        let hash = self.hasher.hash_one(pfn) as usize;
        hash & (buckets - 1)
    }

    /// Twice the buckets.
    fn grow(&mut self) {
        let count = self.buckets.len() * 2;
        let mut buckets = vec![Bucket::new(); count];
        for known in self.buckets.iter().flat_map(|bucket| bucket.iter()) {
            buckets[self.number(known.pfn, count)].push(*known);
        }
        self.buckets = Arc::new(buckets.into_iter().map(Arc::new).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map_and_its_copies_stay_as_they_were(steps in proptest::collection::vec((0u64..60, 0usize..5, any::<bool>()), 0..400)) {
            let mut index = FrameIndex::default();
            let mut model = BTreeMap::new();
            let mut copy = (index.clone(), model.clone());
            for (number, (pfn, level, add)) in (0u32..).zip(steps) {
                let (key, level) = ((pfn, level), Level::ALL[level]);
                if add {
                    if model.insert(key, Slot(number)).is_some() {
                        index.remove(Pfn::new(pfn), level);
                    }
                    index.insert(Pfn::new(pfn), level, Slot(number));
                } else {
                    model.remove(&key);
                    index.remove(Pfn::new(pfn), level);
                }
                if number == 200 {
                    copy = (index.clone(), model.clone());
                }
            }
            for (index, model) in [(index, model), copy] {
                prop_assert_eq!(index.length, model.len());
                for pfn in 0..60 {
                    for level in 0..5 {
                        prop_assert_eq!(index.slot(Pfn::new(pfn), Level::ALL[level]), model.get(&(pfn, level)).copied());
                    }
                    let frame = model.range((pfn, 0)..(pfn, 5)).count();
                    prop_assert_eq!(index.uses(Pfn::new(pfn)).count(), frame);
                }
            }
        }
    }
}
