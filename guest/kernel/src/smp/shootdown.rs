//! Shootdown: when an entry loses something, every CPU that may remember it drops it before the frame is reused.
//!
//! Whoever changes entries holds the kernel's lock, so there is one request at a time: the pages that changed,
//! and for each CPU whether it still has to drop them. A CPU learns of it
//!
//! - by an interrupt, in ring 3;
//! - by looking itself, while it watches ([`crate::watch`]), so that no interrupt is sent;
//! - when it has the lock, if it waits for that or sleeps: until then it touches no page that comes and goes, and then
//!   it drops all that it remembers. Nobody waits for it.

use super::{count, sleepers};
use crate::arch::entry::SHOOTDOWN_VECTOR;
use crate::arch::{apic, cpu, flush_log, pcid};
use crate::counters::{COUNTERS, Counter};
use crate::crash;
use crate::fault_injection::inject;
use crate::kernel::KERNEL;
use crate::mm::{VirtAddr, depth};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::user_end;
use heirloom_abi::options::MAX_CPUS;

/// More pages than these are dropped by dropping everything.
const MAX_PAGES: u64 = 32;
/// How late `freed-before-answer` has CPUs answer: long enough for some system calls on any machine.
const LATE_CYCLES: u64 = 1_000_000_000;

/// What one CPU is asked, and how it stands. A line of the cache for each, so that they do not get into each
/// other's way.
#[repr(align(64))]
struct Standing {
    /// It has yet to drop [`PAGES`].
    asked: AtomicBool,
    /// It watches, and looks for requests.
    looks: AtomicBool,
    /// What it remembers from before it slept or waited for the lock may be wrong.
    stale: AtomicBool,
    /// How often it was asked and dropped something.
    answered: AtomicU64,
}

static CPUS: [Standing; MAX_CPUS] = [const {
    Standing {
        asked: AtomicBool::new(false),
        looks: AtomicBool::new(false),
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
    let later = sleepers() | KERNEL.waiters();
    PAGES.0.store(first.get(), Ordering::Relaxed);
    PAGES.1.store(pages, Ordering::Relaxed);
    let each = |set: u32| (0..count()).filter(move |number| set >> number & 1 != 0);
    for number in each(others & later) {
        CPUS[number].stale.store(true, Ordering::Relaxed);
        flush_log::owes(number);
    }
    let asked = others & !later;
    for number in each(asked) {
        // Sequentially consistent with `begin_to_look`: either the CPU sees the request, or it is seen not to
        // look yet, and is interrupted.
        CPUS[number].asked.store(true, Ordering::SeqCst);
        if !CPUS[number].looks.load(Ordering::SeqCst) {
            COUNTERS.add(Counter::ShootdownInterrupts);
            apic::interrupt(number, SHOOTDOWN_VECTOR);
        }
    }
    if inject(Bug::FreedBeforeAnswer) {
        return;
    }
    for number in each(asked) {
        while CPUS[number].asked.load(Ordering::Acquire) {
            crash::stop_if_another_crashed();
            core::hint::spin_loop();
        }
    }
}

/// Another CPU has interrupted this one: drops what it is asked to.
pub fn answer() {
    if inject(Bug::FreedBeforeAnswer) {
        // What makes the mistake show: nobody says how soon a CPU answers.
        cpu::wait(LATE_CYCLES, crash::stop_if_another_crashed);
    }
    serve();
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
    if pages > MAX_PAGES {
        cpu::flush_all();
    } else {
        for page in (0..pages).map(|page| VirtAddr::new(first + page * PAGE_SIZE)) {
            if page.get() < user_end(depth()) {
                pcid::drop_page_of_ring_3(page);
            } else {
                cpu::flush_page(page);
            }
        }
    }
    note(standing);
    standing.asked.store(false, Ordering::Release);
}

/// This CPU looks for requests from now on.
pub fn begin_to_look() {
    CPUS[cpu::id()].looks.store(true, Ordering::SeqCst);
}

/// This CPU is to be interrupted, or waits for the kernel's lock.
pub fn end_looking() {
    CPUS[cpu::id()].looks.store(false, Ordering::SeqCst);
}

/// Drops all that this CPU remembers, if some of it was changed while it slept or waited for the lock. It holds the
/// lock again.
pub fn drop_what_is_stale() {
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
