//! The deliberate mistake that this run makes, if any (`bug=` on the command line).

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;

const NONE: u8 = u8::MAX;

static ACTIVE: AtomicU8 = AtomicU8::new(NONE);

/// From now on the kernel makes this mistake.
pub fn make(bug: Bug) {
    ACTIVE.store(bug as u8, Relaxed);
}

/// Whether it is the one to make.
#[inline]
pub fn is(bug: Bug) -> bool {
    ACTIVE.load(Relaxed) == bug as u8
}
