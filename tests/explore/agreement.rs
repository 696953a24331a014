//! The page's own walks and comparisons against the inspector's, on tables that are as wild as can be.

use std::collections::{BTreeMap, BTreeSet};

use heirloom_explorer::{About, Event, Group, Sign, SpaceInfo, Timeline};
use heirloom_inspect::paging::entry::Entry;
use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Comparer, Decoded, Depth, EntryDifferenceKind, Fault, Half, Level, Mappings, Mode,
    Pfn, Rights, RootLabel, Snapshot, VirtAddr, Walk,
};
use heirloom_source::codec::page;
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
fn in_words(walk: &Walk, depth: Depth) -> String {
    let name = |level: &Level| depth.name(*level);
    match &walk.result {
        Ok(page) => format!("{} {}", page.page, page.rights),
        Err(Fault::Reserved { level, .. }) => format!("reserved in {}", name(level)),
        Err(Fault::TableOutsideMemory { level, .. }) => format!("outside in {}", name(level)),
        Err(Fault::NonCanonical { .. }) => "not canonical".into(),
        Err(Fault::NotPresent { level }) => format!("not present in the {}", name(level)),
        Err(fault) => fault.to_string(),
    }
}

/// The same of the page's own walk.
const WALK: &str = "(space, text) => {
    const { steps, end, leaf } = explorer.guest.walk(explorer.guest.spaces[space], BigInt(text));
    const entries = steps.map((step) => explorer.hexEntry(step.flags, step.frame)).join(' ');
    const { write, execute, user } = leaf?.rights ?? {};
    const level = (text) => /PML5|PML4|PGD|PDPT|PD|PT/.exec(text)[0];
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
                in_words(&walk, depth)
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

/// What an entry means, in the page's words: reserved bits by where they are.
fn meaning(entry: Entry, level: Level, mode: &Mode) -> String {
    let decoded = match entry.decode(level, mode) {
        Decoded::Absent => "absent".to_owned(),
        Decoded::Table(table) => format!("table {table}"),
        Decoded::Leaf(leaf) => format!("{} page {}", leaf.size, leaf.pa),
        Decoded::Reserved { bits } => {
            let beyond = !mode.phys_bits.address_mask() & ((1 << 52) - 1) & !0xfff;
            let within = bits.get() & mode.phys_bits.address_mask() & !0xfff;
            let found = [
                (bits.get() & beyond != 0, "address"),
                (bits.has(Entry::NO_EXECUTE), "NX"),
                (bits.has(Entry::LARGE), "bit 7"),
                (within != 0, "low"),
            ];
            let found = found.iter().filter(|(is, _)| *is).map(|(_, name)| *name);
            format!("reserved {}", found.collect::<Vec<_>>().join(" "))
        }
    };
    let rights = Rights::ALL.through(entry);
    let name = mode.depth.name(level);
    format!("{name} {} {}: {decoded}", level.entry_span(), rights)
}

/// The same of the page's own decoder, of a mode, the number of a level from the root down, and an entry.
const MEANING: &str = "(mode, at, text) => {
    const word = BigInt(text);
    const flags = Number((word & 0xfffn) | ((word >> 52n) << 12n));
    const frame = Number((word >> 12n) & ((1n << 40n) - 1n));
    const level = explorer.levelsOf(mode)[at];
    const { kind, frame: target, reserved } = explorer.decode(flags, frame, level, mode);
    const address = () => `0x${(target * 4096).toString(16)}`;
    const words = { 'address bits above': 'address', 'bit 63': 'NX', 'bit 7': 'bit 7', 'low address': 'low' };
    const where = () => Object.keys(words).filter((key) => reserved.includes(key)).map((key) => words[key]).join(' ');
    const decoded = kind === 'absent' ? kind
        : kind === 'table' ? `table 0x${target.toString(16)}`
        : kind === 'page' ? `${level.page} page ${address()}`
        : `reserved ${where()}`;
    const rights = explorer.rightsText(explorer.through({ write: true, user: true, execute: true }, flags));
    const [first, last] = explorer.rangeOf(Array(at + 1).fill(0), mode);
    return `${level.name} ${last - first + 1n} ${rights}: ${decoded}`;
}";

/// All single bits, all pairs of bits, and their complements; with P and without.
fn entries() -> Vec<Entry> {
    let mut entries = vec![Entry::ABSENT, Entry::new(u64::MAX)];
    for one in 0..64 {
        for other in 0..=one {
            let bits = 1 << one | 1 << other;
            entries.extend([bits, bits | 1, bits | 0x81, !bits].map(Entry::new));
        }
    }
    entries
}

#[test]
fn it_decodes_every_bit_at_every_level_as_the_inspector_does() {
    let mut browser = open_timeline(timeline(&wild_snapshot(&mut Dice(7), Depth::Four)));
    let entries = entries();
    let mut kinds = BTreeSet::new();
    for depth in [Depth::Four, Depth::Five] {
        let levels = &Level::ALL[Level::ALL.len() - depth.levels() as usize..];
        assert_eq!(levels[0], depth.top());
        for (nxe, gigabyte_pages, phys_bits, encryption) in [
            (true, true, 52, 0),
            (true, true, 39, 0),
            (false, true, 46, 0),
            (true, false, 46, 0),
            (false, false, 32, 0),
            (true, true, 43, 1 << 47),
            (true, true, 52, 1 << 51),
            (true, true, 52, 1 << 14),
        ] {
            let mode = Mode {
                nxe,
                gigabyte_pages,
                phys_bits: PhysBits::new(phys_bits).unwrap(),
                encryption: Entry::new(encryption),
                ..Mode::typical(depth)
            };
            for (at, level) in levels.iter().enumerate() {
                let words: Vec<String> = entries.iter().map(Entry::to_string).collect();
                let shown = browser.eval(&format!(
                    "{}.map((word) => ({MEANING})({}, {at}, word))",
                    json!(words),
                    json!(mode)
                ));
                let shown = shown.as_array().unwrap();
                assert_eq!(shown.len(), entries.len());
                for (entry, shown) in entries.iter().zip(shown) {
                    let expected = meaning(*entry, *level, &mode);
                    assert_eq!(shown.as_str().unwrap(), expected, "{entry} {mode:?}");
                    let kind = expected.split(' ').skip(3).take(1);
                    kinds.extend(kind.map(|kind| (depth.name(*level), kind.to_owned())));
                }
            }
        }
    }
    // Every level has all the kinds of entries that it can have; a page begins with its size.
    for (level, expected) in [
        ("PML5", &["absent", "reserved", "table"][..]),
        ("PML4", &["absent", "reserved", "table"]),
        ("PGD", &["absent", "reserved", "table"]),
        ("PDPT", &["1", "absent", "reserved", "table"]),
        ("PD", &["2", "absent", "reserved", "table"]),
        ("PT", &["4", "absent", "reserved"]),
    ] {
        let seen: Vec<&str> = kinds
            .iter()
            .filter(|(name, _)| *name == level)
            .map(|(_, kind)| kind.as_str())
            .collect();
        assert_eq!(seen, expected, "{level}");
    }
    browser.is_content();
}

#[test]
fn it_cuts_addresses_as_the_inspector_does() {
    let mut browser = open_timeline(timeline(&wild_snapshot(&mut Dice(7), Depth::Four)));
    let mut addresses = vec![0, u64::MAX];
    for bit in 0..64 {
        let one = 1_u64 << bit;
        addresses.extend([one, one - 1, !one, one.wrapping_neg(), one | one >> 1]);
    }
    for depth in [Depth::Four, Depth::Five] {
        let levels = &Level::ALL[Level::ALL.len() - depth.levels() as usize..];
        let mode = json!(Mode::typical(depth));
        for raw in &addresses {
            let va = VirtAddr::new(*raw);
            let extended = VirtAddr::sign_extended(*raw, depth);
            let indices: Vec<u16> = levels.iter().map(|level| va.index(*level)).collect();
            let shown = browser.eval(&format!(
                "(() => {{
                    const [mode, va] = [{mode}, {raw}n];
                    const path = explorer.levelsOf(mode).map((level) => explorer.indexOf(va, level));
                    return [path, explorer.addressOf(path, mode).toString(), explorer.signExtended(va, mode).toString()];
                }})()"
            ));
            let page = extended.get() & !0xfff;
            assert_eq!(
                shown,
                json!([indices, page.to_string(), extended.get().to_string()]),
                "{depth:?} {va}"
            );
        }
    }
}

/// Pages of any words, each the one before with some changed, or all: differences of every kind come back
/// from the codec that recordings have, too.
#[test]
fn it_reads_pages_as_the_recordings_codec_writes_them() {
    let mut dice = Dice(0x0ddb_a115_eed5_1234);
    let mut browser = open_timeline(timeline(&wild_snapshot(&mut Dice(7), Depth::Four)));
    let mut before = page::ZERO;
    let mut forms = BTreeSet::new();
    for round in 0..60_u64 {
        let mut after = before;
        let changes = if round % 20 == 19 {
            512
        } else {
            dice.below(40)
        };
        for change in 0..changes {
            let index = if changes == 512 {
                change
            } else {
                dice.below(512)
            };
            let word = match dice.below(4) {
                0 => 0,
                1 => u64::MAX >> dice.below(64),
                2 => 1 << dice.below(64),
                _ => dice.roll(),
            };
            let word = if changes == 512 { dice.roll() } else { word };
            after[usize::try_from(index).unwrap()] = word;
        }
        let mut bytes = Vec::new();
        page::put(&mut bytes, &before, &after);
        forms.insert(bytes[0]);
        let halves = |words: &[u64; 512]| -> Vec<u64> {
            let both = words.iter().map(|word| [word >> 32, word & 0xffff_ffff]);
            both.flatten().collect()
        };
        let read = browser.eval(&format!(
            "(() => {{
                const reader = new explorer.Reader(Uint8Array.from({}));
                const words = Uint32Array.from({});
                explorer.readPage(reader, words);
                return [reader.at, [...words]];
            }})()",
            json!(bytes),
            json!(halves(&before))
        ));
        assert_eq!(read[0], json!(bytes.len()), "round {round}");
        assert_eq!(read[1], json!(halves(&after)), "round {round}");
        before = after;
    }
    assert_eq!(forms, BTreeSet::from([1, 2]));
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
            .map(|parent| format!("{}[{}]", Depth::Four.name(parent.level), parent.index))
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
