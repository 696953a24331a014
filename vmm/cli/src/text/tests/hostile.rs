//! Reports on memory that may hold anything.

use heirloom_inspect::difference::Difference;
use heirloom_inspect::report::{
    DifferenceReport, LayoutReport, ReverseReport, Roots, TranslateReport,
};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{Cr3, Depth, Discovery, Entry, Pfn, PhysAddr, VirtAddr};
use proptest::prelude::*;

use super::scene::{Guest, Plan, range};
use super::{assert_tidy, report, shown};

/// Words that lead to frames 0 to 15 more often than chance would.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => any::<u64>(),
        6 => (0u64..16, 0u64..0x200, any::<bool>())
            .prop_map(|(pfn, flags, nx)| pfn << 12 | flags | u64::from(nx) << 63),
        2 => (0u64..16).prop_map(|pfn| pfn << 12 | 0x67),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn whatever_memory_holds_every_report_has_a_text(
        frames in proptest::collection::vec(proptest::collection::vec((0u16..512, word()), 0..600), 16),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0u16..512, word()), 0..6),
        which in 0usize..4,
    ) {
        let mut memory = FakeMemory::new();
        for (pfn, words) in (0..).map(Pfn::new).zip(frames) {
            memory.add(pfn);
            for (index, word) in words {
                memory.poke(pfn, index, Entry::new(word));
            }
        }
        let mut random = Guest::new(Plan { processes: 0, ..Plan::new(Depth::Four, false) }).target();
        random.ram = vec![range(0, 16 << 12)];
        random.memory = Box::new(memory);
        random.cpus[0].cr3 = Cr3::new(0x3000);
        let mut damaged = Guest::all().remove(which);
        let tables: Vec<Pfn> = damaged.discover().snapshot.tables().map(|table| table.pfn()).collect();
        for (at, index, raw) in damage {
            damaged.memory.poke(tables[at.index(tables.len())], index, Entry::new(raw));
        }
        for target in [random, damaged.target()] {
            let Ok(discovery) = Discovery::of(&target) else { continue };
            let pa = PhysAddr::new(0x161_0123);
            let va = VirtAddr::new(0xffff_8880_0000_1234);
            let mut texts = vec![
                shown(&report(&discovery)),
                shown(&Roots::new("raw:guest", &discovery)),
                shown(&LayoutReport::new("raw:guest", &discovery)),
                shown(&ReverseReport::new("raw:guest", &discovery, pa)),
            ];
            for space in discovery.spaces.iter().take(3) {
                texts.push(shown(&TranslateReport::new("raw:guest", &discovery, space.root, va)));
            }
            let named = ("raw:guest", &discovery);
            let difference = Difference::between(&discovery, &discovery).unwrap();
            texts.push(shown(&DifferenceReport::new(named, named, difference)));
            for text in texts {
                assert_tidy(&text);
            }
        }
    }
}
