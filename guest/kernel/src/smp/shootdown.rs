//! Shootdown: when an entry loses something, every CPU that may remember it drops it before the frame is reused.
//!
//! Whoever changes entries holds the kernel's lock, so there is one request at a time: the pages that changed,
//! and for each CPU whether it still has to drop them. A CPU learns of it
//!
//! - by an interrupt, in ring 3;
//! - by looking itself, while it waits for the lock, so that no interrupt is sent;
//! - when it wakes, if it sleeps: it is on the kernel's root then, touches no page that comes and goes, and drops
//!   all that it remembers before it goes on. Until then nothing waits for it.

use super::{count, sleepers};
use crate::arch::entry::SHOOTDOWN_VECTOR;
use crate::arch::{apic, cpu, flush_log};
use crate::counters::{COUNTERS, Counter};
use crate::crash;
use crate::fault_injection::inject;
use crate::mm::VirtAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::options::MAX_CPUS;

/// More pages than these are dropped by dropping everything.
const MOST_PAGES: u64 = 32;

/// What one CPU is asked, and how it stands. A line of the cache for each, so that they do not get into each
/// other's way.
#[repr(align(64))]
struct Standing {
    /// It has yet to drop [`PAGES`].
    asked: AtomicBool,
    /// It waits for the kernel's lock, and looks for requests.
    waits: AtomicBool,
    /// What it remembers from before it slept may be wrong.
    stale: AtomicBool,
    /// How often it was asked and dropped something.
    answered: AtomicU64,
}

static CPUS: [Standing; MAX_CPUS] = [const {
    Standing {
        asked: AtomicBool::new(false),
        waits: AtomicBool::new(false),
        stale: AtomicBool::new(false),
        answered: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// The pages to drop: the first, and how many.
static PAGES: (AtomicU64, AtomicU64) = (AtomicU64::new(0), AtomicU64::new(0));

/// Has all other CPUs drop `pages` pages from `first` on, of which the caller has dropped its own translations.
/// When it returns, they have, or will before they use any of them.
///
/// To be called by the holder of the kernel's lock.
#[inline]
pub fn all_others(first: VirtAddr, pages: u64) {
    if count() > 1 && !inject(Bug::NoShootdown) {
        let mut others = ((1 << count()) - 1) & !(1 << cpu::id());
        if inject(Bug::ShootdownSkipsOne) {
            others &= others - 1;
        }
        shoot(first, pages, others);
    }
}

/// As [`all_others`], for one CPU that is not the caller's.
pub fn one(first: VirtAddr, other: usize) {
    shoot(first, 1, 1 << other);
}

#[cold]
fn shoot(first: VirtAddr, pages: u64, others: u32) {
    let sleepers = sleepers();
    PAGES.0.store(first.get(), Ordering::Relaxed);
    PAGES.1.store(pages, Ordering::Relaxed);
    let each = |set: u32| (0..count()).filter(move |number| set >> number & 1 != 0);
    for number in each(others & sleepers) {
        CPUS[number].stale.store(true, Ordering::Relaxed);
        flush_log::owes(number);
    }
    let asked = others & !sleepers;
    for number in each(asked) {
        // Sequentially consistent with `begin_to_wait`: either the CPU sees the request, or it is seen not to
        // wait yet, and is interrupted.
        CPUS[number].asked.store(true, Ordering::SeqCst);
        if !CPUS[number].waits.load(Ordering::SeqCst) {
            COUNTERS.add(Counter::ShootdownInterrupts);
            apic::interrupt(number, SHOOTDOWN_VECTOR);
        }
    }
    for number in each(asked) {
        while CPUS[number].asked.load(Ordering::Acquire) {
            crash::stop_if_another_crashed();
            core::hint::spin_loop();
        }
    }
}

/// Drops what this CPU is asked to, if it is.
pub fn serve() {
    let standing = &CPUS[cpu::id()];
    if !standing.asked.load(Ordering::SeqCst) {
        return;
    }
    let (first, pages) = (
        PAGES.0.load(Ordering::Relaxed),
        PAGES.1.load(Ordering::Relaxed),
    );
    if pages > MOST_PAGES {
        cpu::flush_all();
    } else {
        for page in 0..pages {
            cpu::flush_page(VirtAddr::new(first + page * PAGE_SIZE));
        }
    }
    note(standing);
    standing.asked.store(false, Ordering::Release);
}

/// This CPU waits for the kernel's lock from now on, and looks for requests.
pub fn begin_to_wait() {
    CPUS[cpu::id()].waits.store(true, Ordering::SeqCst);
}

/// This CPU has the kernel's lock, or sleeps and is to be interrupted.
pub fn end_waiting() {
    CPUS[cpu::id()].waits.store(false, Ordering::SeqCst);
}

/// Drops all that this CPU remembers, if some of it was changed while it slept. It holds the lock again.
pub fn wake_up() {
    let standing = &CPUS[cpu::id()];
    if standing.stale.swap(false, Ordering::Relaxed) {
        cpu::flush_all();
        note(standing);
    }
}

/// How often CPUs dropped something that another had changed.
pub fn answered() -> u64 {
    let answered = CPUS.iter().take(count());
    answered
        .map(|standing| standing.answered.load(Ordering::Relaxed))
        .sum()
}

/// Only the CPU itself counts.
fn note(standing: &Standing) {
    let before = standing.answered.load(Ordering::Relaxed);
    standing.answered.store(before + 1, Ordering::Relaxed);
}
