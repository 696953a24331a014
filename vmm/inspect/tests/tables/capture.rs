//! Captures: every frame once, whatever the tables look like, and nothing read anew that stayed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use heirloom_inspect::memory::{MemoryError, Words};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Depth, Entry, Fault, Half, Level, MissingTable, Mode, PageSize, Pfn, PhysAddr,
    PhysicalMemory, RootLabel, Snapshot, VirtRange, Written,
};

use crate::{FIVE, FOUR, TEXT, VMALLOC, family, id, labelled, pa, snapshot, va};

/// Counts how often each frame is read.
struct Counting<'m> {
    memory: &'m FakeMemory,
    reads: RefCell<BTreeMap<Pfn, u32>>,
}

impl<'m> Counting<'m> {
    fn new(memory: &'m FakeMemory) -> Self {
        Counting {
            memory,
            reads: RefCell::default(),
        }
    }
}

impl PhysicalMemory for Counting<'_> {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        *self.reads.borrow_mut().entry(at.pfn()).or_default() += 1;
        self.memory.read_bytes(at, buffer)
    }
}

fn reads(memory: &FakeMemory, mode: Mode, roots: &[PhysAddr]) -> BTreeMap<Pfn, u32> {
    let counting = Counting::new(memory);
    Capturer::new().capture(&counting, mode, &labelled(roots));
    counting.reads.into_inner()
}

/// The tables that are not the same `Arc` in both, as frame numbers.
fn not_shared(before: &Snapshot, after: &Snapshot) -> Vec<Pfn> {
    after
        .tables()
        .filter(|table| {
            !before
                .table(table.pfn(), table.level())
                .is_some_and(|same| Arc::ptr_eq(same, table))
        })
        .map(|table| table.pfn())
        .collect()
}

#[test]
fn every_table_frame_is_read_once_however_many_roots_share_it() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 8);
    let reads = reads(&memory, FOUR, &roots);
    // Kernel: PDPT and PD of the direct map, PDPT, PD and PT of vmalloc. Each process: PGD and 3.
    assert_eq!(reads.len(), 5 + 8 * 4);
    assert!(reads.values().all(|&count| count == 1), "{reads:?}");
}

#[test]
fn a_second_capture_of_unchanged_tables_shares_every_one_of_them() {
    let mut memory = FakeMemory::new();
    let roots = labelled(&family(&mut memory, 4));
    let mut capturer = Capturer::new();
    let before = capturer.capture(&memory, FOUR, &roots);
    let after = capturer.capture(&memory, FOUR, &roots);
    assert_eq!(not_shared(&before, &after), []);
    assert_eq!(after.tables().count(), 5 + 4 * 4);
}

#[test]
fn one_changed_word_replaces_one_table_and_the_old_snapshot_keeps_the_old_one() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 4);
    let mut capturer = Capturer::new();
    let before = capturer.capture(&memory, FOUR, &labelled(&roots));
    let page = VMALLOC.wrapping_add(0x1000);
    let flags = FakeMemory::KERNEL_DATA;
    memory.map(
        Depth::Four,
        roots[0],
        page,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    let after = capturer.capture(&memory, FOUR, &labelled(&roots));
    let table = memory.table_for(Depth::Four, roots[0], page, Level::Pt);
    assert_eq!(not_shared(&before, &after), [table]);
    for root in 0..4 {
        let old = before.translate(id(&before, root), page);
        assert_eq!(old.result, Err(Fault::NotPresent { level: Level::Pt }));
        let new = after.translate(id(&after, root), page);
        assert_eq!(new.translation().unwrap().pa, pa(0x5000));
    }
}

#[test]
fn a_dirty_log_spares_the_reading_of_what_was_not_written() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 4);
    let (old, new) = (labelled(&roots[..3]), labelled(&roots));
    let mut capturer = Capturer::new();
    let mut capture = |memory: &FakeMemory, roots: &[_], written: &[Pfn]| {
        let counting = Counting::new(memory);
        let written = Written::Frames(written);
        let snapshot = capturer.capture_written(&counting, FOUR, roots, written);
        (snapshot, counting.reads.into_inner())
    };
    // The log knows nothing of what was never captured.
    assert_eq!(capture(&memory, &old, &[]).1.len(), 5 + 3 * 4);
    assert_eq!(capture(&memory, &old, &[]).1.len(), 0);
    assert_eq!(capture(&memory, &new, &[]).1.len(), 4);

    let page = VMALLOC.wrapping_add(0x1000);
    let flags = FakeMemory::KERNEL_DATA;
    memory.map(
        Depth::Four,
        roots[0],
        page,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    let table = memory.table_for(Depth::Four, roots[0], page, Level::Pt);
    let (snapshot, reads) = capture(&memory, &new, &[table]);
    assert_eq!(reads, BTreeMap::from([(table, 1)]));
    assert!(snapshot.translate(id(&snapshot, 3), page).result.is_ok());

    // What one capture did not reach is read when the next one does.
    assert_eq!(capture(&memory, &old, &[]).1.len(), 0);
    assert_eq!(capture(&memory, &new, &[]).1.len(), 4);
}

#[test]
fn a_bit_that_only_the_cpu_sets_is_seen_too() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    let mut capturer = Capturer::new();
    capturer.capture(&memory, FOUR, &labelled(&roots));
    memory.change(Depth::Four, roots[1], TEXT, Level::Pt, |entry| {
        entry | Entry::ACCESSED
    });
    let after = capturer.capture(&memory, FOUR, &labelled(&roots));
    let walk = after.translate(id(&after, 1), TEXT);
    assert!(walk.translation().unwrap().accessed);
}

#[test]
fn tables_of_dead_roots_are_forgotten_and_their_frames_may_become_others() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 3);
    let mut capturer = Capturer::new();
    capturer.capture(&memory, FOUR, &labelled(&roots));
    let fewer = capturer.capture(&memory, FOUR, &labelled(&roots[..1]));
    assert_eq!(fewer.tables().count(), 5 + 4);
    assert!(fewer.table(roots[1].pfn(), Level::Pml4).is_none());

    // The dead root's frame comes back as a PT of the living one.
    for index in 0..512 {
        memory.poke(roots[1].pfn(), index, Entry::ABSENT);
    }
    let page = TEXT.wrapping_add(1 << 21);
    let table = Entry::pointing_to(roots[1], FakeMemory::POINTER);
    memory.change(Depth::Four, roots[0], page, Level::Pd, |_| table);
    let flags = FakeMemory::USER_DATA;
    memory.map(
        Depth::Four,
        roots[0],
        page,
        pa(0x9000),
        PageSize::Size4KiB,
        flags,
    );
    let reused = capturer.capture(&memory, FOUR, &labelled(&roots[..1]));
    assert!(reused.levels_of(roots[1].pfn()).eq([Level::Pt]));
    let walk = reused.translate(id(&reused, 0), page);
    assert_eq!(walk.translation().unwrap().pa, pa(0x9000));
}

#[test]
fn dead_tables_make_room_and_what_is_shared_stays_shared() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 12);
    // Room for one process more than there ever is.
    let mut capturer = Capturer::with_limit(5 + 2 * 4);
    let first = capturer.capture(&memory, FOUR, &labelled(&roots[..1]));
    for root in &roots[1..] {
        let next = capturer.capture(&memory, FOUR, &labelled(&[*root]));
        assert_eq!((next.tables().count(), next.omitted()), (9, 0));
        assert_eq!(not_shared(&first, &next).len(), 4);
    }
}

#[test]
fn a_capture_depends_on_memory_and_never_on_the_captures_before() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 6);
    let mut capturer = Capturer::new();
    for living in [6, 2, 5, 1, 4] {
        let page = VMALLOC.wrapping_add(0x20_0000 * living);
        let flags = FakeMemory::KERNEL_DATA;
        memory.map(
            Depth::Four,
            roots[0],
            page,
            pa(living << 12),
            PageSize::Size4KiB,
            flags,
        );
        let roots = &roots[..usize::try_from(living).unwrap()];
        let kept = capturer.capture(&memory, FOUR, &labelled(roots));
        let fresh = snapshot(&memory, FOUR, roots);
        assert_eq!(kept.table_frames(), fresh.table_frames());
        for root in 0..roots.len() {
            let leaves = |snapshot: &Snapshot| {
                snapshot
                    .leaves(id(snapshot, root), VirtRange::ALL)
                    .collect::<Vec<_>>()
            };
            assert_eq!(leaves(&kept), leaves(&fresh));
        }
    }
}

#[test]
fn another_mode_reads_the_same_bytes_anew() {
    let mut memory = FakeMemory::new();
    let roots = labelled(&family(&mut memory, 1));
    let mut capturer = Capturer::new();
    let nxe = capturer.capture(&memory, FOUR, &roots);
    let off = Mode { nxe: false, ..FOUR };
    let legacy = capturer.capture(&memory, off, &roots);
    assert!(nxe.translate(id(&nxe, 0), VMALLOC).result.is_ok());
    assert_eq!(
        legacy.translate(id(&legacy, 0), VMALLOC).result,
        Err(Fault::Reserved {
            level: Level::Pt,
            bits: Entry::NO_EXECUTE
        })
    );
}

#[test]
fn a_table_outside_memory_is_reported_and_the_rest_is_captured() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 2);
    let lost = memory.table_for(Depth::Four, roots[0], VMALLOC, Level::Pt);
    memory.remove(lost);
    let mut capturer = Capturer::new();
    let nowhere = pa(0x7777_7000);
    let all = [roots[0], roots[1], nowhere];
    for _ in 0..2 {
        let broken = capturer.capture(&memory, FOUR, &labelled(&all));
        let mut missing: Vec<_> = broken.missing().collect();
        missing.sort();
        let mut expected = [
            MissingTable {
                pfn: lost,
                level: Level::Pt,
            },
            MissingTable {
                pfn: nowhere.pfn(),
                level: Level::Pml4,
            },
        ];
        expected.sort();
        assert_eq!(missing, expected);
        assert_eq!(broken.parents(lost, Level::Pt).len(), 1);
        assert!(broken.translate(id(&broken, 1), TEXT).result.is_ok());
        assert_eq!(broken.leaves(id(&broken, 2), VirtRange::ALL).count(), 0);
    }
    // And when the frame is there, it is read.
    memory.add(lost);
    let whole = capturer.capture(&memory, FOUR, &labelled(&roots));
    assert_eq!(whole.missing().count(), 0);
    assert!(whole.table(lost, Level::Pt).is_some());
}

#[test]
fn a_self_map_is_read_once_and_known_at_every_level() {
    let mut memory = FakeMemory::new();
    let root = family(&mut memory, 1)[0];
    memory.poke(
        root.pfn(),
        493,
        Entry::pointing_to(root, FakeMemory::POINTER),
    );
    let reads = reads(&memory, FOUR, &[root]);
    assert!(reads.values().all(|&count| count == 1), "{reads:?}");
    let mapped = snapshot(&memory, FOUR, &[root]);
    assert!(
        mapped
            .levels_of(root.pfn())
            .eq([Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt])
    );
    let words: Vec<&Arc<Words>> = mapped
        .tables()
        .filter(|table| table.pfn() == root.pfn())
        .map(|table| table.words())
        .collect();
    assert_eq!(words.len(), 4);
    assert!(words.iter().all(|other| Arc::ptr_eq(other, words[0])));
    // A frame counts once, at however many levels it is used.
    assert_eq!(mapped.table_frames().total, reads.len());
}

#[test]
fn tables_in_a_circle_end_at_the_bottom() {
    let mut memory = FakeMemory::new();
    let (a, b) = (memory.frame(), memory.frame());
    for index in [0, 300, 511] {
        memory.poke(a, index, Entry::pointing_to(b.base(), FakeMemory::POINTER));
        memory.poke(b, index, Entry::pointing_to(a.base(), FakeMemory::POINTER));
    }
    let circle = snapshot(&memory, FIVE, &[a.base()]);
    assert_eq!(circle.tables().count(), 5);
    assert_eq!(circle.table_frames().total, 2);
    // 3 entries at each of 5 levels.
    let leaves = circle.leaves(id(&circle, 0), VirtRange::ALL);
    assert_eq!(leaves.count(), 3_usize.pow(5));
    assert_eq!(circle.placements().len(), 2 + 2 * 4);
}

#[test]
fn a_table_of_512_entries_to_itself_costs_one_read_and_its_leaves_have_an_end() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    for index in 0..512 {
        memory.poke(
            root.pfn(),
            index,
            Entry::pointing_to(root, FakeMemory::POINTER),
        );
    }
    assert_eq!(
        reads(&memory, FOUR, &[root]),
        BTreeMap::from([(root.pfn(), 1)])
    );
    let bomb = snapshot(&memory, FOUR, &[root]);
    let root = id(&bomb, 0);
    // 2^36 leaves are claimed.
    let mut leaves = bomb.leaves(root, VirtRange::half(Half::Kernel));
    let seen = leaves.by_ref().count();
    assert!(seen < 1 << 26, "{seen}");
    assert!(
        leaves
            .stopped_at()
            .is_some_and(|at| at.half() == Half::Kernel)
    );
    // A small range of the same is complete.
    let mut few = bomb.leaves(root, VirtRange::new(va(0x1234_5000), 0x3000).unwrap());
    assert_eq!(few.by_ref().count(), 3);
    assert_eq!(few.stopped_at(), None);
    assert_eq!(bomb.placements().len(), 2 + 2 * 3);
}

#[test]
fn tables_beyond_the_limit_are_counted_and_the_walk_says_so() {
    let mut memory = FakeMemory::new();
    let roots = family(&mut memory, 4);
    let mut capturer = Capturer::with_limit(10);
    for _ in 0..2 {
        let cut = capturer.capture(&memory, FOUR, &labelled(&roots));
        assert_eq!(cut.tables().count(), 10);
        assert!(cut.omitted() > 0);
        let faults = (0..4).filter_map(|root| cut.translate(id(&cut, root), TEXT).result.err());
        assert!(faults.clone().count() > 0);
        for fault in faults {
            assert!(matches!(fault, Fault::TableNotCaptured { .. }), "{fault}");
        }
    }
    // What an earlier capture held takes no room from a later one.
    for root in &roots {
        let one = capturer.capture(&memory, FOUR, &labelled(&[*root]));
        assert_eq!((one.tables().count(), one.omitted()), (9, 0));
    }
}

#[test]
fn both_roots_of_a_kpti_pair_are_address_spaces_of_their_own() {
    let mut memory = FakeMemory::new();
    // Roots as Linux allocates them: two frames, the user's behind the kernel's.
    memory.add(Pfn::new(0x10));
    memory.add(Pfn::new(0x11));
    let (kernel, user) = (pa(0x1_0000), pa(0x1_1000));
    let flags = FakeMemory::USER_TEXT;
    memory.map(
        Depth::Four,
        kernel,
        TEXT,
        pa(0x5000),
        PageSize::Size4KiB,
        flags,
    );
    memory.map(
        Depth::Four,
        kernel,
        VMALLOC,
        pa(0x6000),
        PageSize::Size4KiB,
        FakeMemory::KERNEL_DATA,
    );
    let index = TEXT.index(Level::Pml4);
    let shared = memory.peek(kernel.pfn(), index);
    memory.poke(user.pfn(), index, shared);
    memory.poke(kernel.pfn(), index, shared | Entry::NO_EXECUTE);
    let pair = snapshot(&memory, FOUR, &[kernel, user]);
    let rights = |root| {
        let walk = pair.translate(id(&pair, root), TEXT);
        walk.translation().unwrap().rights
    };
    // The kernel cannot run what the process can.
    assert!(!rights(0).execute);
    assert!(rights(1).execute);
    assert!(pair.translate(id(&pair, 0), VMALLOC).result.is_ok());
    assert!(pair.translate(id(&pair, 1), VMALLOC).result.is_err());
    assert_eq!(pair.table_frames().user_half, 3);
}

#[test]
fn roots_keep_their_labels_and_may_repeat() {
    let mut memory = FakeMemory::new();
    let root = memory.root();
    let labels = [RootLabel::Kernel, RootLabel::Process(7), RootLabel::Cpu(0)];
    let twice = Capturer::new().capture(&memory, FOUR, &labels.map(|label| (label, root)));
    assert_eq!(twice.tables().count(), 1);
    for label in labels {
        assert_eq!(twice.root_of(label).unwrap().label, label);
    }
    assert_eq!(twice.root_of(RootLabel::Process(8)), None);
    assert_eq!(twice.table_frames().roots, 1);
}
