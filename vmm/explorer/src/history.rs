//! The tables of every moment as one stream of bytes: the pages that were seen, and for each moment
//! which frames hold another one than the moment before.
//!
//! ```text
//! pages     see the pool of pages
//! moments   how many; for each
//! changes     how many; for each
//! frame         as a difference to the frame of the change before, 0 before the first
//! content       0: no table any more; 1: a table that guest memory does not have; n: page n − 2
//! ```
//!
//! A frame that serves as a table at several levels has one content. Numbers and differences are those of
//! [`heirloom_source::codec`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use heirloom_inspect::{Pfn, Snapshot};
use heirloom_source::codec::Put;

use crate::pages::{PageId, Pool};

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// An entry points there, and guest memory has no such frame.
    Missing,
    Page(PageId),
}

/// Takes in one snapshot after the other and keeps no more than the last.
#[derive(Debug, Default)]
pub(crate) struct TableHistory {
    pool: Pool,
    frames: HashMap<Pfn, Content>,
    last: Option<Snapshot>,
    moments: u64,
    changes: Vec<u8>,
}

impl TableHistory {
    /// Adds the tables of the next moment.
    pub(crate) fn add(&mut self, snapshot: &Snapshot) {
        let mut changed: BTreeMap<Pfn, Option<Content>> = BTreeMap::new();
        for frame in touched(self.last.as_ref(), snapshot) {
            changed.insert(frame, self.content(frame, snapshot));
        }
        for missing in snapshot.missing() {
            changed.insert(missing.pfn, Some(Content::Missing));
        }
        changed.retain(|frame, content| self.frames.get(frame) != content.as_ref());
        self.moments += 1;
        self.changes.put_varint(changed.len() as u64);
        let mut previous = 0;
        for (frame, content) in changed {
            self.changes.put_difference(previous, frame.get());
            previous = frame.get();
            self.changes.put_varint(match content {
                None => 0,
                Some(Content::Missing) => 1,
                Some(Content::Page(PageId(id))) => u64::from(id) + 2,
            });
            match content {
                None => self.frames.remove(&frame),
                Some(content) => self.frames.insert(frame, content),
            };
        }
        self.last = Some(snapshot.clone());
    }

    /// What a frame holds in `snapshot`, but for missing ones.
    fn content(&mut self, frame: Pfn, snapshot: &Snapshot) -> Option<Content> {
        let words = |snapshot: &Snapshot| {
            let level = snapshot.levels_of(frame).next()?;
            let table = snapshot.table(frame, level)?;
            Some(std::sync::Arc::clone(table.words()))
        };
        let before = match self.frames.get(&frame) {
            Some(Content::Page(id)) => self.last.as_ref().and_then(words).map(|old| (*id, old)),
            _ => None,
        };
        let before = before.as_ref().map(|(id, old)| (*id, &**old));
        let page = self.pool.intern(&*words(snapshot)?, before);
        Some(Content::Page(page))
    }

    /// Different contents of tables.
    pub(crate) fn pages(&self) -> usize {
        self.pool.len()
    }

    /// Frames that hold tables at the last moment.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The whole stream.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.pool.write(&mut bytes);
        bytes.put_varint(self.moments);
        bytes.extend(self.changes);
        bytes
    }
}

/// The frames whose content may not be what it was.
fn touched(last: Option<&Snapshot>, snapshot: &Snapshot) -> BTreeSet<Pfn> {
    let tables = snapshot
        .replaced_tables(last)
        .flat_map(|(before, after)| before.into_iter().chain(after))
        .map(|table| table.pfn());
    let missing = last.into_iter().flat_map(Snapshot::missing);
    tables.chain(missing.map(|missing| missing.pfn)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages;
    use heirloom_inspect::memory::Words;
    use heirloom_inspect::paging::entry::Entry;
    use heirloom_inspect::testing::FakeMemory;
    use heirloom_inspect::{Capturer, Depth, Mode, RootLabel};
    use heirloom_source::codec::Get;
    use proptest::prelude::*;

    /// The tables of every moment, read back.
    fn play(bytes: &[u8]) -> Vec<BTreeMap<u64, Option<Words>>> {
        let mut from = Get::new(bytes);
        let pages = pages::decode(&mut from).unwrap();
        let moments = from.varint("moments").unwrap();
        let mut frames: BTreeMap<u64, Option<Words>> = BTreeMap::new();
        let mut played = Vec::new();
        for _ in 0..moments {
            let mut frame = 0;
            for _ in 0..from.varint("changes").unwrap() {
                frame = from.difference(frame, "frame").unwrap();
                match from.varint("content").unwrap() {
                    0 => frames.remove(&frame),
                    1 => frames.insert(frame, None),
                    n => frames.insert(frame, Some(pages[usize::try_from(n).unwrap() - 2])),
                };
            }
            played.push(frames.clone());
        }
        from.end().unwrap();
        played
    }

    /// What must come back of a snapshot.
    fn tables_of(snapshot: &Snapshot) -> BTreeMap<u64, Option<Words>> {
        let missing = snapshot.missing().map(|table| (table.pfn.get(), None));
        let tables = snapshot
            .tables()
            .map(|table| (table.pfn().get(), Some(**table.words())));
        missing.chain(tables).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, u16, u64),
        Birth(usize),
        Death(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            // Few frames, so that tables are shared, used at several levels, lost, and outside memory.
            6 => (1u64..16, 0u16..8, 0u64..20, any::<bool>())
                .prop_map(|(frame, index, to, p)| Step::Write(frame, index * 73, to << 12 | u64::from(p))),
            1 => any::<usize>().prop_map(Step::Birth),
            1 => any::<usize>().prop_map(Step::Death),
        ]
    }

    proptest! {
        #[test]
        fn the_tables_of_every_moment_come_back(steps in proptest::collection::vec(step(), 1..40)) {
            let mut memory = FakeMemory::new();
            let mut roots = vec![memory.root()];
            let mut capturer = Capturer::new();
            let mut history = TableHistory::default();
            let mut expected = Vec::new();
            for step in steps {
                match step {
                    Step::Write(frame, index, word) => {
                        memory.poke(Pfn::new(frame), index, Entry::new(word));
                    }
                    Step::Birth(who) => {
                        let parent = roots[who % roots.len()];
                        roots.push(memory.child_of(parent));
                    }
                    Step::Death(who) => {
                        if roots.len() > 1 {
                            let root = roots.remove(who % roots.len());
                            memory.remove(root.pfn());
                        }
                    }
                }
                let named: Vec<_> = (0..).map(RootLabel::Process).zip(roots.iter().copied()).collect();
                let snapshot = capturer.capture(&memory, Mode::typical(Depth::Four), &named);
                history.add(&snapshot);
                expected.push(tables_of(&snapshot));
            }
            prop_assert_eq!(play(&history.into_bytes()), expected);
        }

        #[test]
        fn snapshots_of_strangers_come_back_too(steps in proptest::collection::vec(step(), 1..20)) {
            let mut memory = FakeMemory::new();
            let root = memory.root();
            let mut history = TableHistory::default();
            let mut expected = Vec::new();
            for step in steps {
                if let Step::Write(frame, index, word) = step {
                    memory.poke(Pfn::new(frame), index, Entry::new(word));
                }
                // A capturer of its own for each: nothing is the same in memory.
                let named = [(RootLabel::Kernel, root)];
                let snapshot = Capturer::new().capture(&memory, Mode::typical(Depth::Four), &named);
                history.add(&snapshot);
                expected.push(tables_of(&snapshot));
            }
            prop_assert_eq!(play(&history.into_bytes()), expected);
        }
    }
}
