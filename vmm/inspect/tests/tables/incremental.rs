//! A capture that reads only what was written is the capture from scratch, whatever was written.

use std::collections::{BTreeMap, BTreeSet};

use heirloom_inspect::memory::Words;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Depth, Entry, Level, Pfn, PhysAddr, PhysicalMemory, RootLabel, Snapshot, VirtAddr,
    Written,
};
use proptest::prelude::*;

use crate::{FOUR, labelled};

/// Frames that tables are made of; a few more do not exist.
const FRAMES: u64 = 12;

/// What a guest may do between two captures.
#[derive(Clone, Debug)]
enum Act {
    /// Writes an entry that points to a frame, or to none.
    Write {
        frame: u64,
        index: u16,
        to: Option<u64>,
        large: bool,
    },
    /// Gives an address space a root, or takes one away.
    Born(u64),
    Died(usize),
    /// A frame is taken out of memory, or put back with what is in it.
    Gone(u64),
    Back(u64),
    /// The host looks.
    Capture,
}

fn act() -> impl Strategy<Value = Act> {
    let frame = || 1..=FRAMES;
    // Few entries, so that they are written again and again, in both halves.
    let index = prop_oneof![Just(0u16), Just(1), Just(255), Just(256), Just(511)];
    prop_oneof![
        8 => (frame(), index, proptest::option::of(1..=FRAMES + 2), any::<bool>())
            .prop_map(|(frame, index, to, large)| Act::Write { frame, index, to, large: large && to.is_some_and(|to| to % 4 == 0) }),
        2 => frame().prop_map(Act::Born),
        2 => (0usize..8).prop_map(Act::Died),
        1 => frame().prop_map(Act::Gone),
        2 => frame().prop_map(Act::Back),
        6 => Just(Act::Capture),
    ]
}

/// A table, by its frame and level.
type Key = (Pfn, Level);

/// All that a snapshot holds, without the order in which it came to hold it.
#[derive(Debug, PartialEq)]
struct Contents {
    tables: BTreeMap<Key, Box<Words>>,
    missing: BTreeSet<Key>,
    /// Where each entry leads.
    links: BTreeMap<(Key, u16), Option<Key>>,
    roots: Vec<(RootLabel, PhysAddr, Option<Pfn>)>,
    counts: (usize, usize, u64),
}

fn contents(snapshot: &Snapshot) -> Contents {
    let mut contents = Contents {
        tables: BTreeMap::new(),
        missing: snapshot
            .missing()
            .map(|missing| (missing.pfn, missing.level))
            .collect(),
        links: BTreeMap::new(),
        roots: Vec::new(),
        counts: (
            snapshot.table_count(),
            snapshot.missing_count(),
            snapshot.omitted(),
        ),
    };
    for table in snapshot.tables() {
        let key = (table.pfn(), table.level());
        assert!(
            contents
                .tables
                .insert(key, Box::new(**table.words()))
                .is_none(),
            "{key:?} is there twice"
        );
        for index in table.pointers().iter() {
            let below = snapshot.child(table, index);
            let below = below.map(|below| (below.pfn(), below.level()));
            contents.links.insert((key, index), below);
        }
        let found = snapshot.table(key.0, key.1).expect("found by its frame");
        assert!(std::sync::Arc::ptr_eq(found, table));
    }
    for root in snapshot.roots() {
        let table = snapshot.root_table(root.id).map(|table| table.pfn());
        contents.roots.push((root.label, root.address, table));
    }
    contents
}

/// A guest with a few frames, and a log of its writes.
struct Guest {
    memory: FakeMemory,
    lost: BTreeMap<Pfn, Box<Words>>,
    roots: Vec<(RootLabel, PhysAddr)>,
    born: u32,
    written: Vec<Pfn>,
}

impl Guest {
    fn new() -> Guest {
        let mut memory = FakeMemory::new();
        for _ in 0..FRAMES {
            memory.frame();
        }
        Guest {
            memory,
            lost: BTreeMap::new(),
            roots: Vec::new(),
            born: 0,
            written: Vec::new(),
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Write {
                frame,
                index,
                to,
                large,
            } => {
                let frame = Pfn::new(frame);
                if !self.lost.contains_key(&frame) {
                    let flags = if large {
                        FakeMemory::POINTER | Entry::LARGE
                    } else {
                        FakeMemory::POINTER
                    };
                    let entry = to.map_or(Entry::ABSENT, |to| {
                        Entry::pointing_to(Pfn::new(to).base(), flags)
                    });
                    self.memory.poke(frame, index, entry);
                    self.written.push(frame);
                }
            }
            Act::Born(frame) => {
                self.born += 1;
                let root = (RootLabel::Process(self.born), Pfn::new(frame).base());
                let at = usize::try_from(frame).unwrap() % (self.roots.len() + 1);
                self.roots.insert(at, root);
            }
            Act::Died(which) if which < self.roots.len() => {
                self.roots.remove(which);
            }
            Act::Gone(frame) => {
                let frame = Pfn::new(frame);
                let mut words = Box::new([0; 512]);
                if self.memory.read_table(frame, &mut words).is_ok() {
                    self.memory.remove(frame);
                    self.lost.insert(frame, words);
                    self.written.push(frame);
                }
            }
            Act::Back(frame) => {
                let frame = Pfn::new(frame);
                if let Some(words) = self.lost.remove(&frame) {
                    for (index, word) in (0..).zip(*words) {
                        self.memory.poke(frame, index, Entry::new(word));
                    }
                    // No log tells of it.
                }
            }
            Act::Died(_) | Act::Capture => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_a_capture_holds_is_what_a_first_capture_would(acts in proptest::collection::vec(act(), 1..120), limit in 1usize..60) {
        let mut guest = Guest::new();
        let mut capturers = [Capturer::new(), Capturer::with_limit(limit)];
        let mut earlier: Vec<(Snapshot, Contents)> = Vec::new();
        for act in &acts {
            guest.act(act);
            if !matches!(act, Act::Capture) {
                continue;
            }
            let written = std::mem::take(&mut guest.written);
            for (capturer, limit) in capturers.iter_mut().zip([Capturer::DEFAULT_LIMIT, limit]) {
                let kept = capturer.capture_written(&guest.memory, FOUR, &guest.roots, Written::Frames(&written));
                let fresh = Capturer::with_limit(limit).capture(&guest.memory, FOUR, &guest.roots);
                let found = contents(&kept);
                prop_assert_eq!(&found, &contents(&fresh));
                if limit == Capturer::DEFAULT_LIMIT {
                    earlier.push((kept, found));
                }
            }
        }
        // And no snapshot changes afterwards; what differs between any two is what is told to differ.
        for (snapshot, held) in &earlier {
            prop_assert_eq!(&contents(snapshot), held);
        }
        for (before, held_before) in &earlier {
            for (after, held) in &earlier {
                let mut words = held_before.tables.clone();
                for gone in before.tables_not_in(after) {
                    prop_assert!(words.remove(&(gone.pfn(), gone.level())).is_some());
                }
                for new in after.tables_not_in(before) {
                    let key = (new.pfn(), new.level());
                    prop_assert!(words.insert(key, Box::new(**new.words())).is_none());
                }
                for change in after.changes_since(before) {
                    let word = &mut words.get_mut(&(change.table, change.level)).unwrap()[usize::from(change.index)];
                    prop_assert_eq!(*word, change.before.get());
                    *word = change.after.get();
                }
                prop_assert_eq!(&words, &held.tables);
            }
        }
    }
}

#[test]
fn a_capture_without_a_log_finds_the_same_as_one_with_it() {
    let mut memory = FakeMemory::new();
    let roots = crate::family(&mut memory, 5);
    let mut capturer = Capturer::new();
    capturer.capture(&memory, FOUR, &labelled(&roots));
    let page = VirtAddr::new(0x60_0000);
    memory.map(
        Depth::Four,
        roots[2],
        page,
        PhysAddr::new(0x9000),
        heirloom_inspect::PageSize::Size4KiB,
        FakeMemory::USER_DATA,
    );
    let kept = capturer.capture(&memory, FOUR, &labelled(&roots[1..]));
    let fresh = Capturer::new().capture(&memory, FOUR, &labelled(&roots[1..]));
    assert_eq!(contents(&kept), contents(&fresh));
}
