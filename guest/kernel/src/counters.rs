//! What the kernel counts of its own work. Only the holder of the kernel's lock counts, so plain loads and stores do;
//! or each CPU for itself.

use crate::arch::cpu;
use crate::smp;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use heirloom_abi::options::MAX_CPUS;

/// One thing that is counted; see `heirloom_abi::event::Counters`.
#[derive(Clone, Copy)]
pub enum Counter {
    KernelEntryWrites,
    KernelPgdWrites,
    UserEntryWrites,
    KernelFaults,
    UserFaults,
    Cr3Loads,
    PageFlushes,
    SystemCalls,
    TimerInterrupts,
    ShootdownInterrupts,
}

const COUNT: usize = Counter::ShootdownInterrupts as usize + 1;

/// Running totals since boot.
pub struct Counters([AtomicU64; COUNT]);

/// This machine's totals.
pub static COUNTERS: Counters = Counters([const { AtomicU64::new(0) }; COUNT]);

impl Counters {
    pub fn add(&self, counter: Counter) {
        self.add_many(counter, 1);
    }

    pub fn add_many(&self, counter: Counter, more: u64) {
        let total = &self.0[counter as usize];
        total.store(total.load(Relaxed) + more, Relaxed);
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Relaxed)
    }
}

/// Timer interrupts for which nothing was to be done, of each CPU, which counts its own.
static IDLE_TICKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// The timer has interrupted ring 3 on this CPU, and nothing was to be done.
pub fn note_idle_tick() {
    let ticks = &IDLE_TICKS[cpu::id()];
    ticks.store(ticks.load(Relaxed) + 1, Relaxed);
}

/// How often that was so, on all CPUs.
pub fn idle_ticks() -> u64 {
    let ticks = IDLE_TICKS.iter().take(smp::count());
    ticks.map(|ticks| ticks.load(Relaxed)).sum()
}
