//! Watching: a CPU that accesses one word of kernel memory again and again, without the kernel's lock, while others
//! change how it is mapped. Whoever holds the lock sees tables that nobody changes; this is how a CPU sees them that
//! only uses them.

use crate::arch::cpu;
use crate::arch::entry::{SYSCALL_VECTOR, TrapFrame};
use crate::crash;
use crate::kernel::{KERNEL, Kernel};
use crate::mm::user_access::{self, Faulted};
use crate::process::eventcount;
use crate::process::scheduler::NOTHING_TO_RUN;
use crate::smp::shootdown;
use heirloom_abi::syscall::{WATCH_GOES_ON, WATCH_SUCCEEDED, WATCH_WRITES, Watched};

/// In the vector of a frame: its process's CPU is to watch, as the registers say.
pub const WATCHES: u64 = NOTHING_TO_RUN - 1;

/// After so many cycles the process is asked whether it wants more: others may wait for its CPU.
const CYCLES: u64 = 20_000_000;

/// What is watched, by the registers of the system call.
struct Watch {
    address: u64,
    number: u64,
    at_least: u64,
    how: u64,
    value: u64,
}

impl Watch {
    fn of(frame: &TrapFrame) -> Watch {
        Watch {
            address: frame.rdi,
            number: frame.rsi,
            at_least: frame.rdx,
            how: frame.r10,
            value: frame.r8,
        }
    }

    fn writes(&self) -> bool {
        self.how & WATCH_WRITES != 0
    }

    /// One access; the value.
    fn access(&self) -> Result<u64, Faulted> {
        if self.writes() {
            // SAFETY: the system call has checked that it is in the vmalloc area, which holds nothing of the
            // kernel's own.
            unsafe { user_access::write(self.address, self.value) }.map(|()| self.value)
        } else {
            user_access::read(self.address)
        }
    }

    fn is_over(&self) -> bool {
        eventcount::load(self.number).is_ok_and(|value| value >= self.at_least)
    }
}

/// Watches without the kernel's lock, and goes on with `frame` with it.
pub fn watch(frame: &mut TrapFrame) {
    let watch = Watch::of(frame);
    let goes_on = watch.how & WATCH_GOES_ON != 0;
    let mut before = goes_on.then_some(watch.how & WATCH_SUCCEEDED != 0);
    let mut watched = Watched::default();
    let begun = cpu::cycles();
    shootdown::begin_to_look();
    let last = loop {
        let ends = cpu::cycles() - begun > CYCLES;
        watched.is_over = watch.is_over();
        shootdown::serve();
        crash::stop_if_another_crashed();
        let access = watch.access();
        let succeeded = access.is_ok();
        watched.succeeded = watched.succeeded.saturating_add(succeeded.into());
        let turned = before.is_some_and(|before| before != succeeded);
        watched.turns = watched.turns.saturating_add(turned.into());
        if before.replace(succeeded).is_none() {
            shootdown::end_looking();
            KERNEL.lock().watcher_has_begun(&watch);
            shootdown::begin_to_look();
        }
        if watched.is_over || ends {
            break access;
        }
    };
    shootdown::end_looking();
    watched.last_succeeded = last.is_ok();
    KERNEL.lock().has_watched(frame, (&watch, last), watched);
}

impl Kernel {
    fn watcher_has_begun(&mut self, watch: &Watch) {
        // The system call has looked whether there is one.
        let _ = self.eventcount_update(watch.number + 1, |value| value.wrapping_add(1));
    }

    fn has_watched(
        &mut self,
        frame: &mut TrapFrame,
        (watch, last): (&Watch, Result<u64, Faulted>),
        watched: Watched,
    ) {
        frame.vector = SYSCALL_VECTOR;
        frame.rax = watched.to_result();
        if watched.is_over {
            let value = last.unwrap_or(0);
            // How it went is in the result.
            let _ = self.emit_access(watch.address, value, watch.writes(), last.err());
        } else {
            self.yield_now(frame);
        }
    }
}
