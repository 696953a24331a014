//! The page's own walks and comparisons against the inspector's, on tables that are as wild as can be.

use std::collections::{BTreeMap, BTreeSet};

use heirloom_explorer::{About, Event, Group, Sign, SpaceInfo, Timeline};
use heirloom_inspect::paging::entry::Entry;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Comparer, Depth, EntryDifferenceKind, Fault, Half, Mappings, Mode, Pfn, RootLabel,
    Snapshot, VirtAddr, Walk,
};
use serde_json::{Value, json};

use crate::open_timeline;

/// Random numbers that are the same every time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

/// Few frames, full of entries that point to each other, to pages, outside memory, or nowhere; with
/// large pages, reserved bits, loops and self-maps among them.
fn wild_snapshot(dice: &mut Dice, depth: Depth) -> Snapshot {
    const FRAMES: u64 = 24;
    let mut memory = FakeMemory::new();
    for _ in 0..FRAMES {
        memory.frame();
    }
    for frame in 1..=FRAMES {
        for _ in 0..12 {
            let index = [0, 1, 2, 255, 256, 257, 511][usize::try_from(dice.below(7)).unwrap()];
            // Frame FRAMES + 1 and more are outside memory.
            let target = 1 + dice.below(FRAMES + 2);
            let mut flags = dice.below(0x1000);
            if dice.below(8) != 0 {
                flags |= 1;
            }
            if dice.below(3) != 0 {
                flags &= !0x80;
            }
            let high = match dice.below(12) {
                0 => 1 << 63,
                1 => 1 << 51,
                2 => 0x7ff << 52,
                _ => 0,
            };
            let large = if flags & 0x80 != 0 && dice.below(2) == 0 {
                target << 21
            } else {
                target << 12
            };
            memory.poke(Pfn::new(frame), index, Entry::new(high | large | flags));
        }
    }
    // Frames 13 to 18 are copies of 19 to 24: other tables that map the same.
    for frame in 13..=18 {
        for index in 0..512 {
            let entry = memory.peek(Pfn::new(frame + 6), index);
            memory.poke(Pfn::new(frame), index, entry);
        }
    }
    let roots: Vec<_> = (1..=6)
        .map(|pid| {
            let label = if pid == 1 {
                RootLabel::Kernel
            } else {
                RootLabel::Process(pid)
            };
            (label, Pfn::new(u64::from(pid)).base())
        })
        .collect();
    // Half of the processes inherit most of the kernel half, so that there is something to share.
    for pid in 2..=6 {
        for index in 256..512 {
            let inherited = memory.peek(Pfn::new(1), index);
            match dice.below(6) {
                0 => {}
                // A copy, where the table has one.
                1 if (19..=24).contains(&inherited.address().pfn().get()) => {
                    let copy = inherited.get() - (6 << 12);
                    memory.poke(Pfn::new(pid), index, Entry::new(copy));
                }
                _ => memory.poke(Pfn::new(pid), index, inherited),
            }
        }
    }
    Capturer::new().capture(&memory, Mode::typical(depth), &roots)
}

fn timeline(snapshot: &Snapshot) -> Timeline {
    let group = Group {
        name: "all".into(),
        note: String::new(),
    };
    let mut timeline = Timeline::new(About::default(), vec![group]);
    timeline.moment(snapshot, Event::new(0, Sign::Found, "found"), |root| {
        SpaceInfo {
            name: root.label.to_string(),
            set: Some(0),
            reference: root.label == RootLabel::Kernel,
            ..SpaceInfo::default()
        }
    });
    timeline
}

/// A walk in the page's words, as far as the two must agree.
fn in_words(walk: &Walk) -> String {
    match &walk.result {
        Ok(page) => format!("{} {}", page.page, page.rights),
        Err(Fault::Reserved { level, .. }) => format!("reserved in {level}"),
        Err(Fault::TableOutsideMemory { level, .. }) => format!("outside in {level}"),
        Err(Fault::NonCanonical { .. }) => "not canonical".into(),
        Err(fault) => fault.to_string(),
    }
}

/// The same of the page's own walk.
const WALK: &str = "(space, text) => {
    const { steps, end, leaf } = explorer.guest.walk(explorer.guest.spaces[space], BigInt(text));
    const entries = steps.map((step) => explorer.hexEntry(step.flags, step.frame)).join(' ');
    const { write, execute, user } = leaf?.rights ?? {};
    const level = (text) => /PML5|PGD|PDPT|PD|PT/.exec(text)[0];
    const result = leaf ? `0x${(leaf.target * 4096).toString(16)} r${write ? 'w' : '-'}${execute ? 'x' : '-'}${user ? 'u' : '-'}`
        : end.startsWith('reserved') ? `reserved in ${level(end)}`
        : end.includes('outside') ? `outside in ${level(end)}`
        : end.startsWith('not canonical') ? 'not canonical' : end;
    return `${entries} → ${result}`;
}";

#[test]
fn it_walks_as_the_inspector_does() {
    let mut dice = Dice(0x0bad_5eed_1234_5678);
    for depth in [Depth::Four, Depth::Five] {
        let snapshot = wild_snapshot(&mut dice, depth);
        let mut browser = open_timeline(timeline(&snapshot));
        let mut asked = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..2000 {
            let raw = (0..5).fold(dice.below(0x1000), |sum, level| {
                let index = [0, 1, 2, 255, 256, 257, 511][usize::try_from(dice.below(7)).unwrap()];
                sum | index << (12 + 9 * level)
            });
            let va = if dice.below(20) == 0 {
                VirtAddr::new(raw | 1 << 62)
            } else {
                VirtAddr::sign_extended(raw, depth)
            };
            let space = usize::try_from(dice.below(6)).unwrap();
            let walk = snapshot.translate(snapshot.roots()[space].id, va);
            let entries: Vec<String> = walk
                .steps()
                .iter()
                .map(|step| step.entry.to_string())
                .collect();
            asked.push(json!([space, va.to_string()]));
            expected.push(json!(format!(
                "{} → {}",
                entries.join(" "),
                in_words(&walk)
            )));
        }
        let walked = browser.eval(&format!(
            "{}.map((asked) => ({WALK})(...asked))",
            json!(asked)
        ));
        let walked = walked.as_array().unwrap();
        for ((asked, expected), walked) in asked.iter().zip(&expected).zip(walked) {
            assert_eq!(walked, expected, "{depth:?} {asked}");
        }
        let kinds = |words: &str| {
            expected
                .iter()
                .filter(|told| told.as_str().unwrap().contains(words))
                .count()
        };
        // The dice did not leave anything out.
        for words in [
            "reserved in",
            "outside in",
            "not canonical",
            "not present",
            " r",
        ] {
            assert!(kinds(words) > 10, "{words}: {}", kinds(words));
        }
        browser.is_content();
    }
}

#[test]
fn it_compares_kernel_halves_as_the_inspector_does() {
    let mut dice = Dice(0x5eed_0bad_8765_4321);
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..16 {
        let depth = if round % 2 == 0 {
            Depth::Four
        } else {
            Depth::Five
        };
        let snapshot = wild_snapshot(&mut dice, depth);
        let mut browser = open_timeline(timeline(&snapshot));
        let mut comparer = Comparer::within(&snapshot);
        let kernel = snapshot.roots()[0].id;
        for (number, root) in snapshot.roots().iter().enumerate().skip(1) {
            let differences = comparer.compare(kernel, root.id, Half::Kernel);
            let states = browser.eval(&format!(
                "[...explorer.sharing.states(explorer.guest.spaces[{number}], [])]"
            ));
            for index in Half::Kernel.indices() {
                let state = states[usize::from(index)].as_u64().unwrap();
                let difference = differences.iter().find(|found| found.index == index);
                let present = |id| {
                    snapshot
                        .root_table(id)
                        .is_some_and(|table| table.present().contains(index))
                };
                let expected = match difference {
                    None if present(root.id) => "shared",
                    None => "absent",
                    Some(found) => match (found.kind, found.mappings) {
                        (EntryDifferenceKind::OnlyLeft | EntryDifferenceKind::OnlyRight, _)
                        | (_, Mappings::Differ { .. }) => "diverging",
                        (EntryDifferenceKind::Flags, Mappings::Same) => "shared",
                        (_, Mappings::Same) => "private",
                        (_, Mappings::Undecided) => continue,
                    },
                };
                let shown =
                    ["absent", "shared", "private", "diverging"][usize::try_from(state).unwrap()];
                assert_eq!(
                    shown, expected,
                    "round {round}, {}, entry {index}: {difference:?}",
                    root.label
                );
                *seen.entry(expected).or_default() += 1;
            }
        }
        browser.is_content();
    }
    assert!(
        seen.len() == 4 && seen.values().all(|count| *count > 5),
        "{seen:?}"
    );
}

#[test]
fn every_table_of_the_page_is_that_of_the_snapshot() {
    let mut dice = Dice(0x1234_0bad_5eed_4321);
    let snapshot = wild_snapshot(&mut dice, Depth::Four);
    let mut browser = open_timeline(timeline(&snapshot));
    for table in snapshot.tables() {
        let words: Vec<String> = (0..512)
            .map(|index| table.entry(index).to_string())
            .collect();
        let shown = browser.eval(&format!(
            "(() => {{
                const page = explorer.guest.page({});
                return Array.from({{ length: 512 }}, (_, index) => {{
                    const at = page.find(index);
                    return at < 0 ? '0x0000000000000000' : explorer.hexEntry(page.flags[at], page.frames[at]);
                }});
            }})()",
            table.pfn().get()
        ));
        assert_eq!(shown, json!(words), "{}", table.pfn());
    }
    let missing: Vec<Value> = snapshot
        .missing()
        .map(|missing| json!(missing.pfn.get()))
        .collect();
    assert!(!missing.is_empty());
    let shown = browser.eval(&format!(
        "{}.map((frame) => explorer.tables.content(frame))",
        json!(missing)
    ));
    assert!(
        shown
            .as_array()
            .unwrap()
            .iter()
            .all(|content| *content == json!(1))
    );
}

#[test]
fn it_finds_every_entry_that_points_to_a_table() {
    let mut dice = Dice(0x7654_0bad_5eed_0123);
    let snapshot = wild_snapshot(&mut dice, Depth::Four);
    let mut browser = open_timeline(timeline(&snapshot));
    let mut aliases = 0;
    let frames: BTreeSet<Pfn> = snapshot.tables().map(|table| table.pfn()).collect();
    for frame in frames {
        // A frame that is used at several levels is pointed to at each.
        let expected: BTreeSet<String> = snapshot
            .levels_of(frame)
            .flat_map(|level| snapshot.parents(frame, level))
            .map(|parent| format!("{}[{}]", parent.level, parent.index))
            .collect();
        aliases += usize::from(expected.len() > 1);
        let shown = browser.eval(&format!(
            "explorer.sharing.elsewhere({}, '').sort()",
            frame.get()
        ));
        let shown: BTreeSet<String> = shown
            .as_array()
            .unwrap()
            .iter()
            .map(|place| place.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(shown, expected, "{frame}");
    }
    assert!(aliases > 5, "{aliases}");
}
