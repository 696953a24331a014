//! How much a page holds, and what it costs to open it and to go through it: counted, not timed.

use std::path::{Path, PathBuf};

use heirloom_explorer::{About, Event, Group, NamedRange, Sign, SpaceInfo, Timeline, render};
use heirloom_inspect::paging::entry::Entry;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, Depth, Mode, PageSize, Pfn, PhysAddr, Root, RootLabel, VirtAddr, VirtRange, Written,
};
use serde_json::json;

use crate::common::browser::{Browser, LAPTOP, Work};

const MODE: Mode = Mode::typical(Depth::Four);
const VMALLOC: u64 = 0xffff_c900_0000_0000;

/// Blocks of script that a page may run: about twice what they do. A hundred million are a second.
const MAX_BLOCKS_TO_OPEN: u64 = 2_500_000;
const MAX_BLOCKS_TO_END: u64 = 20_000_000;
const MAX_BLOCKS_OF_A_STEP: u64 = 3_000_000;

fn regions() -> Vec<NamedRange> {
    let named = |name: &str, first, bytes| NamedRange {
        name: name.into(),
        range: VirtRange::new(VirtAddr::new(first), bytes).unwrap(),
    };
    vec![
        named("direct map", 0xffff_8880_0000_0000, 64 << 40),
        named("vmalloc", VMALLOC, 32 << 40),
    ]
}

/// A family of `processes`, each with user tables of its own, and for each of them four events of
/// kernel memory: mapped, read, read elsewhere, unmapped.
struct Family {
    memory: FakeMemory,
    capturer: Capturer,
    roots: Vec<(RootLabel, PhysAddr)>,
    timeline: Timeline,
}

impl Family {
    fn new() -> Family {
        let mut memory = FakeMemory::new();
        let kernel = memory.root();
        // 512 MiB of direct map in 4 KiB pages, and the tables of vmalloc.
        for frame in 0..0x2_0000 {
            let va = VirtAddr::new(0xffff_8880_0000_0000 + (frame << 12));
            let pa = PhysAddr::new(frame << 12);
            let data = FakeMemory::KERNEL_DATA;
            memory.map(Depth::Four, kernel, va, pa, PageSize::Size4KiB, data);
        }
        for entry in 402..466 {
            let table = memory.frame();
            memory.poke(
                kernel.pfn(),
                entry,
                Entry::pointing_to(table.base(), FakeMemory::POINTER),
            );
        }
        let about = About {
            title: "a large family".into(),
            regions: regions(),
            ..About::default()
        };
        let group = Group {
            name: "family".into(),
            note: String::new(),
        };
        Family {
            memory,
            capturer: Capturer::new(),
            roots: vec![(RootLabel::Kernel, kernel)],
            timeline: Timeline::new(about, vec![group]),
        }
    }

    /// Tells what happened; the frames in `written` were.
    fn tell(&mut self, kind: Sign, who: u32, at: Option<u64>, written: &[Pfn]) {
        let snapshot = self.capturer.capture_written(
            &self.memory,
            MODE,
            &self.roots,
            Written::Frames(written),
        );
        let number = self.timeline.moments() as u64;
        let mut event = Event::new(number, kind, format!("process {who} {kind:?}"));
        event.who = Some(RootLabel::Process(who));
        event.range = at.and_then(|at| VirtRange::new(VirtAddr::new(at), 4096));
        event.value = (kind == Sign::Read).then_some(number);
        self.timeline
            .moment(&snapshot, event, |root: &Root| SpaceInfo {
                name: root.label.to_string(),
                set: Some(0),
                reference: root.label == RootLabel::Kernel,
                parent: match root.label {
                    RootLabel::Process(1) => Some(RootLabel::Kernel),
                    RootLabel::Process(pid) => Some(RootLabel::Process(pid / 2)),
                    _ => None,
                },
                ..SpaceInfo::default()
            });
    }

    fn birth(&mut self, pid: u32) {
        let kernel = self.roots[0].1;
        let memory = &mut self.memory;
        let first = memory.frame();
        memory.remove(first);
        let root = memory.child_of(kernel);
        for page in 0..12 {
            let pa = PhysAddr::new((u64::from(pid) * 16 + page) << 12);
            for base in [0x40_0000, 0x7fff_ffe0_0000] {
                let va = VirtAddr::new(base + page * 4096);
                memory.map(
                    Depth::Four,
                    root,
                    va,
                    pa,
                    PageSize::Size4KiB,
                    FakeMemory::USER_DATA,
                );
            }
        }
        self.roots.push((RootLabel::Process(pid), root));
        self.tell(Sign::Created, pid, None, &[]);
    }

    fn kernel_memory(&mut self, pid: u32, other: u32) {
        let kernel = self.roots[0].1;
        let va = VirtAddr::new(VMALLOC + u64::from(pid % 700) * 0x5000);
        let memory = &mut self.memory;
        let pa = PhysAddr::new(u64::from(pid) << 12);
        memory.map(
            Depth::Four,
            kernel,
            va,
            pa,
            PageSize::Size4KiB,
            FakeMemory::KERNEL_DATA,
        );
        let level = PageSize::Size4KiB.level();
        let tables: Vec<Pfn> = [
            heirloom_inspect::Level::Pdpt,
            heirloom_inspect::Level::Pd,
            level,
        ]
        .into_iter()
        .map(|level| memory.table_for(Depth::Four, kernel, va, level))
        .collect();
        self.tell(Sign::Mapped, pid, Some(va.get()), &tables);
        self.tell(Sign::Read, pid, Some(va.get()), &[]);
        self.tell(Sign::Read, other, Some(va.get()), &[]);
        self.memory
            .change(Depth::Four, kernel, va, level, |_| Entry::ABSENT);
        self.tell(Sign::Unmapped, pid, Some(va.get()), &tables);
    }
}

/// Opens the page, and tells what it did until it was ready.
fn opened(page: &Path) -> (Browser, Work) {
    let (mut browser, work) = Browser::open_counting(page, LAPTOP);
    let bytes = std::fs::metadata(page).unwrap().len();
    let facts = browser.eval(
        "`${explorer.guest.live.length} address spaces, ${explorer.guest.data.events.length} events, ${explorer.tables.frames.size} tables, ${explorer.tables.starts.length} contents`",
    );
    println!("{facts}, {} KiB: {work:?}", bytes / 1024);
    (browser, work)
}

/// The page of a family with this many processes, and five events for each.
fn page_of_family(processes: u32, directory: &Path) -> PathBuf {
    let mut family = Family::new();
    for pid in 1..=processes {
        family.birth(pid);
        family.kernel_memory(pid, 1 + pid / 3);
    }
    let page = directory.join(format!("family-of-{processes}.html"));
    std::fs::write(&page, render(family.timeline).unwrap()).unwrap();
    page
}

/// The work of going to the last event, and that of one step back from there, many steps taken together.
fn moved(browser: &mut Browser) -> (Work, u64) {
    const STEPS: u64 = 20;
    browser.eval("explorer.timeline.seek(explorer.timeline.events.length - 1)");
    let to_the_end = browser.work();
    browser.eval(&format!(
        "for (let step = 0; step < {STEPS}; step++) explorer.timeline.step(-1)"
    ));
    let steps = browser.work();
    println!("to the end: {to_the_end:?}; {STEPS} steps there: {steps:?}");
    (to_the_end, steps.blocks / STEPS)
}

#[test]
fn four_times_the_processes_and_events_are_at_most_five_times_the_work() {
    let directory = tempfile::tempdir().unwrap();
    let (mut browser, small) = opened(&page_of_family(250, directory.path()));
    let (small_end, small_step) = moved(&mut browser);
    drop(browser);
    let page = page_of_family(1000, directory.path());
    let (mut browser, large) = opened(&page);
    let (large_end, large_step) = moved(&mut browser);
    for (what, small, large) in [
        ("until it is there", small.blocks, large.blocks),
        ("to the end", small_end.blocks, large_end.blocks),
        ("one step", small_step, large_step),
        ("elements", small_end.elements, large_end.elements),
    ] {
        assert!(large <= small * 5, "{what}: {small}, then {large}");
    }
    assert!(large.blocks < MAX_BLOCKS_TO_OPEN, "{large:?}");
    assert!(large_end.blocks < MAX_BLOCKS_TO_END, "{large_end:?}");
    assert!(large_step < MAX_BLOCKS_OF_A_STEP, "{large_step}");
    browser.press(&["}"]);
    assert_eq!(browser.eval("explorer.guest.live.length"), json!(1001));
    assert!(browser.text("#spaces-count").contains("1001 now"));
    browser.eval("document.getElementById('find-space').value = 'process 777'; document.getElementById('find-space').dispatchEvent(new Event('input'))");
    assert_eq!(
        browser.eval("document.querySelectorAll('.space:not([hidden])').length"),
        json!(1)
    );
    browser.is_content();
}

#[test]
fn an_image_of_64_processes_with_20000_tables_is_opened_with_little_work() {
    let mut family = Family::new();
    let mut frame = 0x10_0000_u64;
    for pid in 1..=64_u32 {
        let root = {
            let memory = &mut family.memory;
            let kernel = family.roots[0].1;
            let root = memory.child_of(kernel);
            // 300 PTs, each with 60 pages here and there, as a process that runs for a while has them.
            for table in 0..300_u64 {
                for page in 0..60_u64 {
                    frame = frame.wrapping_mul(0x5851_f42d).wrapping_add(0x1405) & 0xf_ffff;
                    let va = VirtAddr::new(0x7f00_0000_0000 + table * 0x20_0000 + page * 7 * 4096);
                    let pa = PhysAddr::new(frame << 12);
                    let flags = FakeMemory::USER_DATA | Entry::new((page % 5) << 5 & 0x60);
                    memory.map(Depth::Four, root, va, pa, PageSize::Size4KiB, flags);
                }
            }
            root
        };
        family.roots.push((RootLabel::Process(pid), root));
    }
    family.tell(Sign::Found, 1, None, &[]);
    let (tables, _) = family.timeline.table_counts();
    assert!(tables > 19_000, "{tables}");
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("image.html");
    std::fs::write(&page, render(family.timeline).unwrap()).unwrap();
    let (mut browser, work) = opened(&page);
    assert!(work.blocks < MAX_BLOCKS_TO_OPEN, "{work:?}");
    browser.eval("explorer.view.show(40); explorer.view.find(0x7f0000007000n)");
    assert!(browser.text(".pane .walk").contains("4 KiB page"));
    browser.is_content();
}
