//! Counters at which processes meet: an eventcount each (Reed and Kanodia, 1979). Only the holder of the kernel's
//! lock changes them; whoever watches reads them without.

use super::{Pid, State};
use crate::arch::cpu;
use crate::kernel::Kernel;
use core::sync::atomic::{AtomicU64, Ordering};
use heirloom_abi::syscall::{EVENTCOUNTS, Errno};

#[allow(clippy::cast_possible_truncation)]
const COUNT: usize = EVENTCOUNTS as usize;

/// What each has come to.
static VALUES: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];

/// Who waits at each.
pub struct Eventcounts {
    waiting: [Option<Pid>; COUNT],
}

impl Eventcounts {
    pub const fn new() -> Eventcounts {
        Eventcounts {
            waiting: [None; COUNT],
        }
    }
}

/// What eventcount `number` has come to. What was done before it was set is seen by whoever sees that.
pub fn load(number: u64) -> Result<u64, Errno> {
    Ok(VALUES[index(number)?].load(Ordering::Acquire))
}

impl Kernel {
    /// Sets one and wakes those whose wait is over; the value before.
    pub fn eventcount_update(
        &mut self,
        number: u64,
        new: impl Fn(u64) -> u64,
    ) -> Result<u64, Errno> {
        let index = index(number)?;
        let before = VALUES[index].load(Ordering::Relaxed);
        let value = new(before);
        VALUES[index].store(value, Ordering::Release);

        // Take the whole list and put back those who go on waiting; order is kept.
        let mut next = self.eventcounts.waiting[index].take();
        let mut last_kept: Option<Pid> = None;
        while let Some(pid) = next {
            let Some(process) = self.processes.get_mut(pid) else {
                break;
            };
            next = process.next_in_queue.take();
            let State::WaitsForEventcount { at_least, .. } = process.state else {
                continue;
            };
            if value >= at_least {
                process.state = State::Runnable;
                process.frame.rax = value;
                self.make_ready(pid);
            } else {
                match last_kept.and_then(|last| self.processes.get_mut(last)) {
                    Some(last) => last.next_in_queue = Some(pid),
                    None => self.eventcounts.waiting[index] = Some(pid),
                }
                last_kept = Some(pid);
            }
        }
        Ok(before)
    }

    /// Its value if it is at least that, or else `None`, and the current process waits.
    pub fn eventcount_await(&mut self, number: u64, at_least: u64) -> Result<Option<u64>, Errno> {
        let index = index(number)?;
        let value = VALUES[index].load(Ordering::Relaxed);
        if value >= at_least {
            return Ok(Some(value));
        }
        let pid = cpu::current();
        let first = self.eventcounts.waiting[index].replace(pid);
        let process = self.current_process();
        process.next_in_queue = first;
        process.state = State::WaitsForEventcount {
            number: index,
            at_least,
        };
        Ok(None)
    }
}

fn index(number: u64) -> Result<usize, Errno> {
    usize::try_from(number)
        .ok()
        .filter(|number| *number < COUNT)
        .ok_or(Errno::Invalid)
}
