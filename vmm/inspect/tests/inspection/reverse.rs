//! From a frame back to every address, against every address there is.

use std::collections::{BTreeMap, BTreeSet};

use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Depth, Entry, Level, Mode, PageSize, PhysAddr, RootLabel, Snapshot, VirtAddr,
    VirtRange,
};
use proptest::prelude::*;

use crate::scene::{Guest, IMAGE_TEXT, MIB, Plan, USER_DATA, bits};

use PageSize::{Size1GiB, Size2MiB, Size4KiB};

/// All that reaches `pa`, found by looking at every leaf of every address space: the addresses, each with
/// the roots that have it.
fn brute_force(snapshot: &Snapshot, pa: PhysAddr) -> BTreeMap<VirtAddr, BTreeSet<PhysAddr>> {
    let mut reached: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for root in snapshot.roots() {
        for page in snapshot.leaves(root.id, VirtRange::ALL) {
            if (page.pa.get()..page.pa.get() + page.size.bytes()).contains(&pa.get()) {
                let va = page.va.wrapping_add(pa.get() - page.pa.get());
                reached.entry(va).or_default().insert(root.address);
            }
        }
    }
    reached
}

/// The same as the snapshot finds it; each address once for each set of roots.
fn found(snapshot: &Snapshot, pa: PhysAddr) -> BTreeMap<VirtAddr, BTreeSet<PhysAddr>> {
    let reverse = snapshot.reverse(pa);
    assert!(!reverse.is_cut);
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for reached in &reverse.reached {
        let roots = found.entry(reached.va).or_default();
        for root in &*reached.roots {
            let root = snapshot.root(*root);
            assert!(roots.insert(root.address), "{} twice", reached.va);
            let walk = snapshot.translate(root.id, reached.va);
            let page = walk.translation().unwrap();
            assert_eq!((page.pa, page.page), (pa, reached.mapping.pa));
            assert_eq!(page.rights, reached.mapping.rights);
            assert_eq!(page.size, reached.mapping.size);
        }
    }
    found
}

#[test]
fn every_address_in_every_address_space_is_found() {
    for guest in Guest::all() {
        let snapshot = guest.discover().snapshot;
        for pa in [
            guest.init.get(),
            IMAGE_TEXT.get() + 0x1234,
            guest.processes[0].get() + 8,
            56 * MIB + 0x1f_ffff,
            0x9_9abc,
            0xfed0_0010,
            0xb030_0000,
            48 * MIB,
            // Nothing: beyond all RAM, and the last byte there is.
            1 << 40,
            u64::MAX,
        ] {
            let pa = PhysAddr::new(pa);
            assert_eq!(
                found(&snapshot, pa),
                brute_force(&snapshot, pa),
                "{}: {pa}",
                guest.plan
            );
        }
    }
}

#[test]
fn what_all_share_comes_once_and_what_processes_share_by_tables_of_their_own_each() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let page = guest.data_page();
    for root in guest.processes.clone() {
        let va = USER_DATA.wrapping_add(40 << 12);
        guest.map_user(root, va, page, Size4KiB, bits::USER_DATA);
    }
    let discovery = guest.discover();
    let reached = discovery.snapshot.reverse(page).reached;
    let counts: Vec<_> = reached
        .iter()
        .map(|reached| (reached.va, reached.roots.len()))
        .collect();
    let user = USER_DATA.wrapping_add(40 << 12);
    let all = discovery.spaces.len();
    let mut expected = vec![
        (guest.direct(page), all),
        // The trampoline's, by the direct map's tables.
        (VirtAddr::new(page.get()), 1),
    ];
    expected.extend([(user, 1); 4]);
    assert_eq!(counts, expected);
}

fn mapping() -> impl Strategy<Value = (usize, VirtAddr, PhysAddr, PageSize)> {
    let size = prop_oneof![4 => Just(Size4KiB), 2 => Just(Size2MiB), 1 => Just(Size1GiB)];
    (
        0usize..3,
        0u64..4,
        0u64..3,
        0u64..3,
        0u64..4,
        0u64..3,
        any::<bool>(),
        size,
    )
        .prop_map(|(root, pt, pd, pdpt, frame, large, kernel, size)| {
            let half = if kernel { 0xffff_8000_0000_0000 } else { 0 };
            let va = half | pdpt << 30 | pd << 21 | pt << 12;
            let va = va & !(size.bytes() - 1);
            let pa = (large << 30 | large << 21 | frame << 12) & !(size.bytes() - 1);
            (root, VirtAddr::new(va), PhysAddr::new(pa), size)
        })
}

proptest! {
    #[test]
    fn it_finds_what_a_look_at_every_leaf_finds(
        mappings in proptest::collection::vec(mapping(), 0..24),
        shared in proptest::collection::vec((0usize..3, 0usize..3, prop_oneof![Just(0u16), Just(256)]), 0..3),
        frame in 0u64..4, large in 0u64..3, byte in 0u64..4096,
    ) {
        let mut memory = FakeMemory::new();
        let roots: Vec<PhysAddr> = (0..3).map(|_| memory.root()).collect();
        let mut taken = BTreeSet::new();
        for (root, va, pa, size) in mappings {
            // Not where a page of another size is.
            let covers = |other: &(usize, VirtAddr, PageSize)| {
                other.0 == root
                    && (va.get() < other.1.get() + other.2.bytes())
                    && (other.1.get() < va.get() + size.bytes())
            };
            if !taken.iter().any(covers) {
                taken.insert((root, va, size));
                memory.map(Depth::Four, roots[root], va, pa, size, FakeMemory::USER_DATA);
            }
        }
        for (from, to, index) in shared {
            let entry = memory.peek(roots[from].pfn(), index);
            memory.poke(roots[to].pfn(), index, entry);
        }
        let labelled: Vec<_> = (1..).zip(&roots).map(|(pid, root)| (RootLabel::Process(pid), *root)).collect();
        let snapshot = Capturer::new().capture(&memory, Mode::typical(Depth::Four), &labelled);
        let pa = PhysAddr::new(large << 30 | large << 21 | frame << 12 | byte);
        prop_assert_eq!(found(&snapshot, pa), brute_force(&snapshot, pa));
    }
}

#[test]
fn absurdly_many_addresses_are_cut_and_said_to_be() {
    let mut guest = Guest::new(Plan::new(Depth::Four, false));
    let root = guest.processes[1];
    let va = VirtAddr::new(0x3000_0000_0000);
    let page = guest.data_page();
    let pt = guest.table(root, va, Level::Pt);
    let (pd, pdpt) = (
        guest.table(root, va, Level::Pd),
        guest.table(root, va, Level::Pdpt),
    );
    for index in 0..512 {
        guest
            .memory
            .poke(pt, index, Entry::pointing_to(page, bits::USER_DATA));
        guest
            .memory
            .poke(pd, index, Entry::pointing_to(pt.base(), bits::TABLE));
        guest
            .memory
            .poke(pdpt, index, Entry::pointing_to(pd.base(), bits::TABLE));
    }
    guest.mirror(root);
    let discovery = guest.discover();
    let reverse = discovery.snapshot.reverse(page);
    assert!(reverse.is_cut);
    assert!(reverse.reached.len() < 1 << 20);
}
