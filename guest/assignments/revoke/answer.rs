//! Assignment 3, revoke: what is freed is gone everywhere. README.md in this folder says what is to be done.

use crate::mm::frame::FrameAllocator;
use crate::mm::propagation::copy_all::CopyAll;
use crate::mm::propagation::{Mapping, Propagation, Spaces, change};
use crate::mm::root::Root;
use crate::mm::vmalloc::Page;
use crate::mm::{Entry, OutOfFrames};

/// Takes the place of `copy-all`.
pub struct Revoke;

impl Propagation for Revoke {
    /// Given: a child gets copies of all kernel tables.
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        CopyAll.inherit(spaces, child)
    }

    /// Given: they are freed with it.
    unsafe fn disinherit(&self, root: Root, frames: &mut FrameAllocator) {
        // SAFETY: the caller's obligation.
        unsafe { CopyAll.disinherit(root, frames) };
    }

    /// Given: a page is mapped in the kernel's own root and in every process's.
    fn map(&self, spaces: &mut Spaces<'_>, mapping: Mapping) -> Result<(), OutOfFrames> {
        CopyAll.map(spaces, mapping)
    }

    /// Gives `page` other attributes, or unmaps it (`None`); the entry that the kernel's own root had.
    fn change(
        &self,
        spaces: &mut Spaces<'_>,
        page: Page,
        attributes: Option<Entry>,
    ) -> Option<Entry> {
        // TODO: the kernel's own root forgets the page, and nobody else does.
        change(spaces.kernel.root(), page, attributes)
    }
}
