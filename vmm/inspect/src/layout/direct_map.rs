//! Where the direct map is: told by the tables, not by a constant, because kernels move it (KASLR).

use std::collections::HashMap;

use serde::Serialize;

use crate::addr::{GuestPhys, GuestVirt, VirtRange};
use crate::leaves::Mapping;
use crate::level::Half;
use crate::memory::PhysRange;
use crate::ranges::PageCounts;
use crate::snapshot::{RootId, Snapshot};

/// The linear mapping that shows most of RAM: physical address `pa` at `base + pa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DirectMap {
    /// Where physical address 0 is, or would be.
    pub base: GuestVirt,
    /// From the first to the last page that is mapped so.
    pub range: VirtRange,
    /// Bytes of RAM that it maps.
    pub ram_bytes: u64,
    /// Its pages, by size.
    pub pages: PageCounts,
}

impl DirectMap {
    /// Where `va` must lead if it belongs to the direct map.
    pub const fn physical(&self, va: GuestVirt) -> GuestPhys {
        GuestPhys::new(va.get().wrapping_sub(self.base.get()))
    }

    /// The linear mapping of the kernel half of `root` that shows most of `ram`; `None` if nothing of
    /// RAM is mapped there.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn find(snapshot: &Snapshot, root: RootId, ram: &[PhysRange]) -> Option<DirectMap> {
        let mut shown: HashMap<u64, u64> = HashMap::new();
        // Neighbouring pages mostly have one offset.
        let mut run: (u64, u64) = (0, 0);
        for page in snapshot.leaves(root, VirtRange::half(Half::Kernel)) {
            let offset = offset_of(&page);
            let bytes = ram_bytes(ram, page.pa, page.size.bytes());
            if offset != run.0 {
                *shown.entry(run.0).or_default() += run.1;
                run = (offset, 0);
            }
            run.1 += bytes;
        }
        *shown.entry(run.0).or_default() += run.1;
        // The lowest of equals, so that the answer does not depend on the map's order.
        let (&offset, &ram_bytes) = shown
            .iter()
            .filter(|(_, bytes)| **bytes > 0)
            .max_by_key(|(offset, bytes)| (**bytes, u64::MAX - **offset))?;
        let mut range: Option<VirtRange> = None;
        let mut pages = PageCounts::default();
        for page in snapshot.leaves(root, VirtRange::half(Half::Kernel)) {
            if offset_of(&page) != offset {
                continue;
            }
            pages.add(page.size);
            let first = range.map_or(page.va, |range| range.first);
            let last = page.range().last;
            range = Some(VirtRange { first, last });
        }
        Some(DirectMap {
            base: GuestVirt::new(offset),
            range: range?,
            ram_bytes,
            pages,
        })
    }
}

/// Where physical address 0 would be if everything were mapped as this page is.
fn offset_of(page: &Mapping) -> u64 {
    page.va.get().wrapping_sub(page.pa.get())
}

/// How many of `bytes` bytes from `start` are RAM.
pub(super) fn ram_bytes(ram: &[PhysRange], start: GuestPhys, bytes: u64) -> u64 {
    let end = start.get().saturating_add(bytes);
    let first = ram.partition_point(|range| range.end() <= start);
    ram[first..]
        .iter()
        .take_while(|range| range.start.get() < end)
        .map(|range| range.end().get().min(end) - range.start.max(start).get())
        .sum()
}
