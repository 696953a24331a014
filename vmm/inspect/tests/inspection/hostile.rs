//! Guest memory may hold anything: nothing panics, nothing runs away, and what is sound is still found.

use std::io;
use std::time::Duration;

use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::difference::Difference;
use heirloom_inspect::discover::Kind;
use heirloom_inspect::report::{
    CheckReport, DifferenceReport, LayoutReport, ReverseReport, Roots, TranslateReport,
};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Cr3, Depth, Discovery, Entry, Half, Pfn, PhysAddr, Target, VirtAddr};
use proptest::prelude::*;
use serde::Serialize;

use crate::scene::{Guest, MIB, Plan, bits, range};

/// CPU time: far more than any of this takes; unbounded work would be hours.
const PATIENCE: Duration = Duration::from_secs(60);

/// What this thread has used of the CPU, which does not depend on what else the machine does.
fn cpu_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    Duration::from(clock.now().unwrap())
}

/// A report may be large; that it can be written is enough.
fn serialize(report: &impl Serialize) {
    serde_json::to_writer(io::sink(), report).unwrap();
}

/// Asks everything about a target, as programs read it.
fn examine(target: &Target) -> Option<Discovery> {
    let began = cpu_time();
    let found = Discovery::of(target);
    if let Ok(discovery) = &found {
        let check = Check::of(
            discovery,
            Strictness {
                user: true,
                ..Strictness::default()
            },
        );
        serialize(&CheckReport::new("raw:guest", discovery, check));
        serialize(&Roots::new("raw:guest", discovery));
        serialize(&LayoutReport::new("raw:guest", discovery));
        let pa = PhysAddr::new(0x161_0123);
        serialize(&ReverseReport::new("raw:guest", discovery, pa));
        for space in discovery.spaces.iter().take(3) {
            let va = VirtAddr::new(0xffff_8880_0000_1234);
            serialize(&TranslateReport::new(
                "raw:guest",
                discovery,
                space.root,
                va,
            ));
        }
        let difference = Difference::between(discovery, discovery).unwrap();
        assert!(difference.is_empty(), "{difference:?}");
        let named = ("raw:guest", discovery);
        serialize(&DifferenceReport::new(named, named, difference));
    }
    let took = cpu_time().saturating_sub(began);
    assert!(took < PATIENCE, "{took:?}");
    found.ok()
}

fn target(memory: FakeMemory, frames: u64) -> Target {
    let mut target = Guest::new(Plan {
        processes: 0,
        ..Plan::new(Depth::Four, false)
    })
    .target();
    target.cpus.clear();
    target.ram = vec![range(0, frames << 12)];
    target.memory = Box::new(memory);
    target
}

/// Words that lead to frames 0 to 15 more often than chance would.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => any::<u64>(),
        6 => (0u64..16, 0u64..0x200, any::<bool>())
            .prop_map(|(pfn, flags, nx)| pfn << 12 | flags | u64::from(nx) << 63),
        2 => (0u64..16).prop_map(|pfn| pfn << 12 | 0x67),
        1 => Just(0),
    ]
}

fn memory() -> impl Strategy<Value = FakeMemory> {
    let frame = prop_oneof![
        proptest::collection::vec((0u16..512, word()), 0..600),
        // Many equal entries: tables that fan out.
        (word(), 0u16..512)
            .prop_map(|(word, first)| (first..512).map(|index| (index, word)).collect()),
    ];
    proptest::collection::vec(frame, 16).prop_map(|frames| {
        let mut memory = FakeMemory::new();
        for (pfn, words) in (0..).zip(frames) {
            memory.add(Pfn::new(pfn));
            for (index, word) in words {
                memory.poke(Pfn::new(pfn), index, Entry::new(word));
            }
        }
        memory
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn random_memory_is_looked_through_without_a_cr3(memory in memory()) {
        examine(&target(memory, 16));
    }

    #[test]
    fn random_memory_is_looked_through_from_any_cr3(memory in memory(), cr3 in any::<u64>(), pfn in 0u64..17, la57: bool) {
        for raw in [cr3, pfn << 12] {
            let mut target = target(memory.clone(), 16);
            let guest = Guest::new(Plan { processes: 0, ..Plan::new(if la57 { Depth::Five } else { Depth::Four }, false) });
            let mut cpu = guest.cpu(PhysAddr::new(0));
            cpu.cr3 = Cr3::new(raw);
            target.cpus = vec![cpu];
            examine(&target);
        }
    }
}

/// Where a change hits: a root of the guest, or one of the frames that are tables.
fn damage() -> impl Strategy<Value = Vec<(usize, u16, u64)>> {
    let raw = prop_oneof![
        any::<u64>(),
        (0u64..0x4000, 0u64..0x200).prop_map(|(pfn, flags)| pfn << 12 | flags | 1),
        Just(0),
    ];
    proptest::collection::vec((any::<prop::sample::Index>(), 0u16..512, raw), 1..6).prop_map(
        |changes| {
            let changes = changes.into_iter();
            changes
                .map(|(at, index, raw)| (at.index(1 << 16), index, raw))
                .collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn damage_in_user_tables_leaves_all_other_roots_what_they_were(which in 0usize..4, changes in damage()) {
        let mut guest = Guest::all().remove(which);
        let before = guest.discover();
        let victim = guest.processes[2];
        // What only the victim has: its roots' user halves, and the tables below.
        let space = before.space_at(victim).unwrap();
        let mut tables: Vec<(Pfn, bool)> = guest.pair(victim).iter().map(|root| (root.pfn(), true)).collect();
        let below = before.snapshot.placements_below([space.root]).into_iter();
        let top = guest.top();
        tables.extend(below
            .filter(|placement| placement.half == Half::User && placement.table.level() != top)
            .map(|placement| (placement.table.pfn(), false)));
        for (at, index, raw) in changes {
            let (table, is_root) = tables[at % tables.len()];
            let index = if is_root { index % 256 } else { index };
            guest.memory.poke(table, index, Entry::new(raw));
        }
        let after = examine(&guest.target()).unwrap();
        let victims = guest.pair(victim);
        for space in before.spaces.iter().filter(|space| !victims.contains(&space.address)) {
            let now = after.space_at(space.address).map(|space| (space.kind, space.user_pages));
            prop_assert_eq!(now, Some((space.kind, space.user_pages)), "{}", space.address);
        }
        prop_assert!(after.space_at(victim).is_some());
    }

    #[test]
    fn damage_anywhere_is_survived(which in 0usize..4, changes in damage(), blind: bool) {
        let mut guest = Guest::all().remove(which);
        let tables: Vec<Pfn> = guest.discover().snapshot.tables().map(|table| table.pfn()).collect();
        for (at, index, raw) in changes {
            guest.memory.poke(tables[at % tables.len()], index, Entry::new(raw));
        }
        if blind {
            guest.cpus.clear();
        }
        examine(&guest.target());
    }
}

#[test]
fn tables_that_claim_every_address_with_four_frames_are_told_of_in_seconds() {
    for depth in [Depth::Four, Depth::Five] {
        for blind in [false, true] {
            let mut memory = FakeMemory::new();
            let levels: u64 = depth.levels().into();
            for number in 1..=levels {
                let pfn = Pfn::new(number);
                memory.add(pfn);
                for index in 0..512 {
                    let next = if number == levels { 1 } else { number + 1 };
                    let entry = Entry::pointing_to(Pfn::new(next).base(), bits::USER_JIT);
                    memory.poke(pfn, index, entry);
                }
            }
            let mut target = target(memory, 16);
            if !blind {
                let guest = Guest::new(Plan {
                    processes: 0,
                    ..Plan::new(depth, false)
                });
                target.cpus = vec![guest.cpu(PhysAddr::new(0x1000))];
            }
            let found = examine(&target);
            assert!(blind || found.is_some());
        }
    }
}

#[test]
fn roots_of_many_cpus_that_claim_every_address_without_code_are_not_looked_through_one_by_one() {
    let guest = Guest::new(Plan {
        processes: 0,
        ..Plan::new(Depth::Four, false)
    });
    let (cpus, levels) = (64, 4);
    let mut memory = FakeMemory::new();
    let mut target = target(FakeMemory::new(), 1 + cpus * levels);
    for cpu in 0..cpus {
        let root = 1 + cpu * levels;
        for pfn in root..root + levels {
            memory.add(Pfn::new(pfn));
            let is_last = pfn + 1 == root + levels;
            let (next, attributes) = if is_last {
                (root, bits::DATA)
            } else {
                (pfn + 1, bits::TABLE)
            };
            for index in 0..512 {
                let entry = Entry::pointing_to(Pfn::new(next).base(), attributes);
                memory.poke(Pfn::new(pfn), index, entry);
            }
        }
        target.cpus.push(guest.cpu(Pfn::new(root).base()));
    }
    target.memory = Box::new(memory);
    let began = cpu_time();
    examine(&target);
    let took = cpu_time().saturating_sub(began);
    // Looking through each takes ten times as long.
    assert!(took < PATIENCE / 5, "{took:?}");
}

#[test]
fn hundreds_of_roots_that_claim_every_address_are_not_walked_one_by_one() {
    let mut guest = Guest::new(Plan::new(Depth::Four, true));
    let (mut pd, mut pdpt) = (guest.memory.frame(), guest.memory.frame());
    let pt = guest.memory.frame();
    for index in 0..512 {
        let leaf = Entry::pointing_to(PhysAddr::new(u64::from(index) << 12), bits::DATA);
        guest.memory.poke(pt, index, leaf);
        guest
            .memory
            .poke(pd, index, Entry::pointing_to(pt.base(), bits::TABLE));
        guest
            .memory
            .poke(pdpt, index, Entry::pointing_to(pd.base(), bits::TABLE));
    }
    for number in 0..200 {
        // Each has tables of its own, so that nothing is known of one from another.
        (pd, pdpt) = (guest.memory.copy_of(pd), guest.memory.copy_of(pdpt));
        for index in 0..512 {
            guest
                .memory
                .poke(pdpt, index, Entry::pointing_to(pd.base(), bits::TABLE));
        }
        let root = guest.add_root();
        for root in guest.pair(root) {
            for index in 0..256 {
                guest.memory.poke(
                    root.pfn(),
                    index,
                    Entry::pointing_to(pdpt.base(), bits::TABLE),
                );
            }
            // In the kernel half, too, of which each has another.
            if number % 2 == 0 {
                guest.memory.poke(
                    root.pfn(),
                    300,
                    Entry::pointing_to(pdpt.base(), bits::TABLE),
                );
            }
        }
    }
    let discovery = examine(&guest.target()).unwrap();
    assert_eq!(
        discovery.space_at(guest.processes[0]).unwrap().kind,
        Kind::Process
    );
    assert!(discovery.spaces.len() > 400);
}

#[test]
fn a_memory_full_of_roots_is_told_of_in_seconds() {
    let mut guest = Guest::new(Plan::new(Depth::Four, true));
    for _ in 0..2000 {
        guest.add_freed();
        let root = guest.add_root();
        guest.memory.poke(root.pfn(), 3, Entry::new(0x3c0_0067));
    }
    guest.ram = vec![range(0, 256 * MIB)];
    let discovery = examine(&guest.target()).unwrap();
    assert!(discovery.spaces.len() > 8000, "{}", discovery.spaces.len());
}
