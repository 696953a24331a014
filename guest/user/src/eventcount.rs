//! Counters in the kernel at which processes meet.

use crate::raw;
use heirloom_abi::syscall as number;

/// One of the kernel's counters, all 0 at boot.
#[derive(Clone, Copy)]
pub struct Eventcount(u64);

impl Eventcount {
    /// Counter `index`.
    ///
    /// # Panics
    /// If there are not so many; in a constant, at compile time.
    #[must_use]
    pub const fn new(index: u64) -> Eventcount {
        assert!(index < number::EVENTCOUNTS);
        Eventcount(index)
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// Its value.
    #[must_use]
    pub fn load(self) -> u64 {
        self.call(number::EVENTCOUNT_READ, 0)
    }

    /// Sets it, and wakes those whose wait is over.
    pub fn store(self, value: u64) {
        self.call(number::EVENTCOUNT_SET, value);
    }

    // The kernel adds, not Rust's operator.
    #[allow(clippy::should_implement_trait)]
    /// Adds to it, and wakes those whose wait is over; the value before.
    pub fn add(self, value: u64) -> u64 {
        self.call(number::EVENTCOUNT_ADD, value)
    }

    /// Waits until it is at least that; its value then.
    pub fn wait(self, at_least: u64) -> u64 {
        self.call(number::EVENTCOUNT_AWAIT, at_least)
    }

    fn call(self, number: u64, argument: u64) -> u64 {
        // SAFETY: touches no memory of this process. A counter's value may look like an errno, so
        // both are values here; the index is in range, so there is no other error.
        match unsafe { raw::call(number, [self.0, argument, 0, 0]) } {
            Ok(value) => value,
            Err(failed) => failed.0.wrapping_neg(),
        }
    }
}
