//! RAM with page tables made by hand, and the registers of the CPUs on it.

use std::collections::BTreeMap;

use heirloom_inspect::check::{Check, Finding, Strictness};
use heirloom_inspect::discover::{Kind, Space};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    CpuState, Cr3, Depth, Discovery, Entry, Level, PageSize, Pfn, PhysAddr, PhysRange, Target,
    VirtAddr,
};

pub(super) const PAGE: u64 = 0x1000;
pub(super) const LARGE: u64 = 2 << 20;

/// `rw--`, `r-x-`, `rw-u`, `r-xu`, each P A and, writable, D.
pub(super) const DATA: Entry = Entry::new(1 << 63 | 0x63);
pub(super) const CODE: Entry = Entry::new(0x21);
pub(super) const USER_DATA: Entry = Entry::new(1 << 63 | 0x67);
pub(super) const USER_CODE: Entry = Entry::new(0x25);
/// P RW A D: what points to a table of the kernel's.
pub(super) const TABLE: Entry = Entry::new(0x63);

/// A machine.
#[derive(Clone)]
pub(super) struct Ram {
    pub(super) memory: FakeMemory,
    pub(super) mib: u64,
    pub(super) cpus: Vec<CpuState>,
    pub(super) encryption: Entry,
    pub(super) depth: Depth,
}

impl Ram {
    /// RAM of so many MiB, in which tables begin at 2 MiB.
    pub(super) fn new(mib: u64, depth: Depth) -> Ram {
        let mut memory = FakeMemory::new();
        memory.add(Pfn::new(0x1ff));
        Ram {
            memory,
            mib,
            cpus: Vec::new(),
            encryption: Entry::ABSENT,
            depth,
        }
    }

    pub(super) fn root(&mut self) -> PhysAddr {
        self.memory.root()
    }

    /// A kernel root in an even frame, and a user root in the next.
    pub(super) fn pair(&mut self) -> [PhysAddr; 2] {
        let mut kernel = self.root();
        while !kernel.pfn().get().is_multiple_of(2) {
            kernel = self.root();
        }
        [kernel, self.root()]
    }

    pub(super) fn top(&self) -> Level {
        self.depth.top()
    }

    /// Maps a page; tables that are missing are for all if the page is, else for ring 0 alone.
    pub(super) fn map(&mut self, root: PhysAddr, va: u64, pa: u64, size: PageSize, flags: Entry) {
        let va = VirtAddr::new(va);
        let table_flags = if flags.user() {
            TABLE | Entry::USER
        } else {
            TABLE
        };
        let (mut table, mut level) = (root.pfn(), self.top());
        while level != size.level() {
            let index = va.index(level);
            let entry = self.memory.peek(table, index);
            table = if entry.present() {
                if flags.user() {
                    self.memory.poke(table, index, entry | Entry::USER);
                }
                entry.address().pfn()
            } else {
                let below = self.memory.frame();
                let entry = Entry::pointing_to(below.base(), table_flags);
                self.memory.poke(table, index, entry);
                below
            };
            level = level.next().expect("a level below");
        }
        let large = match size {
            PageSize::Size4KiB => Entry::ABSENT,
            _ => Entry::LARGE,
        };
        let entry = Entry::pointing_to(PhysAddr::new(pa), flags | large);
        self.memory.poke(table, va.index(level), entry);
    }

    /// All of RAM in a line at `at`, its first 2 MiB code.
    pub(super) fn image(&mut self, root: PhysAddr, at: u64) {
        for page in 0..self.mib / 2 {
            let flags = if page == 0 { CODE } else { DATA };
            let pa = page * LARGE;
            self.map(root, at + pa, pa, PageSize::Size2MiB, flags);
        }
    }

    /// Four pages of a process, the first of them code.
    pub(super) fn user(&mut self, root: PhysAddr, at: u64, pa: u64) {
        for page in 0..4 {
            let flags = if page == 0 { USER_CODE } else { USER_DATA };
            let offset = page * PAGE;
            self.map(root, at + offset, pa + offset, PageSize::Size4KiB, flags);
        }
    }

    /// Gives `to` the entries of `from`.
    pub(super) fn share(
        &mut self,
        from: PhysAddr,
        to: PhysAddr,
        indices: impl IntoIterator<Item = u16>,
    ) {
        for index in indices {
            let entry = self.memory.peek(from.pfn(), index);
            self.memory.poke(to.pfn(), index, entry);
        }
    }

    /// The entry of a root that translates `va`.
    pub(super) fn index(&self, va: u64) -> u16 {
        VirtAddr::new(va).index(self.top())
    }

    /// A CPU on `root`, of which nothing but CR3 and CR4 is known.
    pub(super) fn run(&mut self, root: PhysAddr) -> &mut CpuState {
        let la57 = match self.depth {
            Depth::Four => 0,
            Depth::Five => 1 << 12,
        };
        self.cpus.push(CpuState {
            cr0: 0x8005_0033,
            cr3: Cr3::new(root.get() | self.encryption.get()),
            cr4: 0x20 | la57,
            efer: 0xd01,
            rflags: 2,
            ..CpuState::default()
        });
        self.cpus.last_mut().expect("it was just added")
    }

    pub(super) fn target(&self) -> Target {
        Target {
            name: "raw:ram".into(),
            memory: Box::new(self.memory.clone()),
            ram: vec![PhysRange {
                start: PhysAddr::new(0),
                bytes: self.mib << 20,
            }],
            cpus: self.cpus.clone(),
            phys_bits: None,
            gigabyte_pages: None,
            depth: None,
            encryption: self.encryption,
            roots: Vec::new(),
            is_recorded: false,
            notes: Vec::new(),
        }
    }

    #[track_caller]
    pub(super) fn discover(&self) -> Discovery {
        Discovery::of(&self.target()).unwrap()
    }

    #[track_caller]
    pub(super) fn check(&self) -> Check {
        Check::of(&self.discover(), Strictness::default())
    }

    /// Writes a text, which may cross the borders of frames.
    pub(super) fn write(&mut self, at: u64, text: &[u8]) {
        for (at, byte) in (at..).zip(text) {
            let (frame, offset) = (Pfn::new(at >> 12), at & 0xfff);
            self.memory.add(frame);
            let index = u16::try_from(offset / 8).unwrap();
            let shift = offset % 8 * 8;
            let word = self.memory.peek(frame, index).get();
            let word = word & !(0xff << shift) | u64::from(*byte) << shift;
            self.memory.poke(frame, index, Entry::new(word));
        }
    }

    /// The rules that are broken, each with how often.
    #[track_caller]
    pub(super) fn broken(&self) -> Vec<(&'static str, u64)> {
        broken(&self.check())
    }

    /// The exceptions that were met, each with how often.
    #[track_caller]
    pub(super) fn let_pass(&self) -> Vec<(&'static str, u64)> {
        let rules = self.check().rules;
        let met = rules.iter().flat_map(|rule| &rule.exceptions);
        met.map(|met| (met.exception.name, met.count)).collect()
    }

    /// What a rule found.
    #[track_caller]
    pub(super) fn findings(&self, rule: &str) -> Vec<Finding> {
        let rules = self.check().rules;
        let verdict = rules.into_iter().find(|verdict| verdict.rule.name == rule);
        verdict.unwrap().findings
    }

    #[track_caller]
    pub(super) fn notes(&self) -> String {
        self.check().notes.join("\n")
    }
}

pub(super) fn broken(check: &Check) -> Vec<(&'static str, u64)> {
    let broken = check.rules.iter().filter(|rule| rule.violations > 0);
    broken
        .map(|rule| (rule.rule.name, rule.violations))
        .collect()
}

pub(super) fn kinds(discovery: &Discovery) -> BTreeMap<PhysAddr, Kind> {
    let spaces = discovery.spaces.iter();
    spaces.map(|space| (space.address, space.kind)).collect()
}

/// What is expected of a kernel's root and of its processes.
pub(super) fn expected(kernel: PhysAddr, processes: &[PhysAddr]) -> BTreeMap<PhysAddr, Kind> {
    let processes = processes.iter().map(|root| (*root, Kind::Process));
    processes.chain([(kernel, Kind::Kernel)]).collect()
}

/// The entries in which a root differs from the others.
pub(super) fn differing(space: &Space) -> Vec<u16> {
    space.differences.iter().map(|found| found.index).collect()
}
