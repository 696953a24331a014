//! A copy of a guest's core whose page tables are corrupted on purpose and restored, and what must be said of each
//! corruption: each finding that is expected, once, and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Write as _;

use heirloom_inspect::{
    Entry, Half, Level, Mapping, Mode, PageSize, Pfn, PhysAddr, PhysicalMemory, RootId, Snapshot,
    VirtAddr, VirtRange, Walk, translate_in_memory,
};
use serde_json::Value;

use super::linux::core::Core;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) table: Pfn,
    pub(crate) index: u16,
}

/// What is to be reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) rule: &'static str,
    pub(crate) about: About,
    pub(crate) spaces: Where,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About {
    Entry(Place),
    /// A table as such.
    Frame(Pfn),
    /// CR3 of the CPU with this number.
    Cr3(usize),
}

/// Which address spaces a finding names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Where {
    Only(PhysAddr),
    /// A process's: one root, or the two of a pair.
    Process(PhysAddr),
    /// All that share the corrupted table.
    Many,
}

pub(crate) const fn only(rule: &'static str, place: Place, root: PhysAddr) -> Expected {
    Expected {
        rule,
        about: About::Entry(place),
        spaces: Where::Only(root),
    }
}

pub(crate) const fn shared(rule: &'static str, place: Place) -> Expected {
    Expected {
        rule,
        about: About::Entry(place),
        spaces: Where::Many,
    }
}

pub(crate) const fn of_process(rule: &'static str, place: Place, root: PhysAddr) -> Expected {
    Expected {
        rule,
        about: About::Entry(place),
        spaces: Where::Process(root),
    }
}

/// P, R/W, A, D, NX: a table of the kernel's, nothing below which may be executed.
pub(crate) const KERNEL_TABLE: Entry = Entry::new(1 << 63 | 0x63);
/// The same with U/S.
pub(crate) const USER_TABLE: Entry = Entry::new(0x67);
/// P, R/W, U/S, A, D, NX: a page of a process.
pub(crate) const USER_PAGE: Entry = Entry::new(1 << 63 | 0x67);
/// P, R/W, A, D, NX: a page of the kernel's.
pub(crate) const KERNEL_PAGE: Entry = Entry::new(1 << 63 | 0x63);
/// A frame far beyond all RAM, and below the highest address of the CPU.
pub(crate) const BEYOND_RAM: Pfn = Pfn::new(0x20_0000);

/// The tables of a guest, in a core that may be written to.
pub(crate) struct Tables {
    core: Core,
    pub(crate) mode: Mode,
    pub(crate) snapshot: Snapshot,
    /// Frames that are free and all zero; some have been taken.
    free: Vec<Pfn>,
    taken: Cell<usize>,
    /// What stood where, the oldest first.
    undo: RefCell<Vec<(PhysAddr, u64)>>,
    /// What a CR3 is, and what it was.
    replaced: Cell<Option<(u64, u64)>>,
}

impl Tables {
    /// `free`: frames that nobody uses, all zero.
    pub(crate) fn new(core: Core, snapshot: Snapshot, free: Vec<Pfn>) -> Tables {
        Tables {
            core,
            mode: *snapshot.mode(),
            snapshot,
            free,
            taken: Cell::new(0),
            undo: RefCell::new(Vec::new()),
            replaced: Cell::new(None),
        }
    }

    /// Makes `root` the root of the last CPU, whose CR3 is `now`.
    pub(crate) fn replace_last_cr3(&self, now: u64, root: PhysAddr) {
        self.core.replace_last_register(now, root.get());
        self.replaced.set(Some((root.get(), now)));
    }

    fn id_of(&self, root: PhysAddr) -> RootId {
        let mut roots = self.snapshot.roots().iter();
        roots.find(|found| found.address == root).unwrap().id
    }

    /// The top level of a walk.
    pub(crate) fn top(&self) -> Level {
        self.mode.depth.top()
    }

    /// The walk of `va` as the tables stand now.
    pub(crate) fn walk(&self, root: PhysAddr, va: VirtAddr) -> Walk {
        translate_in_memory(&self.core, &self.mode, root, va)
    }

    /// The entry at `level` of the walk of `va`.
    pub(crate) fn place(&self, root: PhysAddr, va: VirtAddr, level: Level) -> Place {
        let walk = self.walk(root, va);
        let step = walk.steps().iter().find(|step| step.level == level);
        let step = step.unwrap_or_else(|| panic!("no {level} in {walk}"));
        Place {
            table: step.table,
            index: step.index,
        }
    }

    /// The last entry of the walk of `va`.
    pub(crate) fn leaf(&self, root: PhysAddr, va: VirtAddr) -> Place {
        let walk = self.walk(root, va);
        assert!(walk.translation().is_some(), "{walk}");
        let step = walk.steps().last().unwrap();
        Place {
            table: step.table,
            index: step.index,
        }
    }

    pub(crate) fn entry(&self, place: Place) -> Entry {
        self.core.read_entry(place.table, place.index).unwrap()
    }

    /// The frame of the table that an entry points to.
    pub(crate) fn below(&self, place: Place) -> Pfn {
        let entry = self.entry(place);
        assert!(entry.present());
        entry.address().pfn()
    }

    pub(crate) fn set(&self, place: Place, entry: Entry) {
        let at = place.table.base().wrapping_add(8 * u64::from(place.index));
        let before = self.core.read_u64(at).unwrap();
        self.undo.borrow_mut().push((at, before));
        self.core.write_u64(at, entry.get());
    }

    /// Sets bits of an entry.
    pub(crate) fn add(&self, place: Place, bits: Entry) {
        self.set(place, self.entry(place) | bits);
    }

    /// Makes an entry point to another frame.
    pub(crate) fn point(&self, place: Place, to: Pfn) {
        let flags = self.entry(place).get() & !0x000f_ffff_ffff_f000;
        self.set(place, Entry::pointing_to(to.base(), Entry::new(flags)));
    }

    /// A frame that nobody uses, all zero.
    pub(crate) fn free_frame(&self) -> Pfn {
        let taken = self.taken.get();
        self.taken.set(taken + 1);
        self.free[taken]
    }

    /// A copy of a table.
    pub(crate) fn copy_table(&self, table: Pfn) -> Pfn {
        let copy = self.free_frame();
        for index in 0..512 {
            let entry = self.entry(Place { table, index });
            if entry != Entry::ABSENT {
                let place = Place { table: copy, index };
                self.set(place, entry);
            }
        }
        copy
    }

    /// The first entry of a table that is empty, from `from` on.
    pub(crate) fn empty(&self, table: Pfn, from: u16) -> Place {
        (from..512)
            .map(|index| Place { table, index })
            .find(|place| self.entry(*place) == Entry::ABSENT)
            .unwrap()
    }

    /// The first page of an address space, from `from` on, that is as wanted.
    pub(crate) fn page(
        &self,
        root: PhysAddr,
        from: VirtAddr,
        wanted: impl Fn(&Mapping) -> bool,
    ) -> Mapping {
        self.find_page(root, from, wanted).unwrap()
    }

    /// The same, if there is one.
    pub(crate) fn find_page(
        &self,
        root: PhysAddr,
        from: VirtAddr,
        wanted: impl Fn(&Mapping) -> bool,
    ) -> Option<Mapping> {
        let range = VirtRange {
            first: from,
            last: VirtRange::ALL.last,
        };
        let mut pages = self.snapshot.leaves(self.id_of(root), range);
        pages.find(|page| wanted(page))
    }

    /// All pages of a root's kernel half.
    pub(crate) fn kernel_pages(&self, root: PhysAddr) -> Vec<Mapping> {
        let half = VirtRange::half(Half::Kernel);
        self.snapshot.leaves(self.id_of(root), half).collect()
    }

    /// Whether no table is in this page.
    pub(crate) fn has_no_table(&self, page: &Mapping) -> bool {
        let first = page.pa.pfn().get();
        (first..first + page.size.bytes() / 4096)
            .all(|pfn| self.snapshot.levels_of(Pfn::new(pfn)).next().is_none())
    }

    /// Every entry that was written since it was last restored.
    pub(crate) fn written(&self) -> BTreeSet<(Pfn, u64)> {
        let entry_of = |at: PhysAddr| (at.pfn(), at.get() % 4096 / 8);
        let undo = self.undo.borrow();
        undo.iter().map(|(at, _)| entry_of(*at)).collect()
    }

    /// Makes everything as it was.
    pub(crate) fn restore(&self) {
        for (at, before) in self.undo.borrow_mut().drain(..).rev() {
            self.core.write_u64(at, before);
        }
        if let Some((now, before)) = self.replaced.take() {
            self.core.replace_last_register(now, before);
        }
        self.taken.set(0);
    }
}

/// Whether a process may write to a page, and it is a small one.
pub(crate) fn is_users_own(page: &Mapping) -> bool {
    page.rights.user && page.rights.write && page.size == PageSize::Size4KiB
}

/// Free frames that hold nothing but zeroes; a few dozen are enough.
pub(crate) fn free_frames(core: &Core, is_free: impl Fn(Pfn) -> bool) -> Vec<Pfn> {
    let ram = core.ram().max_by_key(|ram| ram.bytes).unwrap();
    let mut words = [0; 512];
    let frames = ram.whole_frames();
    // From the middle on: the first megabytes are special.
    let middle = Pfn::new(u64::midpoint(frames.start, frames.end) / 4096);
    (middle.get()..frames.end / 4096)
        .map(Pfn::new)
        .filter(|pfn| {
            core.read_table(*pfn, &mut words).is_ok() && words.iter().all(|word| *word == 0)
        })
        .filter(|pfn| is_free(*pfn))
        .take(32)
        .collect()
}

/// What a report on corrupted tables is held against.
pub(crate) struct Judge<'a> {
    pub(crate) tables: &'a Tables,
    /// Address spaces that share the kernel's tables, at least.
    pub(crate) many: u64,
    /// The user root of a process, where each has two.
    pub(crate) user_root: Option<fn(PhysAddr) -> PhysAddr>,
    /// Whether the kernel's own code and data have names.
    pub(crate) has_names: bool,
}

impl Judge<'_> {
    /// The report on one corruption against what it must be: each finding that is expected, once, and else none
    /// but by the same rules on what the entries that were written lead to.
    pub(crate) fn judge(&self, report: &Value, mut expected: Vec<Expected>) -> Result<(), String> {
        let rules: BTreeSet<&str> = expected.iter().map(|expected| expected.rule).collect();
        let written = self.tables.written();
        let (mut unexpected, mut following) = (String::new(), String::new());
        for verdict in report["rules"].as_array().unwrap() {
            let rule = verdict["rule"]["name"].as_str().unwrap();
            let findings = verdict.get("findings").and_then(Value::as_array);
            let findings = findings.map_or(&[][..], Vec::as_slice);
            for finding in findings {
                let is_image = finding["area"] == "kernel-image";
                if self.has_names && is_image && finding["symbol"].as_str().is_none() {
                    let _ = write!(unexpected, "\n  {rule}: without a symbol: {finding}");
                }
                let is_it = |expected: &Expected| {
                    expected.rule == rule && self.is_expected(finding, expected)
                };
                if let Some(found) = expected.iter().position(is_it) {
                    expected.remove(found);
                } else if !rules.contains(rule) || !self.follows_from(finding, &written) {
                    let _ = write!(unexpected, "\n  {rule}: {finding}");
                } else {
                    let _ = write!(following, "\n  {rule}: {finding}");
                }
            }
        }
        if expected.is_empty() && unexpected.is_empty() {
            return Ok(());
        }
        Err(format!(
            "missing: {expected:?}; unexpected: {unexpected}; what follows: {following}"
        ))
    }

    /// Whether a finding is about this, in these address spaces and no others.
    fn is_expected(&self, finding: &Value, expected: &Expected) -> bool {
        match expected.about {
            About::Entry(place) => self.is_at(finding, place, expected.spaces),
            About::Frame(pfn) => finding["place"] == format!("frame {pfn}"),
            About::Cr3(cpu) => finding["place"] == format!("CR3 of CPU {cpu}"),
        }
    }

    /// Whether a finding is about the entry at `place`, in these address spaces and no others.
    fn is_at(&self, finding: &Value, place: Place, spaces: Where) -> bool {
        let Some(entry) = finding.get("entry") else {
            return false;
        };
        let is_there = Pfn::new(number(&entry["table"])) == place.table
            && entry["index"].as_u64() == Some(place.index.into());
        let roots = roots_of(finding);
        let count = finding["spaces"]["count"].as_u64();
        let only = |expected: &[PhysAddr]| roots == expected && count == Some(roots.len() as u64);
        is_there
            && match (spaces, self.user_root) {
                (Where::Process(root), Some(user_root)) => only(&[root, user_root(root)]),
                (Where::Only(root) | Where::Process(root), _) => only(&[root]),
                (Where::Many, _) => count > Some(self.many),
            }
    }

    /// Whether an entry that was written is what a finding is about, or on the way to it.
    fn follows_from(&self, finding: &Value, written: &BTreeSet<(Pfn, u64)>) -> bool {
        let is_about_one = finding.get("entry").is_some_and(|entry| {
            let index = entry["index"].as_u64().unwrap();
            written.contains(&(Pfn::new(number(&entry["table"])), index))
        });
        let leads_there = || {
            let first = VirtAddr::new(number(&finding["range"]["first"]));
            let roots = roots_of(finding).into_iter();
            let mut walks = roots.map(|root| self.tables.walk(root, first));
            let is_written = |walk: Walk| {
                let mut steps = walk.steps().iter();
                steps.any(|step| written.contains(&(step.table, step.index.into())))
            };
            walks.any(is_written)
        };
        is_about_one || leads_there()
    }
}

/// The roots that a finding names.
fn roots_of(finding: &Value) -> Vec<PhysAddr> {
    let roots = finding["spaces"]["roots"].as_array().unwrap();
    roots.iter().map(number).map(PhysAddr::new).collect()
}

/// A number as the reports have it: `"0x…"`.
pub(crate) fn number(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x"));
    let text = text.unwrap_or_else(|| panic!("no address: {value}"));
    u64::from_str_radix(text, 16).unwrap()
}
