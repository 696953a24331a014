//! Assignment 1, share: a child inherits the kernel's PGD entries. README.md in this folder says what is to be done.

use crate::mm::OutOfFrames;
use crate::mm::VirtAddr;
use crate::mm::frame::FrameAllocator;
use crate::mm::half::KernelHalf;
use crate::mm::propagation::prealloc::Prealloc;
use crate::mm::propagation::{Propagation, Spaces};
use crate::mm::root::{KernelRoot, Root, RootRange};
use heirloom_abi::layout::Region;

/// Takes the place of `prealloc`.
pub struct Share;

/// What the CPU and the kernel need to run at all.
const NEEDED: [Region; 4] = [
    Region::DirectMap,
    Region::Vmemmap,
    Region::CpuEntryArea,
    Region::KernelImage,
];

impl Propagation for Share {
    /// Given: every PGD entry that the kernel will ever need exists from boot.
    fn prepare(
        &self,
        kernel: KernelRoot,
        first: VirtAddr,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        Prealloc.prepare(kernel, first, frames)
    }

    /// Gives `child`, a new and empty root, its kernel half.
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        // TODO: enough to boot, and not enough for the child to see all that its parent sees.
        let needed = NEEDED.map(RootRange::<KernelHalf>::of);
        for index in needed.into_iter().flat_map(RootRange::iter) {
            // SAFETY: a new root without entries, and kernel tables are never freed.
            unsafe { spaces.kernel.share_entry(index, child) };
        }
        Ok(())
    }
}
