//! What must be so in a guest that is followed from its boot: its processes and their roots, the kernel
//! memory that was mapped, written and freed, and what just happened.
//!
//! Nothing here knows how a guest tells of it. Whoever follows one feeds a [`History`] event by event;
//! the rules that need one hold the tables against it.

mod kernel_memory;
mod machine;

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

pub use kernel_memory::Allocation;
pub(crate) use machine::is_ram;
pub use machine::{GroundTruth, Image, Sharing};

use crate::layout::{Area, Region};
use crate::memory::PhysicalMemory;
use crate::snapshot::{RootLabel, Snapshot};
use heirloom_paging::addr::{PAGE_SIZE, PhysAddr, VirtAddr, VirtRange};
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
    Live,
    /// Ended, with this status.
    Ended {
        status: u64,
    },
}

/// A process, living or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessRecord {
    pub pid: u32,
    pub parent: u32,
    /// 1 for the first process, one more for each generation.
    pub generation: u32,
    pub root: PhysAddr,
    #[serde(flatten)]
    pub life: Life,
    /// The event that told its birth.
    pub born: u64,
}

/// The kernel read or wrote 8 bytes of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub address: u64,
    /// What it read or wrote.
    pub value: u64,
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
    pub sequence: u64,
    /// The process whose address space the reporting CPU has.
    pub pid: u32,
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

/// What happens.
impl History {
    /// The next event begins: the last one's contradictions are forgotten.
    pub fn begin(&mut self, present: Present) {
        self.present = present;
        self.contradictions.clear();
    }

    /// The kernel is up, on this root.
    pub fn boot(&mut self, root: PhysAddr) {
        self.check_root(root);
        if self.kernel_root.replace(root).is_some() {
            self.contradict("the kernel booted twice");
        }
        self.set_root(RootLabel::Kernel, Some(root));
    }

    /// A process has an address space.
    pub fn create(&mut self, child: u32, parent: u32, root: PhysAddr) {
        // The first is the kernel's own, the last stands for a number that is none.
        if [KERNEL, u32::MAX].contains(&child) {
            self.contradict(format!("no process has the number {child}"));
            return;
        }
        if self.live >= MAX_LIVE {
            self.contradict(format!(
                "process {child} is one more than {MAX_LIVE}, the most that are followed"
            ));
            return;
        }
        self.check_root(root);
        let owner = self.owners.get(&root).and_then(|pids| pids.iter().min());
        if let Some(other) = owner {
            self.contradict(format!("process {child} has the root of process {other}"));
        } else if self.kernel_root == Some(root) {
            self.contradict(format!("process {child} has the kernel's own root"));
        }
        let generation = match self.processes.get(&parent) {
            Some(parent) if parent.life == Life::Live => parent.generation.saturating_add(1),
            _ if parent == KERNEL => 1,
            _ => {
                self.contradict(format!(
                    "process {child} has a parent, {parent}, that does not live"
                ));
                1
            }
        };
        let record = ProcessRecord {
            pid: child,
            parent,
            generation,
            root,
            life: Life::Live,
            born: self.present.sequence,
        };
        match self.processes.insert(child, record) {
            Some(before) if before.life == Life::Live => {
                self.disown(before.root, child);
                self.contradict(format!("process {child} was created and lives already"));
            }
            _ => self.live += 1,
        }
        self.owners.entry(root).or_default().push(child);
        self.set_root(RootLabel::Process(child), Some(root));
    }

    /// A process has ended, and its address space is gone.
    pub fn end(&mut self, pid: u32, status: u64, root: PhysAddr) {
        if !self.must_live(pid) {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.life = Life::Ended { status };
        let known = process.root;
        self.live -= 1;
        self.disown(known, pid);
        self.set_root(RootLabel::Process(pid), None);
        if known != root {
            self.contradict(format!("process {pid} had the root {known}, not {root}"));
        }
    }

    /// Whether process `pid` has an address space; a contradiction if not.
    pub fn must_live(&mut self, pid: u32) -> bool {
        let lives = self
            .process(pid)
            .is_some_and(|process| process.life == Life::Live);
        if !lives {
            self.contradict(format!("process {pid} does not live"));
        }
        lives
    }

    /// Kernel memory was mapped.
    pub fn map(&mut self, address: VirtAddr, pages: u64, writable: bool) {
        let Present { sequence, pid, .. } = self.present;
        let mapped = self.memory.map(address, pages, writable, pid, sequence);
        self.memory_changed(mapped);
    }

    /// Kernel memory was unmapped.
    pub fn unmap(&mut self, address: VirtAddr, pages: u64) {
        let unmapped = self.memory.unmap(address, pages);
        self.memory_changed(unmapped);
    }

    /// Kernel memory has other rights.
    pub fn protect(&mut self, address: VirtAddr, pages: u64, writable: bool) {
        let protected = self.memory.protect(address, pages, writable);
        self.memory_changed(protected);
    }

    /// Takes in what tables and memory show of the present event: the frames of a new allocation, as its
    /// maker's address space has them, what was written, and what memory holds where the kernel read or
    /// wrote. The latter is all that judging reads of memory beside tables.
    pub fn witness<M: PhysicalMemory + ?Sized>(&mut self, snapshot: &Snapshot, memory: &M) {
        if let Some((address, _)) = self.present.mapped {
            self.find_frames(address, snapshot);
        }
        if let Some(access) = &self.present.access {
            let word = word_at(access.address);
            if access.write
                && access.fault.is_none()
                && let Some(allocation) = self.memory.holding_mut(word)
            {
                allocation.write(word.first, access.value);
            }
            let in_memory = self.in_memory(snapshot, memory);
            if let Some(access) = &mut self.present.access {
                access.in_memory = in_memory;
            }
        }
    }

    /// What `memory` holds where the present access was made.
    pub fn in_memory<M: PhysicalMemory + ?Sized>(
        &self,
        snapshot: &Snapshot,
        memory: &M,
    ) -> Option<u64> {
        let address = self.present.access?.address;
        let root = snapshot.root_of(self.kernel_view())?;
        let mut bytes = [0; 8];
        // They may lie in two pages.
        for (offset, byte) in (0..).zip(&mut bytes) {
            let va = VirtAddr::new(address).checked_add(offset)?;
            let walk = snapshot.translate(root.id, va);
            let at = walk.translation()?.pa;
            memory.read_bytes(at, std::slice::from_mut(byte)).ok()?;
        }
        Some(u64::from_le_bytes(bytes))
    }

    fn find_frames(&mut self, address: VirtAddr, snapshot: &Snapshot) {
        let Some(root) = snapshot.root_of(self.maker_view()) else {
            return;
        };
        let sequence = self.present.sequence;
        let made_now = self
            .memory
            .starting_at(address)
            .filter(|allocation| allocation.made == sequence);
        if let Some(allocation) = made_now {
            allocation.frames = allocation
                .pages()
                .map_while(|page| {
                    let walk = snapshot.translate(root.id, page);
                    Some(walk.translation()?.pa.pfn())
                })
                .collect();
            self.memory_generation += 1;
        }
    }

    /// What is told of the present event cannot be.
    pub fn contradict(&mut self, what: impl Into<String>) {
        self.contradictions.push(what.into());
    }

    fn memory_changed(&mut self, change: Result<(), String>) {
        self.memory_generation += 1;
        if let Err(contradiction) = change {
            self.contradict(contradiction);
        }
    }

    fn check_root(&mut self, root: PhysAddr) {
        let is_frame = root.get().is_multiple_of(PAGE_SIZE) && self.truth.is_ram(root, PAGE_SIZE);
        // Frame 0 is the firmware's, whatever the memory map says.
        if !is_frame || root.get() == 0 {
            self.contradict(format!("the root {root} is not a frame of RAM"));
        }
    }

    fn set_root(&mut self, label: RootLabel, root: Option<PhysAddr>) {
        let place = self.roots.binary_search_by_key(&label, |(label, _)| *label);
        match (place, root) {
            (Ok(at), Some(root)) => self.roots[at].1 = root,
            (Err(at), Some(root)) => self.roots.insert(at, (label, root)),
            (Ok(at), None) => drop(self.roots.remove(at)),
            (Err(_), None) => {}
        }
    }

    fn disown(&mut self, root: PhysAddr, pid: u32) {
        if let Some(owners) = self.owners.get_mut(&root) {
            owners.retain(|owner| *owner != pid);
            if owners.is_empty() {
                self.owners.remove(&root);
            }
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
