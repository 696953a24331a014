//! Assignment 3, revoke: a solution.

use crate::mm::frame::FrameAllocator;
use crate::mm::propagation::copy_all::CopyAll;
use crate::mm::propagation::{Mapping, Propagation, Spaces, change};
use crate::mm::root::Root;
use crate::mm::vmalloc::Page;
use crate::mm::{Entry, OutOfFrames};

/// Takes the place of `copy-all`.
pub struct Revoke;

impl Propagation for Revoke {
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        CopyAll.inherit(spaces, child)
    }

    unsafe fn disinherit(&self, root: Root, frames: &mut FrameAllocator) {
        // SAFETY: the caller's obligation.
        unsafe { CopyAll.disinherit(root, frames) };
    }

    fn map(&self, spaces: &mut Spaces<'_>, mapping: Mapping) -> Result<(), OutOfFrames> {
        CopyAll.map(spaces, mapping)
    }

    fn change(
        &self,
        spaces: &mut Spaces<'_>,
        page: Page,
        attributes: Option<Entry>,
    ) -> Option<Entry> {
        for root in spaces.process_roots() {
            change(root, page, attributes);
        }
        change(spaces.kernel.root(), page, attributes)
    }
}
