//! What must be so if the guest tells the truth: processes, kernel memory, and what the host knows of
//! itself, having built the machine.

use std::collections::BTreeMap;

use heirloom_abi::options::Strategy;
use serde::Serialize;

use super::event::{Claim, Told, label};
use crate::addr::{GuestPhys, GuestVirt, PAGE_SIZE, Pfn, VirtRange};
use crate::snapshot::{RootLabel, Snapshot};

/// Physical addresses `start..start + bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PhysRange {
    pub start: GuestPhys,
    pub bytes: u64,
}

impl PhysRange {
    /// Whether `length` bytes from `at` lie inside.
    pub fn contains(&self, at: GuestPhys, length: u64) -> bool {
        let offset = at.get().wrapping_sub(self.start.get());
        at >= self.start && offset < self.bytes && length <= self.bytes - offset
    }

    /// Whole frames inside.
    pub fn frames(&self) -> u64 {
        let end = (self.start.get() + self.bytes) / PAGE_SIZE;
        end.saturating_sub(self.start.get().div_ceil(PAGE_SIZE))
    }
}

/// A segment of the kernel image, as the host loaded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    pub va: GuestVirt,
    pub pa: GuestPhys,
    /// In memory, whole pages.
    pub bytes: u64,
    pub writable: bool,
    pub executable: bool,
}

/// What the host knows without asking the guest.
#[derive(Clone, Debug, Default)]
pub struct GroundTruth {
    /// The RAM that the guest was told of, ascending.
    pub ram: Vec<PhysRange>,
    /// The kernel's segments.
    pub image: Vec<Image>,
}

impl GroundTruth {
    /// Whether `length` bytes from `at` are RAM.
    pub fn is_ram(&self, at: GuestPhys, length: u64) -> bool {
        self.ram.iter().any(|range| range.contains(at, length))
    }

    /// All frames of RAM.
    pub fn frames(&self) -> u64 {
        self.ram.iter().map(PhysRange::frames).sum()
    }
}

/// How the kernel half is to be shared: what the user asked for, which is what the guest is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The strategy that was asked for.
    pub strategy: Strategy,
}

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
    pub root: GuestPhys,
    #[serde(flatten)]
    pub life: Life,
    /// The event that told its birth.
    pub born: u64,
}

/// Kernel memory that the guest says is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allocation {
    pub range: VirtRange,
    pub writable: bool,
    /// In whose system call it was made.
    pub maker: u32,
    /// The frames of its pages, as found in the maker's tables when it was made.
    pub frames: Vec<Pfn>,
    /// The event that told of it.
    pub made: u64,
    #[serde(skip)]
    values: BTreeMap<u64, u64>,
}

impl Allocation {
    /// The address of each page.
    pub fn pages(&self) -> impl Iterator<Item = GuestVirt> + use<> {
        let (first, pages) = (self.range.first, self.range.bytes() / PAGE_SIZE);
        (0..pages).map(move |page| first.wrapping_add(page * PAGE_SIZE))
    }

    /// What was last written at `address`; fresh memory is zero.
    pub fn value_at(&self, address: u64) -> u64 {
        self.values.get(&address).copied().unwrap_or(0)
    }
}

/// The state of the guest, as far as it is told or known.
pub struct World {
    truth: GroundTruth,
    expectation: Expectation,
    kernel_root: Option<GuestPhys>,
    machine: Vec<&'static str>,
    processes: BTreeMap<u32, ProcessRecord>,
    allocations: BTreeMap<u64, Allocation>,
    revoked: BTreeMap<u64, VirtRange>,
    /// Claims that contradict what was told before, of the present event.
    contradictions: Vec<String>,
    next_sequence: BTreeMap<u32, u64>,
    events: u64,
}

impl World {
    /// Before the guest has told anything.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> World {
        World {
            truth,
            expectation,
            kernel_root: None,
            machine: Vec::new(),
            processes: BTreeMap::new(),
            allocations: BTreeMap::new(),
            revoked: BTreeMap::new(),
            contradictions: Vec::new(),
            next_sequence: BTreeMap::new(),
            events: 0,
        }
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

    /// All processes that ever were, by number.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessRecord> {
        self.processes.values()
    }

    /// Processes that have an address space.
    pub fn live(&self) -> impl Iterator<Item = &ProcessRecord> {
        self.processes()
            .filter(|process| process.life == Life::Live)
    }

    /// One process.
    pub fn process(&self, pid: u32) -> Option<&ProcessRecord> {
        self.processes.get(&pid)
    }

    /// Kernel memory that is mapped, ascending.
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.values()
    }

    /// The allocation that `address` lies in.
    pub fn allocation_of(&self, address: GuestVirt) -> Option<&Allocation> {
        let (_, allocation) = self.allocations.range(..=address.get()).next_back()?;
        allocation.range.contains(address).then_some(allocation)
    }

    /// Ranges that were freed and not mapped again.
    pub fn revoked(&self) -> impl Iterator<Item = VirtRange> {
        self.revoked.values().copied()
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
    pub fn kernel_root(&self) -> Option<GuestPhys> {
        self.kernel_root
    }

    /// The root that CR3 must hold in the address space of `pid`.
    pub fn root_of(&self, pid: u32) -> Option<GuestPhys> {
        match label(pid) {
            RootLabel::Process(pid) => {
                let process = self.processes.get(&pid)?;
                (process.life == Life::Live).then_some(process.root)
            }
            _ => self.kernel_root,
        }
    }

    /// Every address space: the kernel's own first, then the living processes' by number.
    pub fn roots(&self) -> Vec<(RootLabel, GuestPhys)> {
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
        let expected = self
            .next_sequence
            .insert(told.cpu, told.sequence + 1)
            .unwrap_or(0);
        if told.sequence != expected {
            let (sequence, cpu) = (told.sequence, told.cpu);
            self.contradict(format!(
                "event {sequence} of CPU {cpu} follows event {expected} − 1"
            ));
        }
        match &told.claim {
            Claim::Boot { root, machine, .. } => {
                if self.kernel_root.replace(*root).is_some() {
                    self.contradict("the kernel booted twice".into());
                }
                self.machine.clone_from(machine);
            }
            Claim::ProcessCreated {
                child,
                parent,
                root,
            } => {
                self.create(told.sequence, *child, *parent, *root);
            }
            Claim::ProcessExited {
                process, status, ..
            } => self.end(*process, *status),
            Claim::KernelMapped {
                address,
                pages,
                writable,
                ..
            } => {
                self.map(told, *address, *pages, *writable);
            }
            Claim::KernelUnmapped { address, pages } => self.unmap(*address, *pages),
            Claim::KernelProtected {
                address, writable, ..
            } => match self.allocations.get_mut(&address.get()) {
                Some(allocation) => allocation.writable = *writable,
                None => self.contradict(format!("no kernel memory was mapped at {address:#x}")),
            },
            _ => {}
        }
    }

    /// Takes in what the tables show of the present event: the frames of a new allocation, as the
    /// maker's address space has them, and what was written to it.
    pub(super) fn witness(&mut self, told: &Told, snapshot: &Snapshot) {
        match told.claim {
            Claim::KernelMapped { address, .. } => {
                let Some(root) = snapshot.root_of(told.label()) else {
                    return;
                };
                if let Some(allocation) = self.allocations.get_mut(&address.get()) {
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
                let allocation = self
                    .allocations
                    .range_mut(..=address)
                    .next_back()
                    .map(|(_, allocation)| allocation)
                    .filter(|allocation| allocation.range.contains(GuestVirt::new(address)));
                if let Some(allocation) = allocation {
                    allocation.values.insert(address, value);
                }
            }
            _ => {}
        }
    }

    fn create(&mut self, event: u64, child: u32, parent: u32, root: GuestPhys) {
        if self.live().any(|process| process.pid == child) {
            self.contradict(format!("process {child} was created and lives already"));
        }
        let owner = self
            .live()
            .find(|process| process.root == root)
            .map(|process| process.pid);
        if let Some(other) = owner {
            self.contradict(format!("process {child} has the root of process {other}"));
        }
        let generation = match self.processes.get(&parent) {
            Some(parent) => parent.generation + 1,
            None => 1,
        };
        if generation == 1 && parent != heirloom_abi::event::KERNEL_PID {
            self.contradict(format!(
                "process {child} has a parent, {parent}, that never was"
            ));
        }
        let record = ProcessRecord {
            pid: child,
            parent,
            generation,
            root,
            life: Life::Live,
            born: event,
        };
        self.processes.insert(child, record);
    }

    fn end(&mut self, pid: u32, status: u64) {
        match self.processes.get_mut(&pid) {
            Some(process) if process.life == Life::Live => process.life = Life::Ended { status },
            _ => self.contradict(format!("process {pid} ended and did not live")),
        }
    }

    fn map(&mut self, told: &Told, address: GuestVirt, pages: u64, writable: bool) {
        let bytes = pages.checked_mul(PAGE_SIZE).filter(|bytes| *bytes > 0);
        let range = bytes.and_then(|bytes| VirtRange::new(address, bytes));
        let Some(range) = range.filter(|range| range.bytes() <= MOST_ALLOCATION) else {
            self.contradict(format!(
                "{pages} pages of kernel memory at {address:#x} cannot be"
            ));
            return;
        };
        if self
            .allocations
            .values()
            .any(|other| other.range.overlaps(&range))
        {
            self.contradict(format!("kernel memory at {address:#x} was mapped already"));
        }
        // What is mapped again is no longer revoked, page for page.
        let overlapping: Vec<VirtRange> = self
            .revoked()
            .filter(|revoked| revoked.overlaps(&range))
            .collect();
        for revoked in overlapping {
            self.revoked.remove(&revoked.first.get());
            for rest in without(revoked, range) {
                self.revoked.insert(rest.first.get(), rest);
            }
        }
        let allocation = Allocation {
            range,
            writable,
            maker: told.pid,
            frames: Vec::new(),
            made: told.sequence,
            values: BTreeMap::new(),
        };
        self.allocations.insert(address.get(), allocation);
    }

    fn unmap(&mut self, address: GuestVirt, pages: u64) {
        match self.allocations.remove(&address.get()) {
            Some(allocation) if allocation.range.bytes() == pages.saturating_mul(PAGE_SIZE) => {
                self.revoked.insert(address.get(), allocation.range);
            }
            Some(allocation) => {
                self.contradict(format!(
                    "kernel memory at {address:#x} has not {pages} pages"
                ));
                self.revoked.insert(address.get(), allocation.range);
            }
            None => self.contradict(format!("no kernel memory was mapped at {address:#x}")),
        }
    }

    fn contradict(&mut self, what: String) {
        self.contradictions.push(what);
    }
}

/// Most bytes of one allocation; a greater claim is no allocation, so that what must be looked at for
/// one event has a bound.
const MOST_ALLOCATION: u64 = 1 << 28;

/// What is left of `range` without `hole`.
fn without(range: VirtRange, hole: VirtRange) -> impl Iterator<Item = VirtRange> {
    let below = (range.first < hole.first).then(|| VirtRange {
        first: range.first,
        last: GuestVirt::new(hole.first.get() - 1),
    });
    let above = (range.last > hole.last).then(|| VirtRange {
        first: GuestVirt::new(hole.last.get() + 1),
        last: range.last,
    });
    below.into_iter().chain(above)
}
