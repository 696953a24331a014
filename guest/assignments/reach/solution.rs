//! Assignment 2, reach: a solution.

use crate::mm::half::KernelHalf;
use crate::mm::propagation::{Propagation, Spaces};
use crate::mm::root::RootIndex;

/// Takes the place of `sync`.
pub struct Reach;

impl Propagation for Reach {
    fn publish(&self, spaces: &Spaces<'_>, index: RootIndex<KernelHalf>) {
        for root in spaces.process_roots() {
            // SAFETY: the entry is new, and kernel tables are never freed.
            unsafe { spaces.kernel.share_entry(index, root) };
        }
    }
}
