//! What must be so if the guest tells the truth: processes, kernel memory, and what the host knows of
//! itself, having built the machine.

use std::collections::BTreeMap;

use heirloom_abi::event::KERNEL_PID;
use serde::Serialize;

use super::event::{Claim, Counters, Told, label};
use super::kernel_memory::{Allocation, KernelMemory};
use super::truth::{Expectation, GroundTruth, Sharing};
use crate::snapshot::{RootLabel, Snapshot};
use heirloom_paging::addr::{PAGE_SIZE, PhysAddr, VirtAddr, VirtRange};

/// Most processes that may live at once; a claim of more is no process, so that what must be looked
/// at for one event has a bound.
const MOST_LIVE: usize = 1 << 13;

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

/// The state of the guest, as far as it is told or known.
pub struct World {
    truth: GroundTruth,
    expectation: Expectation,
    kernel_root: Option<PhysAddr>,
    /// The counters of the boot event.
    at_boot: Option<Counters>,
    machine: Vec<&'static str>,
    processes: BTreeMap<u32, ProcessRecord>,
    live: usize,
    memory: KernelMemory,
    /// Claims that contradict what was told before, of the present event.
    contradictions: Vec<String>,
    next_sequence: BTreeMap<u32, u64>,
    events: u64,
    done: bool,
}

impl World {
    /// Before the guest has told anything.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> World {
        World {
            memory: KernelMemory::new(truth.frames()),
            truth,
            expectation,
            kernel_root: None,
            at_boot: None,
            machine: Vec::new(),
            processes: BTreeMap::new(),
            live: 0,
            contradictions: Vec::new(),
            next_sequence: BTreeMap::new(),
            events: 0,
            done: false,
        }
    }

    /// Whether the guest said that its first process has ended.
    pub fn is_done(&self) -> bool {
        self.done
    }

    pub fn truth(&self) -> &GroundTruth {
        &self.truth
    }

    pub fn expectation(&self) -> Expectation {
        self.expectation
    }

    /// What the kernel says it found and uses.
    pub fn machine(&self) -> &[&'static str] {
        &self.machine
    }

    /// The counters of the boot event; `None` before it.
    pub fn counters_at_boot(&self) -> Option<&Counters> {
        self.at_boot.as_ref()
    }

    /// All processes that ever were, by number; of those that had the same number, the last.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessRecord> {
        self.processes.values()
    }

    /// Processes that have an address space.
    pub fn live(&self) -> impl Iterator<Item = &ProcessRecord> {
        self.processes()
            .filter(|process| process.life == Life::Live)
    }

    /// How many processes have an address space.
    pub fn live_count(&self) -> usize {
        self.live
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

    /// Ranges that were freed and not mapped again.
    pub fn revoked(&self) -> impl Iterator<Item = VirtRange> {
        self.memory.revoked()
    }

    /// A freed range that has an address of `range`.
    pub fn revoked_in(&self, range: VirtRange) -> Option<VirtRange> {
        self.memory.revoked_in(range)
    }

    /// What the present event says that cannot be, given the ones before.
    pub fn contradictions(&self) -> &[String] {
        &self.contradictions
    }

    /// Events heard.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The kernel's own root.
    pub fn kernel_root(&self) -> Option<PhysAddr> {
        self.kernel_root
    }

    /// The root that CR3 must hold in the address space of `pid`.
    pub fn root_of(&self, pid: u32) -> Option<PhysAddr> {
        match label(pid) {
            RootLabel::Process(pid) => {
                let process = self.processes.get(&pid)?;
                (process.life == Life::Live).then_some(process.root)
            }
            _ => self.kernel_root,
        }
    }

    /// The address space that the kernel works in on behalf of the process that tells: the process's,
    /// or, if the kernel is isolated, its own.
    pub fn kernel_view(&self, told: &Told) -> RootLabel {
        match self.expectation.sharing() {
            Sharing::EntryAreaOnly => RootLabel::Kernel,
            _ => told.label(),
        }
    }

    /// The address space in which a mapping made on behalf of the process that tells is there at once.
    pub fn maker_view(&self, told: &Told) -> RootLabel {
        match self.expectation.sharing() {
            Sharing::EntriesOnFault => RootLabel::Kernel,
            _ => self.kernel_view(told),
        }
    }

    /// Every address space: the kernel's own first, then the living processes' by number.
    pub fn roots(&self) -> Vec<(RootLabel, PhysAddr)> {
        let kernel = self.kernel_root.map(|root| (RootLabel::Kernel, root));
        let processes = self
            .live()
            .map(|process| (RootLabel::Process(process.pid), process.root));
        kernel.into_iter().chain(processes).collect()
    }

    /// Takes an event in.
    pub(super) fn hear(&mut self, told: &Told) {
        self.events += 1;
        self.contradictions.clear();
        self.count_on(told);
        match &told.claim {
            Claim::Boot { root, machine, .. } => self.boot(*root, machine, &told.counters),
            Claim::Crash { .. } => {}
            _ if self.kernel_root.is_none() => {
                self.contradict("the kernel has not booted yet".into());
            }
            _ => {}
        }
        match told.claim {
            Claim::Done { .. } => self.done = true,
            Claim::ProcessCreated {
                child,
                parent,
                root,
            } => self.create(told.sequence, child, parent, root),
            Claim::ProcessExited {
                process,
                status,
                root,
            } => self.end(process, status, root),
            Claim::ProcessExecuted { process } | Claim::ProcessKilled { process, .. } => {
                self.must_live(process);
            }
            Claim::KernelMapped {
                address,
                pages,
                writable,
                ..
            } => {
                let mapped = self
                    .memory
                    .map(address, pages, writable, told.pid, told.sequence);
                self.unless_contradictory(mapped);
            }
            Claim::KernelUnmapped { address, pages } => {
                let unmapped = self.memory.unmap(address, pages);
                self.unless_contradictory(unmapped);
            }
            Claim::KernelProtected {
                address,
                pages,
                writable,
            } => {
                let protected = self.memory.protect(address, pages, writable);
                self.unless_contradictory(protected);
            }
            _ => {}
        }
    }

    /// Takes in what the tables show of the present event: the frames of a new allocation, as the
    /// maker's address space has them, and what was written to it.
    pub(super) fn witness(&mut self, told: &Told, snapshot: &Snapshot) {
        match told.claim {
            Claim::KernelMapped { address, .. } => {
                let Some(root) = snapshot.root_of(self.maker_view(told)) else {
                    return;
                };
                let made_now = self
                    .memory
                    .starting_at(address)
                    .filter(|allocation| allocation.made == told.sequence);
                if let Some(allocation) = made_now {
                    allocation.frames = allocation
                        .pages()
                        .map_while(|page| {
                            let walk = snapshot.translate(root.id, page);
                            Some(walk.translation()?.pa.pfn())
                        })
                        .collect();
                }
            }
            Claim::KernelAccess {
                address,
                value,
                write: true,
                fault: None,
            } => {
                if let Some(allocation) = self.memory.holding_mut(word_at(address)) {
                    allocation.write(VirtAddr::new(address), value);
                }
            }
            _ => {}
        }
    }

    fn count_on(&mut self, told: &Told) {
        let (sequence, cpu) = (told.sequence, told.cpu);
        let next = sequence.wrapping_add(1);
        let expected = self.next_sequence.insert(cpu, next).unwrap_or(0);
        if sequence != expected {
            self.contradict(format!(
                "CPU {cpu} tells event {sequence} where event {expected} was to come"
            ));
        }
    }

    fn boot(&mut self, root: PhysAddr, machine: &[&'static str], counters: &Counters) {
        self.check_root(root);
        if self.kernel_root.replace(root).is_some() {
            self.contradict("the kernel booted twice".into());
        }
        machine.clone_into(&mut self.machine);
        self.at_boot = Some(*counters);
    }

    fn create(&mut self, event: u64, child: u32, parent: u32, root: PhysAddr) {
        // The first is the kernel's own, the last stands for a number that is none.
        if [KERNEL_PID, u32::MAX].contains(&child) {
            self.contradict(format!("no process has the number {child}"));
            return;
        }
        if self.live >= MOST_LIVE {
            self.contradict(format!(
                "process {child} is one more than {MOST_LIVE}, the most that are followed"
            ));
            return;
        }
        self.check_root(root);
        let owner = self.live().find(|process| process.root == root);
        if let Some(ProcessRecord { pid: other, .. }) = owner {
            let other = *other;
            self.contradict(format!("process {child} has the root of process {other}"));
        } else if self.kernel_root == Some(root) {
            self.contradict(format!("process {child} has the kernel's own root"));
        }
        let generation = match self.processes.get(&parent) {
            Some(parent) if parent.life == Life::Live => parent.generation.saturating_add(1),
            _ if parent == KERNEL_PID => 1,
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
            born: event,
        };
        match self.processes.insert(child, record) {
            Some(before) if before.life == Life::Live => {
                self.contradict(format!("process {child} was created and lives already"));
            }
            _ => self.live += 1,
        }
    }

    fn end(&mut self, pid: u32, status: u64, root: PhysAddr) {
        if !self.must_live(pid) {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.life = Life::Ended { status };
        self.live -= 1;
        if process.root != root {
            let known = process.root;
            self.contradict(format!("process {pid} had the root {known}, not {root}"));
        }
    }

    /// Whether process `pid` has an address space; a contradiction if not.
    fn must_live(&mut self, pid: u32) -> bool {
        let lives = self
            .process(pid)
            .is_some_and(|process| process.life == Life::Live);
        if !lives {
            self.contradict(format!("process {pid} does not live"));
        }
        lives
    }

    fn check_root(&mut self, root: PhysAddr) {
        let is_frame = root.get().is_multiple_of(PAGE_SIZE) && self.truth.is_ram(root, PAGE_SIZE);
        // Frame 0 is the firmware's, whatever the memory map says.
        if !is_frame || root.get() == 0 {
            self.contradict(format!("the root {root} is not a frame of RAM"));
        }
    }

    fn unless_contradictory(&mut self, claim: Result<(), String>) {
        if let Err(contradiction) = claim {
            self.contradict(contradiction);
        }
    }

    fn contradict(&mut self, what: String) {
        self.contradictions.push(what);
    }
}

/// The 8 bytes that an access at `address` touches, cut at the end of the address space.
pub(super) fn word_at(address: u64) -> VirtRange {
    VirtRange {
        first: VirtAddr::new(address),
        last: VirtAddr::new(address.saturating_add(7)),
    }
}
