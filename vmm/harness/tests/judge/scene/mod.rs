//! A guest kernel that keeps its word: it builds its tables in a memory of its own, makes and ends
//! processes, maps and frees kernel memory, and tells of each as ours does. A test lets it work,
//! breaks one thing, lets it tell once more, and looks at what the judge says.

mod books;
mod flushes;
mod kernel;
mod verdict;

pub(crate) use verdict::{assert_evidence, assert_walks, label, place_of};

use std::collections::BTreeMap;

use heirloom_abi::layout::Region;
use heirloom_abi::options::Strategy;
use heirloom_harness::engine::Engine;
use heirloom_harness::event::{Counters, Event, EventKind};
use heirloom_harness::model::Expectation;
use heirloom_inspect::history::{GroundTruth, Image};
use heirloom_inspect::testing::FakeMemory;
use heirloom_inspect::{
    Capturer, CpuState, Cr3, Depth, Entry, Level, Mode, PageSize, Pfn, PhysAddr, PhysRange,
    VirtAddr, translate_in_memory,
};

pub(crate) const MODE: Mode = Mode::typical(Depth::Four);
pub(crate) const PAGE: u64 = 4096;
pub(crate) const IMAGE: VirtAddr = VirtAddr::new(0xffff_ffff_8020_0000);
pub(crate) const VMALLOC: VirtAddr = VirtAddr::new(Region::Vmalloc.start(Depth::Four));
const VMEMMAP: VirtAddr = VirtAddr::new(Region::Vmemmap.start(Depth::Four));
/// What an isolated kernel shows to ring 3.
pub(crate) const ENTRY_AREA: VirtAddr = VirtAddr::new(Region::CpuEntryArea.start(Depth::Four));
/// Where ring-3 programs have their text, data and stack, a page each.
pub(crate) const TEXT: VirtAddr = VirtAddr::new(0x40_0000);
pub(crate) const DATA: VirtAddr = VirtAddr::new(0x40_1000);
pub(crate) const STACK: VirtAddr = VirtAddr::new(0x7fff_ffff_e000);

/// Physical memory: 636 KiB, 7 MiB from 1 MiB on, and 4 MiB above 4 GiB.
pub(crate) const RAM: [(u64, u64); 3] = [
    (0, 0x9_f000),
    (0x10_0000, 0x70_0000),
    (0x1_0000_0000, 0x40_0000),
];
/// Text, constants and data of the kernel: physical address and bytes.
pub(crate) const KERNEL_TEXT: (u64, u64) = (0x20_0000, 0x4000);
pub(crate) const KERNEL_CONSTANTS: (u64, u64) = (0x20_4000, 0x2000);
pub(crate) const KERNEL_DATA: (u64, u64) = (0x20_6000, 0x4000);
/// Frames before the first that the kernel gives out.
const POOL: u64 = 0x300;
const RESERVED_FRAMES: u64 = 1500;

const READ_ONLY: Entry = Entry::new(1 << 63 | 1 << 8 | 0b1);
/// P, U/S, NX: what copy on write makes of a process's data.
pub(crate) const USER_READ_ONLY: Entry = Entry::new(1 << 63 | 0b101);

/// A process as the kernel knows it.
#[derive(Clone, Debug)]
struct Process {
    root: PhysAddr,
    /// Its pages: frame, and what the leaf is but for the address.
    pages: BTreeMap<VirtAddr, (Pfn, Entry)>,
}

/// Kernel and host in one.
pub(crate) struct Scene {
    pub(crate) memory: FakeMemory,
    pub(crate) kernel: PhysAddr,
    pub(crate) judge: Engine,
    strategy: Strategy,
    /// What the CPU shows where a test does not want what the kernel has loaded.
    pub(crate) cpu: CpuState,
    pub(crate) mode: Mode,
    /// CR3, where it shall be another than that of the process that tells.
    pub(crate) cr3: Option<u64>,
    /// What the counters say more than is so.
    pub(crate) lie: Box<dyn Fn(&mut Counters)>,
    pub(crate) sequence: u64,
    pub(crate) capturer: Capturer,
    processes: BTreeMap<u32, Process>,
    next_pid: u32,
    zombies: u64,
    allocations: BTreeMap<VirtAddr, u64>,
    next_address: VirtAddr,
    pub(crate) notes: flushes::Notes,
}

pub(crate) fn pa(raw: u64) -> PhysAddr {
    PhysAddr::new(raw)
}

pub(crate) fn direct_map(physical: u64) -> VirtAddr {
    VirtAddr::new(Region::DirectMap.start(Depth::Four) + physical)
}

pub(crate) fn truth() -> GroundTruth {
    let segment = |(at, bytes), writable, executable| Image {
        va: VirtAddr::new(Region::KernelImage.start(Depth::Four) + at),
        pa: pa(at),
        bytes,
        writable,
        executable,
    };
    GroundTruth {
        ram: RAM
            .map(|(start, bytes)| PhysRange {
                start: pa(start),
                bytes,
            })
            .to_vec(),
        image: vec![
            segment(KERNEL_TEXT, false, true),
            segment(KERNEL_CONSTANTS, false, false),
            segment(KERNEL_DATA, true, false),
        ],
    }
}

impl Scene {
    /// The kernel has built its tables and told nothing.
    pub(crate) fn unbooted() -> Scene {
        Scene::unbooted_under(Strategy::Prealloc)
    }

    /// The same, held to what `strategy` promises.
    pub(crate) fn unbooted_under(strategy: Strategy) -> Scene {
        let mut memory = FakeMemory::new();
        memory.add(Pfn::new(POOL));
        let kernel = memory.root();
        let mut scene = Scene {
            memory,
            kernel,
            judge: Engine::new(truth(), Expectation { strategy }),
            strategy,
            cpu: CpuState {
                rip: IMAGE.wrapping_add(0x1234),
                ..CpuState::default()
            },
            mode: MODE,
            cr3: None,
            lie: Box::new(|_| {}),
            sequence: 0,
            capturer: Capturer::new(),
            processes: BTreeMap::new(),
            next_pid: 1,
            zombies: 0,
            allocations: BTreeMap::new(),
            next_address: VMALLOC,
            notes: flushes::Notes::default(),
        };
        scene.build_kernel_half();
        scene
    }

    /// The kernel is up, and no process is.
    pub(crate) fn booted() -> Scene {
        let mut scene = Scene::unbooted();
        scene.tell(0, scene.boot_claim());
        scene
    }

    /// A few processes of a kernel that propagates its mappings by `strategy`.
    pub(crate) fn crowd_under(strategy: Strategy) -> Scene {
        let mut scene = Scene::unbooted_under(strategy);
        scene.tell(0, scene.boot_claim());
        scene.first();
        let two = scene.fork(1);
        scene.map(two, 3);
        scene.fork(two);
        scene
    }

    /// The processes that live.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.keys().copied().collect()
    }

    /// Kernel memory that is mapped.
    pub(crate) fn mapped(&self) -> Vec<VirtAddr> {
        self.allocations.keys().copied().collect()
    }

    /// Makes a process that has the kernel half of the kernel's root and nothing else.
    pub(crate) fn adopt_bare(&mut self, parent: u32) {
        let root = self.memory.child_of(self.kernel);
        let child = self.next_pid;
        self.next_pid += 1;
        self.adopt_as(child, parent, root);
    }

    pub(crate) fn boot_claim(&self) -> EventKind {
        EventKind::Boot {
            root: self.kernel,
            vmalloc_start: VMALLOC,
            strategy: Some(self.strategy.name()),
            machine: vec!["nx"],
            flush_log: Some(Scene::FLUSH_LOG),
        }
    }

    /// A family in its prime: processes 1, 2 (of 1), 4 (of 2) and 5 (of 4) live, 3 (of 1) is a
    /// zombie. Process 2 has made [`Scene::memory_of_2`]; other memory came and went.
    pub(crate) fn family() -> Scene {
        Scene::family_under(Strategy::Prealloc)
    }

    /// The same of a kernel that propagates its mappings by `strategy`, and keeps what that promises.
    pub(crate) fn family_under(strategy: Strategy) -> Scene {
        let mut scene = Scene::unbooted_under(strategy);
        scene.tell(0, scene.boot_claim());
        scene.first();
        let two = scene.fork(1);
        let three = scene.fork(1);
        let four = scene.fork(two);
        let at = scene.map(two, 4);
        assert_eq!(at, Scene::memory_of_2());
        scene.write(two, at, 0x2222);
        for pid in [1, two, three, four] {
            scene.read(pid, at);
        }
        let five = scene.fork(four);
        scene.touch(four, DATA);
        scene.read(five, at);
        scene.protect(five, at, false);
        scene.write(1, at, 0x1111);
        scene.protect(1, at, true);
        let freed = scene.map(four, 2);
        assert_eq!(freed, Scene::freed_memory());
        scene.write(five, freed, 7);
        scene.unmap(1, freed);
        for pid in [1, two, three, four, five] {
            scene.read(pid, freed);
        }
        scene.exit(three);
        assert_eq!(scene.broken(), [""; 0], "the family is sound");
        scene
    }

    /// Four pages, the first word of which is 0x2222.
    pub(crate) fn memory_of_2() -> VirtAddr {
        VMALLOC
    }

    /// Two pages, behind those and a guard page.
    pub(crate) fn freed_memory() -> VirtAddr {
        VMALLOC.wrapping_add(5 * PAGE)
    }

    fn build_kernel_half(&mut self) {
        let parts = [
            (KERNEL_TEXT, FakeMemory::KERNEL_TEXT),
            (KERNEL_CONSTANTS, READ_ONLY),
            (KERNEL_DATA, FakeMemory::KERNEL_DATA),
        ];
        for ((start, bytes), flags) in parts {
            for at in (start..start + bytes).step_by(4096) {
                let va = VirtAddr::new(Region::KernelImage.start(Depth::Four) + at);
                self.map_in(self.kernel, va, pa(at), flags);
            }
        }
        let read_only = KERNEL_TEXT.0..KERNEL_DATA.0;
        for (start, bytes) in RAM {
            let mut at = start;
            while at < start + bytes {
                let flags = if read_only.contains(&at) {
                    READ_ONLY
                } else {
                    FakeMemory::KERNEL_DATA
                };
                let large = at.is_multiple_of(2 << 20)
                    && at + (2 << 20) <= start + bytes
                    && at != KERNEL_TEXT.0;
                let size = if large {
                    PageSize::Size2MiB
                } else {
                    PageSize::Size4KiB
                };
                self.memory.map(
                    Depth::Four,
                    self.kernel,
                    direct_map(at),
                    pa(at),
                    size,
                    flags,
                );
                at += size.bytes();
            }
        }
        let page_infos = self.memory.frame().base();
        self.map_in(self.kernel, VMEMMAP, page_infos, FakeMemory::KERNEL_DATA);
        if self.strategy == Strategy::Isolated {
            let entry_text = self.memory.frame().base();
            self.map_in(self.kernel, ENTRY_AREA, entry_text, READ_ONLY);
        }
        if self.strategy != Strategy::Prealloc {
            return;
        }
        let (first, last) = Region::Vmalloc.pgd_entries(Depth::Four);
        for index in first..=last {
            let index = u16::try_from(index).unwrap();
            let table = self.memory.frame();
            let entry = Entry::pointing_to(table.base(), FakeMemory::POINTER);
            self.memory.poke(self.kernel.pfn(), index, entry);
        }
    }

    pub(crate) fn map_in(&mut self, root: PhysAddr, va: VirtAddr, to: PhysAddr, flags: Entry) {
        self.memory
            .map(Depth::Four, root, va, to, PageSize::Size4KiB, flags);
    }

    /// Changes the entry for `va` at `level` in the tables of `root`.
    pub(crate) fn change(
        &mut self,
        root: PhysAddr,
        va: VirtAddr,
        level: Level,
        change: impl FnOnce(Entry) -> Entry,
    ) {
        self.memory.change(Depth::Four, root, va, level, change);
    }

    /// The table of `level` that translates `va` for `root`; made where it is missing.
    pub(crate) fn table(&mut self, root: PhysAddr, va: VirtAddr, level: Level) -> Pfn {
        self.memory.table_for(Depth::Four, root, va, level)
    }

    /// Gives `root` a copy of its own of the table of `level` that translates `va`, and of those
    /// above.
    pub(crate) fn privatize(&mut self, root: PhysAddr, va: VirtAddr, level: Level) {
        for above in [Level::Pml4, Level::Pdpt, Level::Pd] {
            let parent = self.table(root, va, above);
            let below = self.memory.peek(parent, va.index(above));
            let copy = self.memory.copy_of(below.address().pfn());
            let entry = Entry::pointing_to(copy.base(), FakeMemory::POINTER);
            self.memory.poke(parent, va.index(above), entry);
            if above.next() == Some(level) {
                return;
            }
        }
    }

    /// The root of a process.
    pub(crate) fn root(&self, pid: u32) -> PhysAddr {
        match pid {
            0 => self.kernel,
            _ => self.processes[&pid].root,
        }
    }

    /// Where process `pid`'s tables lead from `va`.
    pub(crate) fn translate(&self, pid: u32, va: VirtAddr) -> Option<PhysAddr> {
        let walk = translate_in_memory(&self.memory, &MODE, self.root(pid), va);
        walk.translation().map(|found| found.pa)
    }
}

/// Telling.
impl Scene {
    /// Tells the judge, who looks at memory as it is now.
    pub(crate) fn tell(&mut self, pid: u32, claim: EventKind) {
        self.flush_by_itself();
        let mut counters = self.counters();
        (self.lie)(&mut counters);
        let event = Event {
            sequence: self.sequence,
            cpu: 0,
            pid,
            claim,
            counters,
        };
        self.sequence += 1;
        self.apply(&event);
    }

    /// Lets the judge hear and see.
    pub(crate) fn apply(&mut self, event: &Event) {
        let runs_on_the_kernels = self.strategy == Strategy::Isolated || event.pid == 0;
        let known = if runs_on_the_kernels {
            self.kernel.get()
        } else if self.processes.contains_key(&event.pid) {
            self.root(event.pid).get() | u64::from(self.pcid(event.pid))
        } else {
            0
        };
        let cpu = CpuState {
            cr3: Cr3::new(self.cr3.unwrap_or(known)),
            ..self.cpu
        };
        self.judge.apply(event);
        let roots = self.judge.roots();
        let snapshot = self.capturer.capture(&self.memory, self.mode, roots);
        self.judge
            .observe(event, &[cpu], 0, &snapshot, &self.memory);
        // Whatever a test does: nothing is remembered that is not so.
        assert_eq!(self.judge.verify(), Ok(()));
    }
}
