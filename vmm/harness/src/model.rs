//! What must be so in our own guest if it tells the truth: its claims, decoded into a [`History`].

use std::collections::BTreeMap;

use heirloom_abi::event::KERNEL_PID;
use heirloom_abi::layout::Region as GuestRegion;
use heirloom_abi::propagation::{Promise, Strategy};

use crate::event::{Counters, Event, EventKind};
use crate::flush_log::FlushReader;
use crate::region;
use heirloom_inspect::history::{
    Access, Allocation, CpuAsked, GroundTruth, History, Present, ProcessRecord, Sharing, Writes,
};
use heirloom_inspect::index::TableIndex;
use heirloom_inspect::layout::{Area, Region};
use heirloom_inspect::profile::Name;
use heirloom_inspect::{CpuState, Depth, PhysAddr, PhysicalMemory};
use heirloom_inspect::{RootLabel, Snapshot};

/// How the kernel half is to be shared: what the user asked for, which is what the guest is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The strategy that was asked for.
    pub strategy: Strategy,
}

impl Expectation {
    /// What the strategy promises. `none` is held to what a kernel owes, which it breaks.
    pub fn sharing(self) -> Sharing {
        match self.strategy.promise() {
            Promise::SharedTables => Sharing::Entries,
            Promise::EntriesOnFault => Sharing::EntriesOnFault,
            Promise::PrivateCopies => Sharing::Copies,
            Promise::EntryAreaOnly => Sharing::EntryAreaOnly,
        }
    }
}

/// The areas of our own guest's address space, where its page tables are so deep.
pub fn areas(depth: Depth) -> Vec<Region> {
    let area = |of| match of {
        GuestRegion::User => Area::User,
        GuestRegion::Ldt => Area::Ldt,
        GuestRegion::DirectMap => Area::DirectMap,
        GuestRegion::Vmalloc => Area::Vmalloc,
        GuestRegion::Vmemmap => Area::Vmemmap,
        GuestRegion::CpuEntryArea => Area::CpuEntryArea,
        GuestRegion::KernelImage => Area::KernelImage,
    };
    let regions = GuestRegion::ALL.into_iter();
    regions
        .map(|of| Region {
            area: area(of),
            name: Name::fixed(area(of).name()),
            range: region::range_of_region(of, depth),
            evidence: "the guest's layout".into(),
        })
        .collect()
}

/// The state of the guest, as far as it is told or known.
pub struct Model {
    history: History,
    expectation: Expectation,
    /// How deep the page tables were at the last event.
    depth: Depth,
    /// The counters of the boot event.
    at_boot: Option<Counters>,
    machine: Vec<&'static str>,
    /// Where the first CPU's log of flushes is.
    flush_log: Option<PhysAddr>,
    /// The logs that are read, by CPU.
    flush_logs: Vec<FlushReader>,
    /// Entries that had been written at the last event whose tables were looked at.
    written: Writes,
    next_sequence: BTreeMap<u32, u64>,
    /// The CPUs on which each process has told something, a bit for each.
    ran_on: BTreeMap<u32, u64>,
    events: u64,
    done: bool,
}

impl Model {
    /// Before the guest has told anything.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> Model {
        Model {
            history: History::new(truth, expectation.sharing(), areas(Depth::Four)),
            expectation,
            depth: Depth::Four,
            at_boot: None,
            machine: Vec::new(),
            flush_log: None,
            flush_logs: Vec::new(),
            written: Writes::default(),
            next_sequence: BTreeMap::new(),
            ran_on: BTreeMap::new(),
            events: 0,
            done: false,
        }
    }

    /// What must be so.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Whether the guest said that its first process has ended.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// What the host knows without asking the guest.
    pub fn truth(&self) -> &GroundTruth {
        self.history.truth()
    }

    /// What was asked for.
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

    /// The number of the present event, from 0, whichever CPU told it. A CPU's own count says how many of its own
    /// came before.
    pub fn number(&self) -> u64 {
        self.events.saturating_sub(1)
    }

    /// Events that CPU `cpu` says it has told.
    pub fn events_of(&self, cpu: u32) -> u64 {
        self.next_sequence.get(&cpu).copied().unwrap_or(0)
    }

    /// Processes that have told something on more than one CPU.
    pub fn migrated(&self) -> usize {
        let cpus = self.ran_on.values();
        cpus.filter(|cpus| cpus.count_ones() > 1).count()
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// As [`History::processes`].
    pub fn processes(&self) -> impl Iterator<Item = &ProcessRecord> {
        self.history.processes()
    }

    /// As [`History::process`].
    pub fn process(&self, pid: u32) -> Option<&ProcessRecord> {
        self.history.process(pid)
    }

    /// As [`History::live_count`].
    pub fn live_count(&self) -> usize {
        self.history.live_count()
    }

    /// As [`History::allocations`].
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.history.allocations()
    }

    /// As [`History::contradictions`].
    pub fn contradictions(&self) -> &[String] {
        self.history.contradictions()
    }

    /// Every address space: the kernel's own first, then the living processes' by number.
    pub fn roots(&self) -> &[(RootLabel, PhysAddr)] {
        self.history.roots()
    }

    /// Takes an event in.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.events += 1;
        self.history.begin(present(event, self.number()));
        self.count_on(event);
        let history = &mut self.history;
        match &event.claim {
            EventKind::Boot {
                root,
                machine,
                flush_log,
                ..
            } => {
                history.boot(*root);
                self.flush_log = *flush_log;
                self.flush_logs.clear();
                machine.clone_into(&mut self.machine);
                self.at_boot = Some(event.counters);
            }
            EventKind::Crash { .. } => {}
            _ if history.kernel_root().is_none() => {
                history.contradict("the kernel has not booted yet");
            }
            _ => {}
        }
        match event.claim {
            EventKind::Done { .. } => self.done = true,
            EventKind::ProcessCreated {
                child,
                parent,
                root,
            } => history.create(child, parent, root),
            EventKind::ProcessExited {
                process,
                status,
                root,
            } => history.end(process, status, root),
            EventKind::ProcessExecuted { process } | EventKind::ProcessKilled { process, .. } => {
                history.must_live(process);
            }
            EventKind::KernelMapped {
                address,
                pages,
                writable,
                ..
            } => history.map(address, pages, writable),
            EventKind::KernelUnmapped { address, pages } => history.unmap(address, pages),
            EventKind::KernelProtected {
                address,
                pages,
                writable,
            } => history.protect(address, pages, writable),
            _ => {}
        }
    }

    /// Takes in what tables and memory show of the event that came last.
    pub(crate) fn witness<M: PhysicalMemory + ?Sized>(&mut self, snapshot: &Snapshot, memory: &M) {
        // CR4 tells it, and not before the guest has turned paging on.
        let depth = snapshot.mode().depth;
        if depth != self.depth {
            self.depth = depth;
            self.history.set_areas(areas(depth));
        }
        self.history.witness(snapshot, memory);
    }

    /// Takes in what the tables no longer say.
    pub(crate) fn see_tables(&mut self, index: &TableIndex) {
        self.history.see_tables(index);
    }

    /// Takes in how the CPUs stand at the event that came last.
    pub(crate) fn see_cpus<M: PhysicalMemory + ?Sized>(
        &mut self,
        event: &Event,
        cpus: &[CpuState],
        index: &TableIndex,
        memory: &M,
    ) {
        if matches!(event.claim, EventKind::Crash { .. }) {
            // A kernel that cannot go on may have stopped between a write and its flush.
            return;
        }
        let pcide = index.snapshot().mode().pcide;
        let logs = self.flush_logs_of(cpus.len());
        let asked: Vec<CpuAsked> = (0..)
            .zip(cpus.iter().zip(logs))
            .map(|(cpu, (state, log))| CpuAsked {
                cpu,
                root: state.cr3.root(),
                pcid: if pcide { state.cr3.pcid() } else { 0 },
                flushes: log.read(memory, pcide),
            })
            .collect();
        let now = Writes {
            kernel: event.counters.kernel_entry_writes,
            user: event.counters.user_entry_writes,
        };
        let before = std::mem::replace(&mut self.written, now);
        self.history.see_cpus((&asked, before), index, memory);
    }

    /// Reads on in the logs of flushes of so many CPUs, where nothing is judged.
    pub(crate) fn pass_over_flushes<M: PhysicalMemory + ?Sized>(
        &mut self,
        (cpus, pcide): (usize, bool),
        memory: &M,
    ) {
        for log in self.flush_logs_of(cpus) {
            log.read(memory, pcide);
        }
    }

    /// The logs of so many CPUs; none if the kernel keeps none.
    fn flush_logs_of(&mut self, cpus: usize) -> &mut [FlushReader] {
        if let Some(first) = self.flush_log {
            let known = u32::try_from(self.flush_logs.len()).unwrap_or(u32::MAX);
            let new = (known..).take(cpus.saturating_sub(self.flush_logs.len()));
            self.flush_logs
                .extend(new.map(|cpu| FlushReader::new(first, cpu)));
        }
        &mut self.flush_logs
    }

    fn count_on(&mut self, event: &Event) {
        let (sequence, cpu) = (event.sequence, event.cpu);
        let next = sequence.wrapping_add(1);
        if event.pid != KERNEL_PID {
            *self.ran_on.entry(event.pid).or_default() |= 1_u64.checked_shl(cpu).unwrap_or(0);
        }
        let expected = self.next_sequence.insert(cpu, next).unwrap_or(0);
        if sequence != expected {
            self.history.contradict(format!(
                "CPU {cpu} tells event {sequence} where event {expected} was to come"
            ));
        }
    }
}

/// What of an event the rules look at.
fn present(event: &Event, number: u64) -> Present {
    let mut present = Present {
        sequence: number,
        pid: event.pid,
        ..Present::default()
    };
    match event.claim {
        EventKind::KernelMapped { address, pages, .. } => present.mapped = Some((address, pages)),
        EventKind::ProcessKilled { rip, .. } => present.ring_3_rip = Some(rip),
        EventKind::KernelAccess {
            address,
            value,
            write,
            fault,
        } => {
            present.access = Some(Access {
                address,
                value,
                write,
                fault,
                in_memory: None,
            });
        }
        _ => {}
    }
    present
}
