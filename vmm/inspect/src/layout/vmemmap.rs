//! Where the array of `struct page` is: a mapping at a multiple of 1 GiB that is as long as RAM needs.

use std::fmt;

use serde::Serialize;

use crate::memory::PhysRange;
use crate::size::Size;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{PAGE_SIZE, VirtAddr, VirtRange};
use heirloom_paging::level::Level;

/// Sizes of `struct page` that kernels have, in bytes; the first that fits is taken. Most have 64, which
/// more than one may seem to be where RAM is less than a section.
const SIZES: [u64; 7] = [64, 128, 80, 56, 32, 16, 8];
/// Places that are tried, and stretches between gaps that are looked at: no kernel has so many.
const MAX_BASES: usize = 256;
const MAX_RUNS: usize = 1 << 20;
/// Of RAM, one part in so many may have no elements: firmware and what else the kernel does not manage.
const MAX_UNMANAGED: u64 = 8;
/// Linux maps the array for whole sections of 128 MiB.
const SECTION_FRAMES: u64 = (128 << 20) / PAGE_SIZE;

/// The array with one `struct page` for each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vmemmap {
    /// From the array's start, where frame 0 has its element, to the last page that is mapped.
    pub range: VirtRange,
    /// Bytes of one element.
    pub element_bytes: u64,
    /// Bytes that are mapped.
    pub mapped_bytes: u64,
}

impl fmt::Display for Vmemmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "begins at a multiple of 1 GiB; {} mapped: {} bytes for each frame of RAM",
            Size(self.mapped_bytes),
            self.element_bytes
        )
    }
}

/// Addresses that are mapped without a gap.
type Run = VirtRange;

impl Vmemmap {
    /// Looks for the array in `between`.
    pub(super) fn find(
        snapshot: &Snapshot,
        root: RootId,
        between: VirtRange,
        ram: &[PhysRange],
    ) -> Option<Vmemmap> {
        let mut runs: Vec<Run> = Vec::new();
        for page in snapshot.distinct_leaves(root, between) {
            if page.rights.execute || !page.rights.write {
                continue;
            }
            let range = page.range();
            match runs.last_mut() {
                Some(run) if run.last.checked_add(1) == Some(page.va) => run.last = range.last,
                _ => runs.push(range),
            }
            if runs.len() > MAX_RUNS {
                return None;
            }
        }
        // Linux has it above vmalloc, so the last place that fits is it.
        let bases = runs
            .iter()
            .map(|run| run.first)
            .filter(|first| first.offset_in(Level::Pdpt) == 0);
        bases.rev().take(MAX_BASES).find_map(|base| {
            SIZES
                .into_iter()
                .find_map(|size| fit(&runs, base, size, ram))
        })
    }
}

/// The array at `base` with elements of `element_bytes`, if it is mapped for nearly all of `ram` and for
/// little more.
fn fit(runs: &[Run], base: VirtAddr, element_bytes: u64, ram: &[PhysRange]) -> Option<Vmemmap> {
    let (mut enough, mut managed, mut all) = (0, 0, 0);
    for range in ram {
        let frames = range.whole_frames();
        if frames.is_empty() {
            continue;
        }
        let (first_frame, end_frame) = (frames.start / PAGE_SIZE, frames.end / PAGE_SIZE);
        let at = |frame: u64| base.checked_add(frame.checked_mul(element_bytes)?);
        let (start, end) = (at(first_frame)?, at(end_frame)?);
        all += end_frame - first_frame;
        let holding = runs.partition_point(|run| run.last < start);
        let is_mapped = runs
            .get(holding)
            .is_some_and(|run| run.first <= start && run.last.get() >= end.get() - 1);
        if !is_mapped {
            continue;
        }
        managed += end_frame - first_frame;
        let sections = end_frame.next_multiple_of(SECTION_FRAMES)
            - first_frame / SECTION_FRAMES * SECTION_FRAMES;
        enough += (sections * element_bytes).next_multiple_of(PAGE_SIZE);
    }
    let inside = &runs[runs.partition_point(|run| run.first < base)..];
    let mapped_bytes: u64 = inside.iter().map(VirtRange::bytes).sum();
    let last = inside.last()?.last;
    (mapped_bytes <= enough && all - managed <= all / MAX_UNMANAGED).then_some(Vmemmap {
        range: VirtRange { first: base, last },
        element_bytes,
        mapped_bytes,
    })
}
