//! Addresses of the vmalloc area: which are taken, and by allocations of which size.

use super::{VirtAddr, depth};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::Region;

/// Allocations that there may be at one time.
const MAX_AREAS: usize = 1024;
/// Unmapped pages behind each allocation, so that an overrun faults.
const GUARD_PAGES: u64 = 1;

/// A page of an allocation: an address of the vmalloc area, where nothing lies that the kernel's Rust
/// code relies on. So changing its mapping endangers nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page(VirtAddr);

impl Page {
    pub const fn address(self) -> VirtAddr {
        self.0
    }
}

/// An allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    start: VirtAddr,
    pages: u64,
}

impl Area {
    const EMPTY: Area = Area {
        start: VirtAddr::new(0),
        pages: 0,
    };

    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// How many pages it has.
    pub const fn length(self) -> u64 {
        self.pages
    }

    /// Each of its pages.
    pub fn pages(self) -> impl Iterator<Item = Page> {
        self.first_pages(self.pages)
    }

    /// Its first `count` pages, if it has so many.
    pub fn first_pages(self, count: u64) -> impl Iterator<Item = Page> {
        let start = self.start.get();
        (0..count.min(self.pages)).map(move |page| Page(VirtAddr::new(start + page * PAGE_SIZE)))
    }

    /// First address that another allocation may use.
    const fn end(self) -> u64 {
        self.start.get() + (self.pages + GUARD_PAGES) * PAGE_SIZE
    }
}

/// All allocations, in ascending order.
pub struct Vmalloc {
    first: u64,
    areas: [Area; MAX_AREAS],
    count: usize,
}

impl Vmalloc {
    /// Gives out addresses of the vmalloc region, once it is told where to start.
    pub const fn new() -> Vmalloc {
        Vmalloc {
            first: 0,
            areas: [Area::EMPTY; MAX_AREAS],
            count: 0,
        }
    }

    /// Gives out no addresses below `first`, which is in the vmalloc region.
    pub fn start_at(&mut self, first: VirtAddr) {
        assert!(
            Region::Vmalloc.contains(first.get(), depth()),
            "not of the vmalloc area"
        );
        self.first = first.get();
    }

    /// The lowest address that may be given out.
    pub fn first(&self) -> VirtAddr {
        VirtAddr::new(self.first)
    }

    /// Takes the lowest gap that holds `pages` and the guard behind them.
    pub fn reserve(&mut self, pages: u64) -> Option<Area> {
        let largest = (Region::Vmalloc.end(depth()) - self.first) / PAGE_SIZE - GUARD_PAGES;
        if pages == 0 || pages > largest || self.count == MAX_AREAS {
            return None;
        }
        let mut start = self.first;
        let mut at = 0;
        for area in &self.areas[..self.count] {
            if (Area {
                start: VirtAddr::new(start),
                pages,
            })
            .end()
                <= area.start.get()
            {
                break;
            }
            start = area.end();
            at += 1;
        }
        let area = Area {
            start: VirtAddr::new(start),
            pages,
        };
        if area.end() > Region::Vmalloc.end(depth()) {
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
