//! Assignment 4, isolate: ring 3 runs without the kernel. README.md in this folder says what is to be done.

use crate::mm::propagation::{Propagation, Spaces};
use crate::mm::root::Root;
use crate::mm::{Entry, OutOfFrames};

/// Takes the place of `isolated`.
pub struct Isolate;

impl Propagation for Isolate {
    /// Gives `child`, a new and empty root, what ring 3 needs of the kernel.
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        // TODO: this is all of the kernel.
        // SAFETY: kernel tables are never freed.
        unsafe { child.copy_kernel_half(spaces.kernel.root()) };
        Ok(())
    }

    /// Given: a global translation would outlive the switch to a process's root.
    fn leaf_attributes(&self, attributes: Entry) -> Entry {
        attributes.without(Entry::GLOBAL)
    }

    /// Given: the kernel loads its own root at every way in, and the process's at every way out.
    fn isolates(&self) -> bool {
        true
    }
}
