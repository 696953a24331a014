//! Deliberate bugs: the one that this run makes, if any (`bug=` on the command line), and where each is.
//!
//! Each is a mistake that kernels really make, described in `heirloom_abi::bugs`, which also names the
//! rule that must catch it. The code asks [`inject`] at the place where the mistake would be made: one
//! load and one compare, which are never true in a kernel without a bug. A test of the abi crate holds this
//! list against the calls.
//!
//! | bug | file | function |
//! | --- | --- | --- |

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;

const NONE: u8 = u8::MAX;

static CHOSEN: AtomicU8 = AtomicU8::new(NONE);

/// From now on the kernel has this bug.
pub fn choose(bug: Bug) {
    CHOSEN.store(bug as u8, Relaxed);
}

/// Whether to make this mistake here.
#[inline(always)]
pub fn inject(bug: Bug) -> bool {
    CHOSEN.load(Relaxed) == bug as u8
}
