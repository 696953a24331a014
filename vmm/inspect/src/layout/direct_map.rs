//! Where the direct map is: told by the tables, not by a constant, because kernels move it (KASLR).

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Serialize;

use crate::leaves::Mapping;
use crate::memory::PhysRange;
use crate::ranges::PageCounts;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::level::Half;

/// The linear mapping that shows most of RAM: physical address `pa` at `base + pa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DirectMap {
    /// Where physical address 0 is, or would be.
    pub base: VirtAddr,
    /// From the first to the last page that is mapped so, or that has the address of some RAM and leads
    /// elsewhere.
    pub range: VirtRange,
    /// Bytes of RAM that it maps.
    pub ram_bytes: u64,
    /// Its pages, by size.
    pub pages: PageCounts,
}

impl DirectMap {
    /// Where `va` must lead if it belongs to the direct map.
    pub const fn physical(&self, va: VirtAddr) -> PhysAddr {
        PhysAddr::new(va.get().wrapping_sub(self.base.get()))
    }

    /// The linear mapping of the kernel half of `root` that shows most of `ram`; `None` if nothing of
    /// RAM is mapped there.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn find(snapshot: &Snapshot, root: RootId, ram: &[PhysRange]) -> Option<DirectMap> {
        DirectMap::find_in(snapshot, root, &[VirtRange::half(Half::Kernel)], ram)
    }

    /// As [`DirectMap::find`], in these ranges, which ascend, of `root`. A mapping of which much leads
    /// elsewhere than in a line is none.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn find_in(
        snapshot: &Snapshot,
        root: RootId,
        ranges: &[VirtRange],
        ram: &[PhysRange],
    ) -> Option<DirectMap> {
        let leaves = || {
            ranges
                .iter()
                .flat_map(|range| snapshot.distinct_leaves(root, *range))
        };
        let mut shown = Shown::default();
        for page in leaves() {
            shown.add(offset_of(&page), ram_bytes(ram, page.pa, page.size.bytes()));
        }
        let offset = shown.most()?;
        let mut range: Option<VirtRange> = None;
        let mut pages = PageCounts::default();
        let (mut bytes, mut elsewhere) = (0, 0);
        let ram_end = ram.last().map_or(0, |last| last.end().get());
        for page in leaves() {
            if offset_of(&page) == offset {
                pages.add(page.size);
                bytes += ram_bytes(ram, page.pa, page.size.bytes());
            } else if page.va.get().wrapping_sub(offset) >= ram_end {
                continue;
            } else {
                elsewhere += ram_bytes(ram, page.pa, page.size.bytes());
            }
            let first = range.map_or(page.va, |range| range.first);
            let last = page.range().last;
            range = Some(VirtRange { first, last });
        }
        if elsewhere > bytes / MIN_LINEAR {
            return None;
        }
        Some(DirectMap {
            base: VirtAddr::new(offset),
            range: range?,
            ram_bytes: bytes,
            pages,
        })
    }
}

/// Of a direct map, at most one part in so many may lead elsewhere than in a line; what has more of that is
/// no direct map with mistakes in it.
const MIN_LINEAR: u64 = 4;

/// Offsets that are remembered at once.
const MAX_OFFSETS: usize = 1 << 16;

/// How much of RAM is mapped at each offset. Scattered pages have an offset each, and tables can claim any
/// number of them: where there are too many, the half that shows least is forgotten. The direct map is in
/// one piece, or nearly.
#[derive(Default)]
struct Shown {
    by_offset: HashMap<u64, u64>,
    /// Neighbouring pages mostly have one offset: the present one, and what it shows.
    run: (u64, u64),
}

impl Shown {
    fn add(&mut self, offset: u64, bytes: u64) {
        if offset != self.run.0 {
            self.end_run();
            self.run = (offset, 0);
        }
        self.run.1 += bytes;
    }

    fn end_run(&mut self) {
        let (offset, bytes) = self.run;
        if bytes == 0 {
            return;
        }
        *self.by_offset.entry(offset).or_default() += bytes;
        if self.by_offset.len() > MAX_OFFSETS {
            let mut all: Vec<u64> = self.by_offset.values().copied().collect();
            let middle = all.len() / 2;
            let (_, median, _) = all.select_nth_unstable(middle);
            self.by_offset.retain(|_, bytes| *bytes > *median);
        }
    }

    /// The offset at which most is mapped; the lowest of equals, so that the answer does not depend on
    /// the map's order.
    fn most(mut self) -> Option<u64> {
        self.end_run();
        self.by_offset
            .into_iter()
            .max_by_key(|&(offset, bytes)| (bytes, Reverse(offset)))
            .map(|(offset, _)| offset)
    }
}

/// Where physical address 0 would be if everything were mapped as this page is.
fn offset_of(page: &Mapping) -> u64 {
    page.va.get().wrapping_sub(page.pa.get())
}

/// How many of `bytes` bytes from `start` are RAM.
pub(super) fn ram_bytes(ram: &[PhysRange], start: PhysAddr, bytes: u64) -> u64 {
    let end = start.get().saturating_add(bytes);
    let first = ram.partition_point(|range| range.end() <= start);
    ram[first..]
        .iter()
        .take_while(|range| range.start.get() < end)
        .map(|range| range.end().get().min(end) - range.start.max(start).get())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_most_is_remembered_however_many_pages_lie_scattered_before_and_behind_it() {
        let mut shown = Shown::default();
        let scattered = |shown: &mut Shown, first: u64| {
            for number in 0..300_000 {
                shown.add(first + (number << 13), 4096);
            }
        };
        scattered(&mut shown, 1 << 50);
        for _ in 0..512 {
            shown.add(42, 2 << 20);
        }
        scattered(&mut shown, 1 << 51);
        assert!(shown.by_offset.len() <= MAX_OFFSETS);
        assert_eq!(shown.most(), Some(42));
    }

    #[test]
    fn of_equals_the_lowest_is_taken_and_what_shows_no_ram_does_not_count() {
        let mut shown = Shown::default();
        for (offset, bytes) in [(9, 4096), (7, 4096), (8, 4096), (1, 0)] {
            shown.add(offset, bytes);
        }
        assert_eq!(shown.most(), Some(7));
        assert_eq!(Shown::default().most(), None);
    }
}
