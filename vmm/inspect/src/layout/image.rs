//! Where the kernel's own text and data are.

use serde::Serialize;

use crate::memory::PhysRange;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};

/// Where the kernel image may be: 1 GiB from here on, where KASLR may move it.
pub(super) const KERNEL_IMAGE: VirtAddr = VirtAddr::new(0xffff_ffff_8000_0000);
const KERNEL_IMAGE_LAST: VirtAddr = VirtAddr::new(0xffff_ffff_bfff_ffff);
/// The kernel's own text and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KernelImage {
    /// Its virtual addresses.
    pub range: VirtRange,
    /// Where its first byte is.
    pub pa: PhysAddr,
}

impl KernelImage {
    /// The frames between its first and its last page.
    pub const fn physical(&self) -> PhysRange {
        PhysRange {
            start: self.pa,
            bytes: self.range.bytes(),
        }
    }
}

/// The linear mapping of most bytes where kernels are linked.
pub(super) fn find_kernel_image(snapshot: &Snapshot, root: RootId) -> Option<KernelImage> {
    let window = VirtRange {
        first: KERNEL_IMAGE,
        last: KERNEL_IMAGE_LAST,
    };
    let mut images: Vec<(KernelImage, u64)> = Vec::new();
    for page in snapshot.leaves(root, window) {
        let offset = page.va.get().wrapping_sub(page.pa.get());
        let last = page.range().last;
        let same = |(image, _): &&mut (KernelImage, u64)| {
            image.range.first.get().wrapping_sub(image.pa.get()) == offset
        };
        // Few offsets, and mostly the latest one: modules are small.
        match images.iter_mut().rev().take(8).find(same) {
            Some((image, bytes)) => {
                image.range.last = last;
                *bytes += page.size.bytes();
            }
            None => images.push((
                KernelImage {
                    range: VirtRange {
                        first: page.va,
                        last,
                    },
                    pa: page.pa,
                },
                page.size.bytes(),
            )),
        }
    }
    let most = images.into_iter().max_by_key(|(_, bytes)| *bytes)?;
    Some(most.0)
}
