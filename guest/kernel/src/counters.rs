//! What the kernel counts of its own work. Only the holder of the kernel's lock counts, so plain loads and stores do.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
