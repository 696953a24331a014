//! Assignment 4, isolate: a solution.

use crate::mm::half::KernelHalf;
use crate::mm::propagation::{Propagation, Spaces};
use crate::mm::root::{Root, RootRange};
use crate::mm::{Entry, OutOfFrames};
use heirloom_abi::layout::Region;

/// Takes the place of `isolated`.
pub struct Isolate;

impl Propagation for Isolate {
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        for index in RootRange::<KernelHalf>::of(Region::CpuEntryArea).iter() {
            // SAFETY: a new root without entries, and kernel tables are never freed.
            unsafe { spaces.kernel.share_entry(index, child) };
        }
        Ok(())
    }

    fn leaf_attributes(&self, attributes: Entry) -> Entry {
        attributes.without(Entry::GLOBAL)
    }

    fn isolates(&self) -> bool {
        true
    }
}
