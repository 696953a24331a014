//! Assignment 2, reach: a new PGD entry reaches every process. README.md in this folder says what is to be done.

use crate::mm::half::KernelHalf;
use crate::mm::propagation::{Propagation, Spaces};
use crate::mm::root::RootIndex;

/// Takes the place of `sync`.
pub struct Reach;

impl Propagation for Reach {
    /// A new entry `index` has just been written to the kernel's own root.
    fn publish(&self, spaces: &Spaces<'_>, index: RootIndex<KernelHalf>) {
        // TODO: nobody but the kernel's own root has it.
        let _ = (spaces, index);
    }
}
