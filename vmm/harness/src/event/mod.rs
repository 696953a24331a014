//! What the guest kernel reports: it fills its probe page and rings the doorbell. An event is a claim;
//! what it claims is checked against CR3 and the page tables.

mod describe;

pub use describe::describe;

use heirloom_abi::event::{self as abi, KERNEL_PID, ProbePage};
use heirloom_abi::options::Strategy;
use serde::Serialize;

use heirloom_inspect::RootLabel;
use heirloom_inspect::paging::addr::{Pfn, PhysAddr, VirtAddr};
use heirloom_inspect::paging::entry::Entry;

/// The probe page holds no event.
pub type MalformedEvent = abi::Malformed;

/// One event: who told it, when, what, and the counters of that moment. All of it is claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// As a page has it: counts the CPU's events from 0. Of an event that was taken in, from a run or a recording:
    /// counts those of all CPUs.
    pub sequence: u64,
    /// The CPU that reports.
    pub cpu: u32,
    /// The process whose address space the CPU has, 0 for the kernel's own.
    pub pid: u32,
    /// What it says.
    #[serde(flatten)]
    pub claim: EventKind,
    /// The guest's running totals.
    pub counters: Counters,
}

/// What the event says.
#[expect(missing_docs, reason = "heirloom_abi::event documents the fields")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EventKind {
    /// The kernel is up.
    Boot {
        root: PhysAddr,
        vmalloc_start: VirtAddr,
        strategy: Option<&'static str>,
        /// What the kernel found and uses.
        machine: Vec<&'static str>,
        /// Where the first CPU's log of flushes is.
        #[serde(skip)]
        flush_log: Option<PhysAddr>,
    },
    /// A process has its address space, and has not run yet.
    ProcessCreated {
        child: u32,
        parent: u32,
        root: PhysAddr,
    },
    /// A process has another program.
    ProcessExecuted { process: u32 },
    /// A process has ended, and its address space is gone.
    ProcessExited {
        process: u32,
        status: u64,
        root: PhysAddr,
    },
    /// A process will be ended for what it did.
    ProcessKilled {
        process: u32,
        vector: u64,
        error_code: u64,
        rip: VirtAddr,
        address: VirtAddr,
    },
    /// Kernel memory was mapped; `frames` of its first pages.
    KernelMapped {
        address: VirtAddr,
        pages: u64,
        writable: bool,
        frames: Vec<Pfn>,
    },
    /// Kernel memory was unmapped.
    KernelUnmapped { address: VirtAddr, pages: u64 },
    /// Kernel memory has other permissions.
    KernelProtected {
        address: VirtAddr,
        pages: u64,
        writable: bool,
    },
    /// The kernel accessed kernel memory in the process's address space.
    KernelAccess {
        #[serde(serialize_with = "hexadecimal")]
        address: u64,
        #[serde(serialize_with = "hexadecimal")]
        value: u64,
        write: bool,
        /// The page-fault error code, if the CPU faulted.
        fault: Option<u64>,
    },
    /// A user page fault was handled: the leaf entry that was written, and where.
    PageFaultHandled {
        process: u32,
        address: VirtAddr,
        error_code: u64,
        entry_address: VirtAddr,
        before: Entry,
        after: Entry,
    },
    /// The program says how far it is.
    Checkpoint { text: String },
    /// The kernel cannot go on.
    Crash {
        vector: Option<u64>,
        error_code: u64,
        rip: VirtAddr,
        rbp: VirtAddr,
        address: VirtAddr,
    },
    /// The first process has ended.
    Done { status: u64 },
}

/// The guest's running totals; see `heirloom_abi::event::Counters` for what each counts.
#[expect(missing_docs, reason = "heirloom_abi::event documents the fields")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub frames_total: u64,
    pub frames_free: u64,
    pub frames_table: u64,
    pub frames_user: u64,
    pub frames_kernel: u64,
    pub frames_reserved: u64,
    pub processes_live: u64,
    pub processes_zombie: u64,
    pub kernel_entry_writes: u64,
    pub kernel_pgd_writes: u64,
    pub user_entry_writes: u64,
    pub kernel_faults: u64,
    pub user_faults: u64,
    pub cr3_loads: u64,
    pub page_flushes: u64,
    pub system_calls: u64,
    pub timer_interrupts: u64,
    pub shootdown_interrupts: u64,
    pub remote_flushes: u64,
    /// The guest's time-stamp counter.
    pub cycles: u64,
}

impl Event {
    /// Reads the bytes of a probe page.
    ///
    /// # Errors
    /// [`MalformedEvent`], whatever the bytes are.
    pub fn from_bytes(bytes: [u8; size_of::<ProbePage>()]) -> Result<Event, MalformedEvent> {
        Event::decode(&zerocopy::transmute!(bytes))
    }

    /// Reads a probe page.
    ///
    /// # Errors
    /// [`MalformedEvent`], whatever the bytes are.
    pub fn decode(page: &ProbePage) -> Result<Event, MalformedEvent> {
        let claim = EventKind::of(page.decode()?);
        let header = &page.header;
        Ok(Event {
            sequence: header.sequence,
            cpu: header.cpu,
            pid: header.pid,
            claim,
            counters: Counters::of(&page.counters),
        })
    }

    /// Whose address space the CPU has, if the guest tells the truth.
    pub fn label(&self) -> RootLabel {
        label(self.pid)
    }
}

/// The label of process `pid`; 0 is the kernel itself.
pub(crate) fn label(pid: u32) -> RootLabel {
    if pid == KERNEL_PID {
        RootLabel::Kernel
    } else {
        RootLabel::Process(pid)
    }
}

impl EventKind {
    fn of(event: abi::Event<'_>) -> EventKind {
        // Process numbers are 32 bits wide; a greater one is no process.
        let pid = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        match event {
            abi::Event::Boot(boot) => EventKind::Boot {
                root: PhysAddr::new(boot.root),
                vmalloc_start: VirtAddr::new(boot.vmalloc_start),
                strategy: usize::try_from(boot.strategy)
                    .ok()
                    .and_then(|index| Strategy::ALL.get(index))
                    .map(|strategy| strategy.name()),
                machine: abi::machine::NAMES
                    .into_iter()
                    .filter(|(_, bit)| boot.machine & bit != 0)
                    .map(|(name, _)| name)
                    .collect(),
                flush_log: (boot.flush_log != 0).then_some(PhysAddr::new(boot.flush_log)),
            },
            abi::Event::ProcessCreated(created) => EventKind::ProcessCreated {
                child: pid(created.pid),
                parent: pid(created.parent),
                root: PhysAddr::new(created.root),
            },
            abi::Event::ProcessExecuted(executed) => EventKind::ProcessExecuted {
                process: pid(executed.pid),
            },
            abi::Event::ProcessExited(exited) => EventKind::ProcessExited {
                process: pid(exited.pid),
                status: exited.status,
                root: PhysAddr::new(exited.root),
            },
            abi::Event::ProcessKilled(killed) => EventKind::ProcessKilled {
                process: pid(killed.pid),
                vector: killed.vector,
                error_code: killed.error_code,
                rip: VirtAddr::new(killed.rip),
                address: VirtAddr::new(killed.address),
            },
            abi::Event::KernelMapped(mapped, frames) => EventKind::KernelMapped {
                address: VirtAddr::new(mapped.address),
                pages: mapped.pages,
                writable: is_writable(mapped.protection),
                frames: frames.iter().map(|frame| Pfn::new(*frame)).collect(),
            },
            abi::Event::KernelUnmapped(unmapped) => EventKind::KernelUnmapped {
                address: VirtAddr::new(unmapped.address),
                pages: unmapped.pages,
            },
            abi::Event::KernelProtected(protected) => EventKind::KernelProtected {
                address: VirtAddr::new(protected.address),
                pages: protected.pages,
                writable: is_writable(protected.protection),
            },
            abi::Event::KernelAccess(access) => EventKind::KernelAccess {
                address: access.address,
                value: access.value,
                write: access.write != 0,
                fault: (access.faulted != 0).then_some(access.error_code),
            },
            abi::Event::PageFaultHandled(handled) => EventKind::PageFaultHandled {
                process: pid(handled.pid),
                address: VirtAddr::new(handled.address),
                error_code: handled.error_code,
                entry_address: VirtAddr::new(handled.entry_address),
                before: Entry::new(handled.before),
                after: Entry::new(handled.after),
            },
            abi::Event::Checkpoint(text) => EventKind::Checkpoint {
                text: text.to_owned(),
            },
            abi::Event::Crash(crash) => EventKind::Crash {
                vector: (crash.vector != abi::Crash::PANIC).then_some(crash.vector),
                error_code: crash.error_code,
                rip: VirtAddr::new(crash.rip),
                rbp: VirtAddr::new(crash.rbp),
                address: VirtAddr::new(crash.address),
            },
            abi::Event::Done(done) => EventKind::Done {
                status: done.status,
            },
        }
    }
}

fn is_writable(protection: u64) -> bool {
    protection & heirloom_abi::syscall::PROT_WRITE != 0
}

impl Counters {
    fn of(page: &abi::Counters) -> Counters {
        Counters {
            frames_total: page.frames_total,
            frames_free: page.frames_free,
            frames_table: page.frames_table,
            frames_user: page.frames_user,
            frames_kernel: page.frames_kernel,
            frames_reserved: page.frames_reserved,
            processes_live: page.processes_live,
            processes_zombie: page.processes_zombie,
            kernel_entry_writes: page.kernel_entry_writes,
            kernel_pgd_writes: page.kernel_pgd_writes,
            user_entry_writes: page.user_entry_writes,
            kernel_faults: page.kernel_faults,
            user_faults: page.user_faults,
            cr3_loads: page.cr3_loads,
            page_flushes: page.page_flushes,
            system_calls: page.system_calls,
            timer_interrupts: page.timer_interrupts,
            shootdown_interrupts: page.shootdown_interrupts,
            remote_flushes: page.remote_flushes,
            cycles: page.cycles,
        }
    }
}

// serde passes fields by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn hexadecimal<S: serde::Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}
