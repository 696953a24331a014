//! Kernel memory as its maker tells of it: what is mapped, what was written there, what was freed.

use std::collections::BTreeMap;

use serde::Serialize;

use heirloom_paging::addr::{PAGE_SIZE, Pfn, VirtAddr, VirtRange};
use heirloom_paging::level::Half;

/// Kernel memory that is said to be mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allocation {
    /// The addresses.
    pub range: VirtRange,
    /// Whether ring 0 may write there.
    pub writable: bool,
    /// The address space in which it was made; 0 is the kernel's own.
    pub maker: u32,
    /// The frames of its pages, as found in the maker's tables when it was made.
    pub frames: Vec<Pfn>,
    /// The event that told of it.
    pub made: u64,
    /// Bytes that were written, by address.
    #[serde(skip)]
    written: BTreeMap<u64, u8>,
}

impl Allocation {
    /// The address of each page.
    pub fn pages(&self) -> impl Iterator<Item = VirtAddr> + use<> {
        let first = self.range.first;
        (0..self.page_count()).map(move |page| first.wrapping_add(page * PAGE_SIZE))
    }

    /// How many pages it has.
    pub fn page_count(&self) -> u64 {
        self.range.bytes() / PAGE_SIZE
    }

    /// The frame of the page at `page`.
    pub fn frame_at(&self, page: VirtAddr) -> Option<Pfn> {
        let number = page.get().checked_sub(self.range.first.get())? / PAGE_SIZE;
        self.frames.get(usize::try_from(number).ok()?).copied()
    }

    /// What was last written to the 8 bytes at `address`; fresh memory is zero.
    pub fn value_at(&self, address: VirtAddr) -> u64 {
        let byte = |number: u64| {
            let at = address.wrapping_add(number).get();
            self.written.get(&at).copied().unwrap_or(0)
        };
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(byte))
    }

    pub(crate) fn write(&mut self, address: VirtAddr, value: u64) {
        for (number, byte) in (0..).zip(value.to_le_bytes()) {
            self.written
                .insert(address.wrapping_add(number).get(), byte);
        }
    }
}

/// A claim about kernel memory that cannot be true.
pub(crate) type Contradiction = String;

/// All kernel memory; ranges of allocations and freed ranges never overlap.
#[derive(Debug)]
pub(crate) struct KernelMemory {
    allocations: BTreeMap<u64, Allocation>,
    revoked: BTreeMap<u64, VirtRange>,
    /// Pages of all allocations together …
    pages: u64,
    /// … and the most that there can be, each page having a frame of its own.
    most_pages: u64,
}

impl KernelMemory {
    pub(crate) fn new(most_pages: u64) -> KernelMemory {
        KernelMemory {
            allocations: BTreeMap::new(),
            revoked: BTreeMap::new(),
            pages: 0,
            most_pages,
        }
    }

    /// Mapped, ascending.
    pub(crate) fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.values()
    }

    /// Freed and not mapped again, ascending.
    pub(crate) fn revoked(&self) -> impl Iterator<Item = VirtRange> {
        self.revoked.values().copied()
    }

    /// Pages of all allocations.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// The allocation that the whole of `range` lies in.
    pub(crate) fn holding(&self, range: VirtRange) -> Option<&Allocation> {
        let (_, allocation) = self.allocations.range(..=range.first.get()).next_back()?;
        allocation.range.contains(range.last).then_some(allocation)
    }

    /// Like [`KernelMemory::holding`].
    pub(crate) fn holding_mut(&mut self, range: VirtRange) -> Option<&mut Allocation> {
        let (_, allocation) = self
            .allocations
            .range_mut(..=range.first.get())
            .next_back()?;
        allocation.range.contains(range.last).then_some(allocation)
    }

    /// The allocation that starts at `address`.
    pub(crate) fn starting_at(&mut self, address: VirtAddr) -> Option<&mut Allocation> {
        self.allocations.get_mut(&address.get())
    }

    /// The last freed range that has an address of `range`.
    pub(crate) fn revoked_in(&self, range: VirtRange) -> Option<VirtRange> {
        let (_, revoked) = self.revoked.range(..=range.last.get()).next_back()?;
        revoked.overlaps(&range).then_some(*revoked)
    }

    /// Takes in that memory was mapped, unless that cannot be.
    pub(crate) fn map(
        &mut self,
        address: VirtAddr,
        pages: u64,
        writable: bool,
        maker: u32,
        event: u64,
    ) -> Result<(), Contradiction> {
        let cannot_be =
            |why: &str| format!("{pages} pages of kernel memory at {address} cannot be: {why}");
        let range = pages
            .checked_mul(PAGE_SIZE)
            .filter(|bytes| *bytes > 0)
            .and_then(|bytes| VirtRange::new(address, bytes).filter(|all| all.bytes() == bytes))
            .ok_or_else(|| cannot_be("no such range of addresses"))?;
        if address.half() != Half::Kernel || !address.get().is_multiple_of(PAGE_SIZE) {
            return Err(cannot_be("not a page of the kernel half"));
        }
        if self.pages.saturating_add(pages) > self.most_pages {
            return Err(cannot_be("RAM has not that many frames"));
        }
        let before = self.allocations.range(..=range.last.get()).next_back();
        if before.is_some_and(|(_, other)| other.range.overlaps(&range)) {
            return Err(cannot_be("some of it was mapped already"));
        }
        // What is mapped again is no longer revoked, page for page.
        while let Some(revoked) = self.revoked_in(range) {
            self.revoked.remove(&revoked.first.get());
            for rest in without(revoked, range) {
                self.revoked.insert(rest.first.get(), rest);
            }
        }
        self.pages += pages;
        let allocation = Allocation {
            range,
            writable,
            maker,
            frames: Vec::new(),
            made: event,
            written: BTreeMap::new(),
        };
        self.allocations.insert(address.get(), allocation);
        Ok(())
    }

    /// Takes in that memory was unmapped: the whole allocation, whatever the guest says of its size.
    pub(crate) fn unmap(&mut self, address: VirtAddr, pages: u64) -> Result<(), Contradiction> {
        let allocation = self
            .allocations
            .remove(&address.get())
            .ok_or_else(|| never_mapped(address))?;
        self.revoked.insert(address.get(), allocation.range);
        self.pages -= allocation.page_count();
        has_pages(&allocation, pages)
    }

    /// Takes in that memory has other permissions: the whole allocation.
    pub(crate) fn protect(
        &mut self,
        address: VirtAddr,
        pages: u64,
        writable: bool,
    ) -> Result<(), Contradiction> {
        let allocation = self
            .starting_at(address)
            .ok_or_else(|| never_mapped(address))?;
        allocation.writable = writable;
        has_pages(allocation, pages)
    }
}

fn never_mapped(address: VirtAddr) -> Contradiction {
    format!("no kernel memory was mapped at {address}")
}

fn has_pages(allocation: &Allocation, claimed: u64) -> Result<(), Contradiction> {
    if allocation.page_count() == claimed {
        return Ok(());
    }
    Err(format!(
        "the kernel memory at {} has {} pages, not {claimed}",
        allocation.range.first,
        allocation.page_count()
    ))
}

/// What is left of `range` without `hole`.
fn without(range: VirtRange, hole: VirtRange) -> impl Iterator<Item = VirtRange> {
    let below = (range.first < hole.first).then(|| VirtRange {
        first: range.first,
        last: VirtAddr::new(hole.first.get() - 1),
    });
    let above = (range.last > hole.last).then(|| VirtRange {
        first: VirtAddr::new(hole.last.get() + 1),
        last: range.last,
    });
    below.into_iter().chain(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: VirtAddr = VirtAddr::new(0xffff_c900_0000_0000);

    fn page(number: u64) -> VirtAddr {
        AT.wrapping_add(number * PAGE_SIZE)
    }

    fn pages(first: u64, count: u64) -> VirtRange {
        VirtRange::new(page(first), count * PAGE_SIZE).unwrap()
    }

    #[test]
    fn what_is_mapped_again_is_not_freed_any_more_and_the_rest_is() {
        let mut memory = KernelMemory::new(16);
        memory.map(page(0), 8, true, 1, 0).unwrap();
        memory.unmap(page(0), 8).unwrap();
        memory.map(page(2), 3, true, 1, 1).unwrap();
        assert!(memory.revoked().eq([pages(0, 2), pages(5, 3)]));
        assert!(memory.map(page(4), 2, true, 1, 2).is_err());
        assert_eq!(memory.pages(), 3);
        assert_eq!(memory.revoked_in(pages(1, 1)), Some(pages(0, 2)));
        assert_eq!(memory.revoked_in(pages(2, 3)), None);
    }

    #[test]
    fn a_write_at_an_odd_address_changes_the_words_that_it_touches() {
        let mut memory = KernelMemory::new(16);
        memory.map(page(0), 1, true, 1, 0).unwrap();
        let allocation = memory.starting_at(page(0)).unwrap();
        allocation.write(page(0), u64::MAX);
        allocation.write(page(0).wrapping_add(4), 0x1122_3344_5566_7788);
        assert_eq!(allocation.value_at(page(0)), 0x5566_7788_ffff_ffff);
        assert_eq!(allocation.value_at(page(0).wrapping_add(8)), 0x1122_3344);
    }
}
