//! Addresses of the vmalloc area: which are taken, and by allocations of which size.

use super::VirtAddr;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::Region;

/// Most allocations at one time.
const MOST: usize = 1024;
/// Unmapped pages behind each allocation, so that an overrun faults.
const GUARD_PAGES: u64 = 1;

/// An allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    pub start: VirtAddr,
    pub pages: u64,
}

impl Area {
    const EMPTY: Area = Area {
        start: VirtAddr(0),
        pages: 0,
    };

    /// First address that another allocation may use.
    const fn end(self) -> u64 {
        self.start.0 + (self.pages + GUARD_PAGES) * PAGE_SIZE
    }
}

/// All allocations, in ascending order.
pub struct Vmalloc {
    first: u64,
    areas: [Area; MOST],
    count: usize,
}

impl Vmalloc {
    /// Gives out addresses of the vmalloc region.
    pub const fn new() -> Vmalloc {
        Vmalloc {
            first: Region::Vmalloc.start(),
            areas: [Area::EMPTY; MOST],
            count: 0,
        }
    }

    /// Gives out no addresses below `first`.
    pub fn start_at(&mut self, first: VirtAddr) {
        self.first = first.0;
    }

    /// The lowest address that may be given out.
    pub fn first(&self) -> VirtAddr {
        VirtAddr(self.first)
    }

    /// Takes the lowest gap that holds `pages` and the guard behind them.
    pub fn reserve(&mut self, pages: u64) -> Option<Area> {
        let largest = (Region::Vmalloc.end() - self.first) / PAGE_SIZE - GUARD_PAGES;
        if pages == 0 || pages > largest || self.count == MOST {
            return None;
        }
        let mut start = self.first;
        let mut at = 0;
        for area in &self.areas[..self.count] {
            if (Area {
                start: VirtAddr(start),
                pages,
            })
            .end()
                <= area.start.0
            {
                break;
            }
            start = area.end();
            at += 1;
        }
        let area = Area {
            start: VirtAddr(start),
            pages,
        };
        if area.end() > Region::Vmalloc.end() {
            return None;
        }
        self.areas.copy_within(at..self.count, at + 1);
        self.areas[at] = area;
        self.count += 1;
        Some(area)
    }

    /// The allocation that starts at `start`.
    pub fn find(&self, start: VirtAddr) -> Option<Area> {
        let at = self.position(start)?;
        Some(self.areas[at])
    }

    /// Gives the addresses of the allocation at `start` back.
    pub fn release(&mut self, start: VirtAddr) -> Option<Area> {
        let at = self.position(start)?;
        let area = self.areas[at];
        self.areas.copy_within(at + 1..self.count, at);
        self.count -= 1;
        Some(area)
    }

    fn position(&self, start: VirtAddr) -> Option<usize> {
        self.areas[..self.count]
            .iter()
            .position(|area| area.start == start)
    }
}
