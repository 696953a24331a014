//! What must be so in a guest that is followed from its boot: its processes and their roots, the kernel
//! memory that was mapped, written and freed, and what just happened.
//!
//! Nothing here knows how a guest tells of it. Whoever follows one feeds a [`History`] event by event;
//! the rules that need one hold the tables against it.

mod events;
mod kernel_memory;
mod machine;
mod translations;

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

pub use kernel_memory::Allocation;
pub(crate) use machine::is_ram;
pub use machine::{GroundTruth, Image, Sharing};
pub use translations::{CpuAsked, FlushedPages, Flushes, PcidAsked, Translations, Writes};
pub(crate) use translations::{Held, Key, Reused, Why};

use crate::layout::{Area, Region};
use crate::snapshot::RootLabel;
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use kernel_memory::KernelMemory;

/// The number that stands for the kernel where a process is meant.
pub const KERNEL: u32 = 0;

/// Processes that may live at once; one more is no process, so that what must be looked at for one event
/// has a bound.
pub const MAX_LIVE: usize = 1 << 13;

/// Whether a process has an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Life {
    /// It has one.
    Live,
    /// Ended, with this status.
    Ended {
        /// What it gave as its exit status.
        status: u64,
    },
}

/// A process, living or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessRecord {
    /// Its number.
    pub pid: u32,
    /// The number of its parent; 0 for the first process.
    pub parent: u32,
    /// 1 for the first process, one more for each generation.
    pub generation: u32,
    /// Its root table: what CR3 holds while it runs.
    pub root: PhysAddr,
    /// Whether it still has an address space.
    #[serde(flatten)]
    pub life: Life,
    /// The event that told its birth.
    pub born: u64,
}

/// The kernel read or wrote 8 bytes of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The virtual address.
    pub address: u64,
    /// What it read or wrote.
    pub value: u64,
    /// Whether it was a write.
    pub write: bool,
    /// The page-fault error code, if the CPU faulted.
    pub fault: Option<u64>,
    /// What memory holds there, found through the tables of the address space in which the access was
    /// made; `None` if they lead nowhere.
    pub in_memory: Option<u64>,
}

/// What the present event is about, as far as rules look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Its number, from 1.
    pub sequence: u64,
    /// The process whose address space the reporting CPU has.
    pub pid: u32,
    /// The access to kernel memory that it reports.
    pub access: Option<Access>,
    /// Kernel memory was mapped: the first address, and pages.
    pub mapped: Option<(VirtAddr, u64)>,
    /// Where ring 3 was when it was ended for what it did.
    pub ring_3_rip: Option<VirtAddr>,
}

/// The state of a guest, as far as it is told or known.
pub struct History {
    truth: GroundTruth,
    sharing: Sharing,
    areas: Vec<Region>,
    kernel_root: Option<PhysAddr>,
    processes: BTreeMap<u32, ProcessRecord>,
    /// Every address space: the kernel's own first, then the living processes' by number.
    roots: Vec<(RootLabel, PhysAddr)>,
    /// The living processes that have a root.
    owners: HashMap<PhysAddr, Vec<u32>>,
    live: usize,
    memory: KernelMemory,
    /// Grows with every change of kernel memory.
    memory_generation: u64,
    translations: Translations,
    present: Present,
    /// What was told of the present event and cannot be, given what was told before.
    contradictions: Vec<String>,
}

impl History {
    /// Before anything has happened. `areas` is where the kernel has what, ascending.
    pub fn new(truth: GroundTruth, sharing: Sharing, areas: Vec<Region>) -> History {
        History {
            memory: KernelMemory::new(truth.frames()),
            truth,
            sharing,
            areas,
            kernel_root: None,
            processes: BTreeMap::new(),
            roots: Vec::new(),
            owners: HashMap::new(),
            live: 0,
            memory_generation: 0,
            translations: Translations::default(),
            present: Present::default(),
            contradictions: Vec::new(),
        }
    }

    /// What is known without asking the guest.
    pub fn truth(&self) -> &GroundTruth {
        &self.truth
    }

    /// What the kernel promises of the kernel half of every process.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Where the kernel has what, ascending.
    pub fn areas(&self) -> &[Region] {
        &self.areas
    }

    /// From now on the kernel has these areas, ascending.
    pub fn set_areas(&mut self, areas: Vec<Region>) {
        self.areas = areas;
    }

    /// Where `area` lies.
    pub fn area(&self, area: Area) -> Option<VirtRange> {
        let mut regions = self.areas.iter();
        Some(regions.find(|region| region.area == area)?.range)
    }

    /// All processes that ever were, by number; of those that had the same number, the last.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessRecord> {
        self.processes.values()
    }

    /// How many processes have an address space.
    pub fn live_count(&self) -> usize {
        self.live
    }

    /// How many processes have ended.
    pub fn ended_count(&self) -> usize {
        self.processes.len() - self.live
    }

    /// One process.
    pub fn process(&self, pid: u32) -> Option<&ProcessRecord> {
        self.processes.get(&pid)
    }

    /// Kernel memory that is mapped, ascending.
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.memory.allocations()
    }

    /// Pages of all allocations.
    pub fn allocated_pages(&self) -> u64 {
        self.memory.pages()
    }

    /// The allocation that the whole of `range` lies in.
    pub fn allocation_holding(&self, range: VirtRange) -> Option<&Allocation> {
        self.memory.holding(range)
    }

    /// Ranges that were freed and not mapped again, ascending.
    pub fn revoked(&self) -> impl Iterator<Item = VirtRange> {
        self.memory.revoked()
    }

    /// A freed range that has an address of `range`.
    pub fn revoked_in(&self, range: VirtRange) -> Option<VirtRange> {
        self.memory.revoked_in(range)
    }

    /// Grows with every change of what is told of kernel memory.
    pub fn memory_generation(&self) -> u64 {
        self.memory_generation
    }

    /// What was told of the present event and cannot be, given what was told before.
    pub fn contradictions(&self) -> &[String] {
        &self.contradictions
    }

    /// What CPUs may still remember of tables that were changed.
    pub(crate) fn translations(&self) -> &Translations {
        &self.translations
    }

    /// What the present event is about.
    pub fn present(&self) -> &Present {
        &self.present
    }

    /// The kernel's own root.
    pub fn kernel_root(&self) -> Option<PhysAddr> {
        self.kernel_root
    }

    /// The root that CR3 must hold in the address space of `pid`.
    pub fn root_of(&self, pid: u32) -> Option<PhysAddr> {
        if pid == KERNEL {
            return self.kernel_root;
        }
        let process = self.processes.get(&pid)?;
        (process.life == Life::Live).then_some(process.root)
    }

    /// Every address space: the kernel's own first, then the living processes' by number.
    pub fn roots(&self) -> &[(RootLabel, PhysAddr)] {
        &self.roots
    }

    /// The address space that the reporting CPU has, if what is told of it is so.
    pub fn reporting(&self) -> RootLabel {
        label(self.present.pid)
    }

    /// The address space that the kernel works in on behalf of the process that reports: the process's,
    /// or, if the kernel is isolated, its own.
    pub fn kernel_view(&self) -> RootLabel {
        match self.sharing {
            Sharing::EntryAreaOnly => RootLabel::Kernel,
            _ => self.reporting(),
        }
    }

    /// The address space in which a mapping made on behalf of the process that reports is there at once.
    pub fn maker_view(&self) -> RootLabel {
        match self.sharing {
            Sharing::EntriesOnFault => RootLabel::Kernel,
            _ => self.kernel_view(),
        }
    }
}

/// The label of process `pid`; [`KERNEL`] is the kernel itself.
pub fn label(pid: u32) -> RootLabel {
    match pid {
        KERNEL => RootLabel::Kernel,
        pid => RootLabel::Process(pid),
    }
}

/// The 8 bytes that an access at `address` touches, cut at the end of the address space.
pub fn word_at(address: u64) -> VirtRange {
    VirtRange {
        first: VirtAddr::new(address),
        last: VirtAddr::new(address.saturating_add(7)),
    }
}
