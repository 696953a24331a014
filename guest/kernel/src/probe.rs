//! Telling the host what happened: fills in the probe page and rings the doorbell.

use crate::arch::{cpu, local, serial};
use crate::counters::{self, COUNTERS, Counter};
use crate::fault_injection::inject;
use crate::kernel::Kernel;
use crate::mm::{VirtAddr, direct_map};
use crate::process::lifecycle::FIRST;
use crate::smp::shootdown;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;
use heirloom_abi::event::{
    Counters, DOORBELL_PORT, Done, Header, KERNEL_PID, MAGIC, PAYLOAD_WORDS, Payload, ProbePage,
    VERSION,
};
use heirloom_abi::options;
use x86_64::instructions::port::PortWriteOnly;

struct Page(UnsafeCell<ProbePage>);

// SAFETY: only `ring` touches it, on the first CPU, with interrupts off.
unsafe impl Sync for Page {}

static FIRST_PAGE: Page = Page(UnsafeCell::new(EMPTY));

/// A page of which nothing has been told yet.
pub const EMPTY: ProbePage = ProbePage {
    header: Header {
        magic: MAGIC,
        version: VERSION,
        kind: 0,
        // One more, and it is the first.
        sequence: u64::MAX,
        cpu: 0,
        pid: 0,
        list_words: 0,
        reserved: 0,
    },
    counters: Counters {
        frames_total: 0,
        frames_free: 0,
        frames_table: 0,
        frames_user: 0,
        frames_kernel: 0,
        frames_reserved: 0,
        processes_live: 0,
        processes_zombie: 0,
        kernel_entry_writes: 0,
        kernel_pgd_writes: 0,
        user_entry_writes: 0,
        kernel_faults: 0,
        user_faults: 0,
        cr3_loads: 0,
        page_flushes: 0,
        timer_interrupts: 0,
        system_calls: 0,
        cycles: 0,
        shootdown_interrupts: 0,
        remote_flushes: 0,
    },
    payload: [0; PAYLOAD_WORDS],
};

/// The address of the first CPU's page.
pub fn first_page() -> u64 {
    FIRST_PAGE.0.get() as u64
}

static ENABLED: AtomicBool = AtomicBool::new(false);
/// The serial port that is the doorbell, or 0.
static SERIAL: AtomicU16 = AtomicU16::new(0);
static FAULTS: AtomicBool = AtomicBool::new(false);

/// From now on a host listens, as the value of `probe=` says where.
///
/// # Panics
/// If it names a port that is none.
pub fn enable(way: &str) {
    if let Some(port) = way.strip_prefix(options::PROBE_SERIAL) {
        let port = port.strip_prefix(':').map_or(DOORBELL_PORT, |port| {
            let number = options::parse_number(port).and_then(|port| u16::try_from(port).ok());
            let port = number.expect("probe=serial: names a port");
            // One that any PC has, and nobody has set up.
            serial::set_up(port);
            port
        });
        SERIAL.store(port, Relaxed);
    }
    ENABLED.store(true, Relaxed);
}

/// Whether a host listens.
pub fn enabled() -> bool {
    ENABLED.load(Relaxed)
}

/// From now on the host hears of user page faults too.
pub fn enable_faults() {
    FAULTS.store(true, Relaxed);
}

/// Whether the host hears of user page faults.
pub fn faults_enabled() -> bool {
    FAULTS.load(Relaxed)
}

/// Tells one event. `counters` is `None` where the kernel's state cannot be read any more.
pub fn ring<P: Payload>(pid: u32, payload: &P, list: &[u64], counters: Option<Counters>) {
    if !enabled() {
        return;
    }
    let address = VirtAddr::new(local::probe_page());
    // SAFETY: the page is this CPU's own, and `ring` does not call itself.
    let page = unsafe { &mut *(address.get() as *mut ProbePage) };
    page.header.pid = pid;
    page.header.cpu = cpu::number();
    page.header.sequence = page.header.sequence.wrapping_add(1);
    if let Some(counters) = counters {
        page.counters = counters;
    }
    let room = page.list_mut::<P>();
    let length = list.len().min(room.len());
    room[..length].copy_from_slice(&list[..length]);
    page.set(payload, u32::try_from(length).unwrap_or(0));

    let frame = u32::try_from(direct_map::physical_of(address).pfn().get())
        .expect("the boot gives out low memory first");
    // The host reads the page while this CPU stands in `out`, or waits; ports are opaque to the compiler,
    // so every store above comes before it.
    let serial = SERIAL.load(Relaxed);
    if serial != 0 {
        serial::send_word(serial, frame);
        serial::receive(serial);
    } else {
        // SAFETY: the doorbell does nothing to this machine.
        unsafe { PortWriteOnly::<u32>::new(DOORBELL_PORT).write(frame) };
    }
}

impl Kernel {
    /// Tells the host an event of the current process.
    pub fn emit<P: Payload>(&self, payload: &P, list: &[u64]) {
        if enabled() {
            let lies = inject(Bug::LyingPid) && cpu::current() != KERNEL_PID;
            let pid = if lies { FIRST } else { cpu::current() };
            ring(pid, payload, list, Some(self.counters()));
        }
    }

    /// Tells the host that the run is over, and stops.
    pub fn finish(&self, done: Done) -> ! {
        self.emit(&done, &[]);
        if let Some(port) = self.options.exit_port {
            let status = u32::try_from(done.status >> 8).unwrap_or(u32::MAX);
            Kernel::leave_through(port, status);
        }
        crate::arch::cpu::halt()
    }

    /// Ends the machine with `status` through `port`, if it is one that does: QEMU's
    /// isa-debug-exit, which makes 2n + 1 of n.
    pub fn leave_through(port: u16, status: u32) {
        // SAFETY: the command line names the port that ends the machine.
        unsafe { PortWriteOnly::<u32>::new(port).write(status) };
    }

    fn counters(&self) -> Counters {
        let usage = self.frames.usage();
        let idle_ticks = counters::idle_ticks();
        // Where the kernel has a root of its own, one on the way in, one on the way out.
        let loads_at_ticks = if self.space.isolates() { 2 } else { 0 } * idle_ticks;
        Counters {
            frames_total: usage.total,
            frames_free: usage.free,
            frames_table: usage.table - u64::from(inject(Bug::LyingCounter)),
            frames_user: usage.user,
            frames_kernel: usage.kernel,
            frames_reserved: usage.reserved,
            processes_live: self.processes.live(),
            processes_zombie: self.processes.zombies(),
            kernel_entry_writes: COUNTERS.get(Counter::KernelEntryWrites),
            kernel_pgd_writes: COUNTERS.get(Counter::KernelPgdWrites),
            user_entry_writes: COUNTERS.get(Counter::UserEntryWrites),
            kernel_faults: COUNTERS.get(Counter::KernelFaults),
            user_faults: COUNTERS.get(Counter::UserFaults),
            cr3_loads: COUNTERS.get(Counter::Cr3Loads) + loads_at_ticks,
            page_flushes: COUNTERS.get(Counter::PageFlushes),
            system_calls: COUNTERS.get(Counter::SystemCalls),
            timer_interrupts: COUNTERS.get(Counter::TimerInterrupts) + idle_ticks,
            cycles: cpu::cycles(),
            shootdown_interrupts: COUNTERS.get(Counter::ShootdownInterrupts),
            remote_flushes: shootdown::answered(),
        }
    }
}
