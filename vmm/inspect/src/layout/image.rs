//! Where the kernel's own text and data are.

use serde::Serialize;

use super::direct_map::ram_bytes;
use crate::leaves::Mapping;
use crate::memory::PhysRange;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};

/// Where Linux's kernel image may be: 1 GiB from here on, where KASLR may move it.
pub(crate) const KERNEL_IMAGE: VirtAddr = VirtAddr::new(0xffff_ffff_8000_0000);
pub(crate) const KERNEL_IMAGE_LAST: VirtAddr = VirtAddr::new(0xffff_ffff_bfff_ffff);
/// Lines that code may lie in, of a kernel that is not known.
const MAX_LINES: usize = 64;
/// What is further from the code than this does not belong to it.
const MAX_GAP: u64 = 64 << 20;
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

/// The linear mapping of most code in these ranges, with what lies in the same line next to it; what is in
/// the line of `direct_map` comes last. What is no RAM is no code: where nothing has NX, devices are executable.
pub(super) fn find_code(
    snapshot: &Snapshot,
    root: RootId,
    (ranges, ram): (&[VirtRange], &[PhysRange]),
    direct_map: Option<VirtAddr>,
) -> Option<KernelImage> {
    let leaves = || {
        let leaves = ranges
            .iter()
            .flat_map(|range| snapshot.distinct_leaves(root, *range));
        leaves.filter(|page| !page.rights.user && ram_bytes(ram, page.pa, page.size.bytes()) > 0)
    };
    let offset = |page: &Mapping| page.va.get().wrapping_sub(page.pa.get());
    let is_of_map = |line: u64| direct_map.is_some_and(|base| base.get() == line);
    let mut lines: Vec<(u64, u64)> = Vec::new();
    for page in leaves().filter(|page| page.rights.execute) {
        let offset = offset(&page);
        // In the line of the direct map is the image only where kernels are linked.
        if is_of_map(offset) && page.va < KERNEL_IMAGE {
            continue;
        }
        let is_full = lines.len() >= MAX_LINES;
        match lines.iter_mut().rev().find(|(known, _)| *known == offset) {
            Some((_, bytes)) => *bytes += page.size.bytes(),
            None if is_full => {}
            None => lines.push((offset, page.size.bytes())),
        }
    }
    let (line, _) = lines
        .into_iter()
        .max_by_key(|(line, bytes)| (!is_of_map(*line), *bytes))?;
    let mut best: Option<(KernelImage, bool)> = None;
    for page in leaves().filter(|page| offset(page) == line) {
        let range = page.range();
        match &mut best {
            Some((image, code)) if page.va.get() - image.range.last.get() <= MAX_GAP => {
                image.range.last = range.last;
                *code |= page.rights.execute;
            }
            // Behind a gap only what has code counts.
            Some((_, true)) if !page.rights.execute => {}
            _ => {
                let pa = page.pa;
                best = Some((KernelImage { range, pa }, page.rights.execute));
            }
        }
    }
    best.filter(|(_, code)| *code).map(|(image, _)| image)
}

/// The linear mapping of most bytes where Linux is linked.
pub(super) fn find_kernel_image(snapshot: &Snapshot, root: RootId) -> Option<KernelImage> {
    let window = VirtRange {
        first: KERNEL_IMAGE,
        last: KERNEL_IMAGE_LAST,
    };
    let mut images: Vec<(KernelImage, u64)> = Vec::new();
    for page in snapshot.distinct_leaves(root, window) {
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
