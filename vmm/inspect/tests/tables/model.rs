//! The library against a model that shares no code with it: random mappings, and random garbage.

use std::collections::{BTreeMap, BTreeSet};

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Comparer, Depth, Entry, Fault, Half, Mapping, Mappings, Mode, PageSize, Pfn, PhysAddr,
    PhysicalMemory, Rights, Snapshot, VirtAddr, VirtRange, Walk,
};
use proptest::prelude::*;

use crate::{id, pa, snapshot, va};

/// Entries of garbage stand only at these indices, so that all they map can be listed.
const USED: [u16; 5] = [0, 1, 2, 256, 511];
/// The same and one index that is never used: the first that a table may lack is among them.
const PROBED: [u16; 6] = [0, 1, 2, 3, 256, 511];

/// What the manual says, in arithmetic: the page, its size, and W, U, X; or `None` for any fault.
fn naive(memory: &FakeMemory, mode: &Mode, root: u64, at: u64) -> Option<(u64, u64, [bool; 3])> {
    let levels = if mode.depth == Depth::Five { 5 } else { 4 };
    let unused = 64 - (12 + 9 * levels);
    if ((at << unused).cast_signed() >> unused).cast_unsigned() != at {
        return None;
    }
    let (mut table, mut w, mut u, mut x) = (root, true, true, true);
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (level - 1);
        let raw = memory.read_u64(pa(table + (at >> shift) % 512 * 8)).ok()?;
        if raw % 2 == 0 {
            return None;
        }
        (w, u, x) = (w && raw & 2 != 0, u && raw & 4 != 0, x && raw >> 63 == 0);
        if raw >> 63 == 1 && !mode.nxe {
            return None;
        }
        let address = raw % (1 << 52) / 4096 * 4096;
        if address >> mode.phys_bits.get() != 0 {
            return None;
        }
        let large = raw & 0x80 != 0;
        let size = 1u64 << shift;
        match level {
            1 => return Some((address, size, [w, u, x])),
            2 | 3 if large => {
                // Bit 12 is PAT; the others below the page's size must be clear.
                if (address % size) & !4096 != 0 || (level == 3 && !mode.gigabyte_pages) {
                    return None;
                }
                return Some((address / size * size, size, [w, u, x]));
            }
            4 | 5 if large => return None,
            _ => table = address,
        }
    }
    None
}

fn answer(walk: &Walk) -> Option<(u64, u64, [bool; 3])> {
    let found = walk.translation()?;
    let Rights {
        write,
        user,
        execute,
    } = found.rights;
    assert_eq!(
        found.pa.get(),
        found.page.get() + walk.va.get() % found.size.bytes()
    );
    Some((found.page.get(), found.size.bytes(), [write, user, execute]))
}

fn mode() -> impl Strategy<Value = Mode> {
    (
        prop_oneof![Just(Depth::Four), Just(Depth::Five)],
        prop_oneof![Just(32u32), Just(36), Just(46), Just(52)],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(depth, bits, nxe, gigabyte_pages)| Mode {
            nxe,
            gigabyte_pages,
            phys_bits: PhysBits::new(bits).unwrap(),
            ..Mode::typical(depth)
        })
}

/// An entry that mostly leads to one of eight frames, sometimes just outside, sometimes anywhere.
fn entry() -> impl Strategy<Value = Entry> {
    let flags = prop_oneof![
        4 => Just(0b111u64),
        2 => (0u64..512).prop_map(|flags| flags | 1),
        1 => (0u64..512).prop_map(|flags| flags & !1),
    ];
    let high = prop_oneof![
        6 => Just(0u64),
        1 => Just(1 << 63),
        1 => (52u32..63).prop_map(|bit| 1 << bit),
        1 => (30u32..52).prop_map(|bit| 1 << bit),
    ];
    prop_oneof![
        12 => (1u64..10, flags, high).prop_map(|(pfn, flags, high)| Entry::new(pfn << 12 | flags | high)),
        2 => (0u64..4, any::<bool>()).prop_map(|(n, pat)| Entry::new(n << 30 | u64::from(pat) << 12 | 0x87)),
        1 => any::<u64>().prop_map(Entry::new),
    ]
}

/// Eight frames, 1 to 8, of garbage; frame 9 does not exist.
fn garbage() -> impl Strategy<Value = FakeMemory> {
    let place = (1u64..9, 0..USED.len());
    proptest::collection::vec((place, entry()), 0..48).prop_map(|pokes| {
        let mut memory = FakeMemory::new();
        for pfn in 1..9 {
            memory.add(Pfn::new(pfn));
        }
        for ((pfn, index), entry) in pokes {
            memory.poke(Pfn::new(pfn), USED[index], entry);
        }
        memory
    })
}

/// The first address below every combination of the indices.
fn addresses(depth: Depth, indices: &[u16]) -> Vec<VirtAddr> {
    (0..depth.levels()).fold(vec![va(0)], |below, level| {
        let shift = depth.top().shift() - 9 * level;
        below
            .iter()
            .flat_map(|base| {
                indices.iter().map(move |&index| {
                    VirtAddr::sign_extended(base.get() | u64::from(index) << shift, depth)
                })
            })
            .collect()
    })
}

/// What one address means, whatever the size of the page: to be compared.
fn meaning(snapshot: &Snapshot, root: usize, at: VirtAddr) -> Result<(PhysAddr, Rights), String> {
    match snapshot.translate(id(snapshot, root), at).result {
        Ok(found) => Ok((found.pa, found.rights)),
        Err(Fault::NotPresent { .. }) => Err("absent".into()),
        Err(Fault::Reserved { bits, .. }) => Err(format!("reserved {bits}")),
        Err(other) => {
            let Fault::TableOutsideMemory { table, .. } = other else {
                panic!("{other}")
            };
            Err(format!("missing {table}"))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_walk_of_garbage_is_the_models(
        memory in garbage(),
        mode in mode(),
        root in 0u64..11,
        anywhere in any::<u64>(),
    ) {
        let roots = [pa(root << 12)];
        let snapshot = snapshot(&memory, mode, &roots);
        for at in addresses(mode.depth, &USED).into_iter().chain([va(anywhere)]) {
            let live = heirloom_inspect::translate_in_memory(&memory, &mode, roots[0], at);
            prop_assert_eq!(answer(&live), naive(&memory, &mode, roots[0].get(), at.get()));
            prop_assert_eq!(snapshot.translate(id(&snapshot, 0), at), live);
        }
    }

    #[test]
    fn the_leaves_of_garbage_are_exactly_the_pages_that_translate(
        memory in garbage(),
        mode in mode(),
    ) {
        let snapshot = snapshot(&memory, mode, &[pa(0x1000)]);
        let root = id(&snapshot, 0);
        let mut expected = BTreeSet::new();
        for at in addresses(mode.depth, &USED) {
            if let Some((page, size, rights)) = naive(&memory, &mode, 0x1000, at.get()) {
                expected.insert((at.get() / size * size, page, size, rights));
            }
        }
        let leaves = snapshot.leaves(root, VirtRange::ALL);
        let found: Vec<_> = leaves
            .map(|leaf: Mapping| {
                let Rights { write, user, execute } = leaf.rights;
                (leaf.va.get(), leaf.pa.get(), leaf.size.bytes(), [write, user, execute])
            })
            .collect();
        prop_assert!(found.is_sorted());
        prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn two_address_spaces_differ_first_where_the_model_says(
        memory in garbage(),
        bits in 46u32..50,
    ) {
        let mode = Mode { phys_bits: PhysBits::new(bits).unwrap(), ..Mode::typical(Depth::Four) };
        let snapshot = snapshot(&memory, mode, &[pa(0x1000), pa(0x2000)]);
        let probes = addresses(Depth::Four, &PROBED);
        let mut comparer = Comparer::within(&snapshot);
        for half in [Half::User, Half::Kernel] {
            let found: BTreeMap<u16, Mappings> = comparer
                .compare(id(&snapshot, 0), id(&snapshot, 1), half)
                .iter()
                .map(|difference| (difference.index, difference.mappings))
                .collect();
            for index in PROBED.into_iter().filter(|&index| Half::of_index(index) == half) {
                let expected = probes
                    .iter()
                    .filter(|at| at.index(mode.depth.top()) == index)
                    .find(|&&at| meaning(&snapshot, 0, at) != meaning(&snapshot, 1, at))
                    .map_or(Mappings::Same, |&first| Mappings::Differ { first });
                prop_assert_eq!(found.get(&index).copied().unwrap_or(Mappings::Same), expected);
            }
        }
    }

    #[test]
    fn what_was_mapped_is_translated_and_nothing_else(
        depth in prop_oneof![Just(Depth::Four), Just(Depth::Five)],
        pages in proptest::collection::btree_map(0u64..1 << 20, (0u64..1 << 30, 0usize..5), 1..40),
        strangers in proptest::collection::vec(0u64..1 << 20, 20),
    ) {
        const FLAGS: [Entry; 5] = [
            FakeMemory::KERNEL_DATA,
            FakeMemory::KERNEL_TEXT,
            FakeMemory::USER_DATA,
            FakeMemory::USER_TEXT,
            FakeMemory::POINTER,
        ];
        // Spread over the address space, in clumps: 4 bits at each level, 2 at the top.
        let spread = |number: u64| {
            let part = |low: u32| number >> low & 0xf;
            let raw = part(0) << 12 | part(4) << 21 | part(8) << 30 | part(12) << 39 | part(16) << 44;
            VirtAddr::sign_extended(raw, depth)
        };
        let mut memory = FakeMemory::new();
        let root = memory.root();
        let mut expected = BTreeMap::new();
        for (number, (frame, flags)) in pages {
            let flags = FLAGS[flags];
            memory.map(depth, root, spread(number), pa(frame << 12), PageSize::Size4KiB, flags);
            expected.insert(spread(number), (pa(frame << 12), Rights::ALL.through(flags)));
        }
        let snapshot = snapshot(&memory, Mode::typical(depth), &[root]);
        let root = id(&snapshot, 0);
        for at in strangers.into_iter().map(spread).chain(expected.keys().copied()) {
            let found = snapshot.translate(root, at);
            let found = found.translation().map(|found| (found.pa, found.rights));
            prop_assert_eq!(found, expected.get(&at).copied());
        }
        let leaves: BTreeMap<_, _> = snapshot
            .leaves(root, VirtRange::ALL)
            .map(|leaf| (leaf.va, (leaf.pa, leaf.rights)))
            .collect();
        prop_assert_eq!(leaves, expected);
    }
}
