//! A guest that runs Linux, made by hand as Debian's 6.1 makes its tables: the same areas, the same
//! rights, the same kinds of roots, only smaller. A test makes one, changes one thing, and looks.
//!
//! Its RAM is modelled sparsely: only frames that hold page tables can be read.

mod kernel;
mod plan;
mod roots;
mod verdict;

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    CpuState, Cr3, Depth, Discovery, Entry, Half, Level, PageSize, Pfn, PhysAddr, PhysRange,
    RootLabel, Target, VirtAddr,
};

pub(crate) use plan::{Bases, Plan};
pub(crate) use verdict::{broken, broken_strictly, check, finding, findings};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Bits of entries, as Linux combines them.
pub(crate) mod bits {
    use heirloom_inspect::Entry;

    pub(crate) const NX: Entry = Entry::NO_EXECUTE;
    /// A pointer to a table: P RW US A D. Linux sets US in kernel entries, too.
    pub(crate) const TABLE: Entry = Entry::new(0x067);
    /// A pointer that lets nobody but ring 0 through: P RW A D.
    pub(crate) const KERNEL_TABLE: Entry = Entry::new(0x063);
    /// `rw--`: P RW A D NX.
    pub(crate) const DATA: Entry = Entry::new(1 << 63 | 0x063);
    /// `r---`: P A D NX.
    pub(crate) const CONSTANTS: Entry = Entry::new(1 << 63 | 0x061);
    /// `r-x-`: P A.
    pub(crate) const TEXT: Entry = Entry::new(0x021);
    /// `rw--`, not cached: P RW PCD A D NX.
    pub(crate) const DEVICE: Entry = Entry::new(1 << 63 | 0x073);
    /// `rw-u`: P RW US A D NX.
    pub(crate) const USER_DATA: Entry = Entry::new(1 << 63 | 0x067);
    /// `r-xu`: P US A.
    pub(crate) const USER_TEXT: Entry = Entry::new(0x025);
    /// `r--u`: P US A NX.
    pub(crate) const USER_CONSTANTS: Entry = Entry::new(1 << 63 | 0x025);
    /// `rwxu`: P RW US A D.
    pub(crate) const USER_JIT: Entry = Entry::new(0x067);
}

/// Where processes have text, data, a stack, and a large page.
pub(crate) const USER_TEXT: VirtAddr = VirtAddr::new(0x5555_5555_4000);
pub(crate) const USER_DATA: VirtAddr = VirtAddr::new(0x5555_5555_8000);
pub(crate) const USER_NONE: VirtAddr = VirtAddr::new(0x5555_5555_9000);
pub(crate) const USER_STACK: VirtAddr = VirtAddr::new(0x7fff_f7ff_e000);
pub(crate) const USER_HUGE: VirtAddr = VirtAddr::new(0x7f12_3460_0000);
pub(crate) const CPU_ENTRY_AREA: VirtAddr = VirtAddr::new(0xffff_fe00_0000_0000);
pub(crate) const FIXMAP_DEVICES: VirtAddr = VirtAddr::new(0xffff_ffff_ff5f_c000);
pub(crate) const VSYSCALL: VirtAddr = VirtAddr::new(0xffff_ffff_ff60_0000);
pub(crate) const MODULES: VirtAddr = VirtAddr::new(0xffff_ffff_c000_0000);
pub(crate) const ESPFIX: VirtAddr = VirtAddr::new(0xffff_ff00_0000_0000);

/// Where the kernel image is in physical memory: text, entry text, constants, data, 2 MiB each.
pub(crate) const IMAGE_TEXT: PhysAddr = PhysAddr::new(16 * MIB);
pub(crate) const IMAGE_ENTRY_TEXT: PhysAddr = PhysAddr::new(18 * MIB);
pub(crate) const IMAGE_CONSTANTS: PhysAddr = PhysAddr::new(20 * MIB);
pub(crate) const IMAGE_DATA: PhysAddr = PhysAddr::new(22 * MIB);
/// A 2 MiB page of modules' text.
pub(crate) const MODULE_TEXT: PhysAddr = PhysAddr::new(26 * MIB);
/// Each CPU's TSS, a page each.
pub(crate) const TSS: PhysAddr = PhysAddr::new(28 * MIB);
/// Data pages: of processes, of vmalloc.
pub(crate) const DATA: PhysAddr = PhysAddr::new(48 * MIB);
/// RAM that only the direct map shows.
pub(crate) const UNUSED: PhysAddr = PhysAddr::new(60 * MIB);
pub(crate) const TRAMPOLINE: Pfn = Pfn::new(0x9c);
/// Frames from here on are given out for page tables.
const TABLES: u64 = 32 * MIB / PAGE;

/// The guest.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) plan: Plan,
    pub(crate) memory: FakeMemory,
    pub(crate) ram: Vec<PhysRange>,
    pub(crate) cpus: Vec<CpuState>,
    /// What the target says of roots.
    pub(crate) roots: Vec<(RootLabel, PhysAddr)>,
    /// What the target says of the depth.
    pub(crate) depth: Option<Depth>,
    /// `init_top_pgt`.
    pub(crate) init: PhysAddr,
    /// Kernel roots of processes, then that for patching text.
    pub(crate) processes: Vec<PhysAddr>,
    pub(crate) poking: PhysAddr,
    next_data: u64,
}

impl Guest {
    /// A guest after `plan`, its first CPU in the kernel on the first process's root.
    pub(crate) fn new(plan: Plan) -> Guest {
        let ram = plan.ram.iter().map(|&(start, bytes)| range(start, bytes));
        let mut guest = Guest {
            memory: FakeMemory::new(),
            ram: ram.collect(),
            cpus: Vec::new(),
            roots: Vec::new(),
            depth: None,
            init: IMAGE_DATA.wrapping_add(0x1_0000),
            processes: Vec::new(),
            poking: PhysAddr::new(0),
            next_data: DATA.get(),
            plan,
        };
        guest.build_kernel();
        for number in 0..guest.plan.processes {
            guest.add_process(number);
        }
        guest.poking = guest.add_poking();
        let first = guest.processes.first().copied().unwrap_or(guest.init);
        guest.cpus = vec![guest.cpu(first); usize::from(guest.plan.cpus)];
        for cpu in guest.cpus.iter_mut().skip(1) {
            cpu.cr3 = Cr3::new(guest.init.get());
        }
        guest
    }

    /// The four that everything is tried on: 4 and 5 levels, without and with KPTI.
    pub(crate) fn all() -> Vec<Guest> {
        Plan::all().into_iter().map(Guest::new).collect()
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            name: "raw:guest".into(),
            memory: Box::new(self.memory.clone()),
            ram: self.ram.clone(),
            cpus: self.cpus.clone(),
            phys_bits: PhysBits::new(40),
            gigabyte_pages: Some(true),
            depth: self.depth,
            encryption: Entry::ABSENT,
            roots: self.roots.clone(),
            is_recorded: self
                .roots
                .iter()
                .any(|(label, _)| matches!(label, RootLabel::Process(_))),
            notes: Vec::new(),
        }
    }

    #[track_caller]
    pub(crate) fn discover(&self) -> Discovery {
        let found = Discovery::of(&self.target());
        found.unwrap_or_else(|error| panic!("{}: {error}", self.plan))
    }

    /// A CPU in ring 0 on this root.
    pub(crate) fn cpu(&self, root: PhysAddr) -> CpuState {
        let la57 = match self.plan.depth {
            Depth::Four => 0,
            Depth::Five => 1 << 12,
        };
        CpuState {
            cr0: 0x8005_0033,
            cr3: Cr3::new(root.get()),
            // PAE, PGE, SMEP, SMAP.
            cr4: 0x30_00a0 | la57,
            efer: 0xd01,
            rip: self.image(IMAGE_TEXT),
            ..CpuState::default()
        }
    }

    /// The user root of a pair, by its kernel root.
    pub(crate) fn user_root(&self, kernel: PhysAddr) -> PhysAddr {
        assert!(self.plan.kpti);
        kernel.wrapping_add(PAGE)
    }

    /// The root, and its user root if it has one.
    pub(crate) fn pair(&self, kernel: PhysAddr) -> Vec<PhysAddr> {
        let user = kernel.wrapping_add(PAGE);
        [kernel, user][..if self.plan.kpti { 2 } else { 1 }].to_vec()
    }

    /// A frame that nothing else uses.
    pub(crate) fn data_page(&mut self) -> PhysAddr {
        let page = PhysAddr::new(self.next_data);
        self.next_data += PAGE;
        assert!(page < UNUSED);
        page
    }

    /// Two frames for the roots of a pair, the first of them even; without KPTI one, even.
    fn root_frames(&mut self) -> PhysAddr {
        let mut first = self.memory.frame();
        if first.get() % 2 == 1 {
            first = self.memory.frame();
        }
        if self.plan.kpti {
            self.memory.frame();
        }
        first.base()
    }

    pub(crate) fn map(
        &mut self,
        root: PhysAddr,
        va: VirtAddr,
        to: PhysAddr,
        size: PageSize,
        flags: Entry,
    ) {
        let depth = self.plan.depth;
        self.memory.map(depth, root, va, to, size, flags);
    }

    /// Maps in the user half of a root, and of its user root if it has one.
    pub(crate) fn map_user(
        &mut self,
        root: PhysAddr,
        va: VirtAddr,
        to: PhysAddr,
        size: PageSize,
        flags: Entry,
    ) {
        self.map(root, va, to, size, flags);
        self.mirror(root);
    }

    /// Gives both roots of a pair the same user half, with NX in the kernel's, for ring 3's entries.
    pub(crate) fn mirror(&mut self, root: PhysAddr) {
        for index in Half::User.indices() {
            let mut entry = self.memory.peek(root.pfn(), index);
            if !entry.present() {
                continue;
            }
            if !entry.has(Entry::ACCESSED) {
                entry = Entry::pointing_to(entry.address(), bits::TABLE);
            }
            if self.plan.kpti {
                let user = self.user_root(root).pfn();
                self.memory.poke(user, index, entry.without(bits::NX));
                entry = entry | bits::NX;
            }
            self.memory.poke(root.pfn(), index, entry);
        }
    }

    /// Changes the entry for `va` at `level` in the tables of `root`.
    pub(crate) fn change(
        &mut self,
        root: PhysAddr,
        va: VirtAddr,
        level: Level,
        change: impl FnOnce(Entry) -> Entry,
    ) {
        self.memory.change(self.plan.depth, root, va, level, change);
    }

    pub(crate) fn entry(&mut self, root: PhysAddr, va: VirtAddr, level: Level) -> Entry {
        let table = self.table(root, va, level);
        self.memory.peek(table, va.index(level))
    }

    /// The table of `level` that translates `va` for `root`; made where it is missing.
    pub(crate) fn table(&mut self, root: PhysAddr, va: VirtAddr, level: Level) -> Pfn {
        self.memory.table_for(self.plan.depth, root, va, level)
    }

    /// Gives `root` a copy of its own of the table of `level` that translates `va`, and of those above:
    /// that copy.
    pub(crate) fn privatize(&mut self, root: PhysAddr, va: VirtAddr, level: Level) -> Pfn {
        let mut above = self.top();
        while above != level {
            let parent = self.table(root, va, above);
            let below = self.memory.peek(parent, va.index(above));
            let copy = self.memory.copy_of(below.address().pfn());
            let entry = Entry::pointing_to(copy.base(), flags_of(below));
            self.memory.poke(parent, va.index(above), entry);
            above = above.next().expect("a level below");
        }
        self.table(root, va, level)
    }

    pub(crate) fn top(&self) -> Level {
        self.plan.depth.top()
    }

    /// The entry of a root that translates `va`.
    pub(crate) fn top_index(&self, va: VirtAddr) -> u16 {
        va.index(self.top())
    }

    /// `PGD[273]`.
    pub(crate) fn top_place(&self, va: VirtAddr) -> String {
        format!(
            "{}[{}]",
            self.plan.depth.name(self.top()),
            self.top_index(va)
        )
    }

    /// Where the direct map shows a physical address.
    pub(crate) fn direct(&self, physical: PhysAddr) -> VirtAddr {
        self.plan.bases.direct_map.wrapping_add(physical.get())
    }

    /// Where the kernel image has a physical address.
    pub(crate) fn image(&self, physical: PhysAddr) -> VirtAddr {
        let offset = physical.get() - IMAGE_TEXT.get();
        self.plan.bases.image.wrapping_add(offset)
    }

    pub(crate) fn vmalloc(&self) -> VirtAddr {
        self.plan.bases.vmalloc
    }

    /// Where Linux maps the LDT of a process.
    pub(crate) fn ldt(&self) -> VirtAddr {
        VirtAddr::new(match self.plan.depth {
            Depth::Four => 0xffff_8800_0000_0000,
            Depth::Five => 0xff10_0000_0000_0000,
        })
    }
}

pub(crate) fn range(start: u64, bytes: u64) -> PhysRange {
    PhysRange {
        start: PhysAddr::new(start),
        bytes,
    }
}

/// An entry without its address.
pub(crate) fn flags_of(entry: Entry) -> Entry {
    entry.without(Entry::new(entry.address().get()))
}
