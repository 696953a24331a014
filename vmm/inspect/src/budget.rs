//! How much may be done with the tables of a guest: they are hostile, and a few frames can claim 2^36 pages.
//!
//! A snapshot carries the budget of whoever captured it. All that goes through its tables pays from it, and
//! stops when it is spent: then nothing more can be concluded, and rules say that they were not tried. There is
//! a number of entries, which comes out the same on every machine, and there may be a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Entries of tables that may be passed unless another number is set, all traversals together: sixteen times
/// through 256 GiB in 4 KiB pages.
const ENTRIES: u64 = 1 << 30;

/// What may still be done; clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    entries_left: AtomicU64,
    deadline: Option<Instant>,
    /// By so much the deadline is later, in nanoseconds.
    postponed: AtomicU64,
    is_cancelled: AtomicBool,
    /// Something was refused since [`Budget::take_shortage`].
    is_short: AtomicBool,
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new(ENTRIES, None)
    }
}

impl Budget {
    fn new(entries: u64, deadline: Option<Instant>) -> Budget {
        Budget(Arc::new(Shared {
            entries_left: AtomicU64::new(entries),
            deadline,
            postponed: AtomicU64::new(0),
            is_cancelled: AtomicBool::new(false),
            is_short: AtomicBool::new(false),
        }))
    }

    /// So many entries of tables.
    pub fn of_entries(entries: u64) -> Budget {
        Budget::new(entries, None)
    }

    /// As many entries as can be passed until then.
    pub fn until(deadline: Instant) -> Budget {
        Budget::new(u64::MAX, Some(deadline))
    }

    /// From now on nothing more may be done, in whatever thread.
    pub fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// The deadline, if there is one, is later by `time` than it was at first.
    pub fn postpone(&self, time: Duration) {
        let nanoseconds = time.as_nanos().try_into().unwrap_or(u64::MAX);
        self.0.postponed.store(nanoseconds, Ordering::Relaxed);
    }

    /// Whether nothing more may be done.
    pub fn is_spent(&self) -> bool {
        let shared = &self.0;
        shared.is_cancelled.load(Ordering::Relaxed)
            || shared.entries_left.load(Ordering::Relaxed) == 0
            || shared.deadline.is_some_and(|end| {
                let postponed = shared.postponed.load(Ordering::Relaxed);
                Instant::now() >= end + Duration::from_nanos(postponed)
            })
    }

    /// Pays for `entries` entries. Where it is refused, what was asked for is not done.
    #[must_use]
    pub(crate) fn pay(&self, entries: u64) -> bool {
        let left = &self.0.entries_left;
        let paid = !self.is_spent()
            && left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    // A last piece of work may be larger than what is left.
                    (left > 0).then(|| left.saturating_sub(entries))
                })
                .is_ok();
        if !paid {
            self.note_shortage();
        }
        paid
    }

    /// Something was not done that should have been.
    pub(crate) fn note_shortage(&self) {
        self.0.is_short.store(true, Ordering::Relaxed);
    }

    /// Whether something was not done since the last call.
    pub(crate) fn take_shortage(&self) -> bool {
        self.0.is_short.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_paid_is_gone_and_what_is_refused_is_remembered_once() {
        let budget = Budget::of_entries(10);
        assert!(budget.pay(6) && budget.clone().pay(6));
        assert!(budget.is_spent() && !budget.take_shortage());
        assert!(!budget.pay(1));
        assert!(budget.take_shortage() && !budget.take_shortage());
    }

    #[test]
    fn a_deadline_and_a_cancellation_end_it() {
        let now = Instant::now();
        assert!(!Budget::until(now).pay(1));
        let budget = Budget::until(now + Duration::from_secs(3600));
        assert!(budget.pay(u64::MAX) || budget.is_spent());
        let budget = Budget::until(now + Duration::from_secs(3600));
        assert!(budget.pay(1 << 40));
        budget.clone().cancel();
        assert!(!budget.pay(1));
    }
}
