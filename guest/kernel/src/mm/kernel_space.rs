//! The kernel half: one set of mappings that every address space shall show.

use super::entry::{Entry, Flags, Level};
use super::frame::{FrameAllocator, Use};
use super::propagation::{self, Propagation, Roots};
use super::table::Table;
use super::vmalloc::{Area, Vmalloc};
use super::{Frame, OutOfFrames, VirtAddr};
use crate::counters::{COUNTERS, Counter};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::syscall::{Errno, PROT_READ, PROT_WRITE};

/// Most frames that a mapping event lists.
pub const MOST_LISTED: usize = 256;

/// The kernel's root, its strategy and its vmalloc area.
pub struct KernelSpace {
    root: Table,
    propagation: &'static dyn Propagation,
    areas: Vmalloc,
}

/// A mapping just made: where, and the frames of its first pages.
pub struct Mapped {
    pub area: Area,
    pub frames: [u64; MOST_LISTED],
    pub listed: usize,
}

impl KernelSpace {
    /// Before the boot has built the kernel's tables.
    pub const BEFORE_BOOT: KernelSpace = KernelSpace {
        // SAFETY: nobody reads through it before `start` puts the real root into place.
        root: unsafe { Table::new(Frame(0), Level::Pgd) },
        propagation: propagation::DEFAULT,
        areas: Vmalloc::new(),
    };

    /// Takes over the tables that the boot built. Mappings will be made from `first` on.
    pub fn start(
        &mut self,
        root: Table,
        propagation: &'static dyn Propagation,
        first: VirtAddr,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        self.root = root;
        self.propagation = propagation;
        self.areas.start_at(first);
        propagation.prepare(root, first, frames)
    }

    pub fn root(&self) -> Table {
        self.root
    }

    pub fn propagation(&self) -> &'static dyn Propagation {
        self.propagation
    }

    /// The lowest address that allocations may get.
    pub fn first_address(&self) -> VirtAddr {
        self.areas.first()
    }

    /// Maps `pages` fresh pages of zeros, readable and writable, on behalf of the process whose
    /// root is `current`. All or nothing.
    ///
    /// # Errors
    /// [`Errno::NoMemory`] without enough frames or addresses.
    pub fn allocate(
        &mut self,
        pages: u64,
        current: Table,
        frames: &mut FrameAllocator,
    ) -> Result<Mapped, Errno> {
        let area = self.areas.reserve(pages).ok_or(Errno::NoMemory)?;
        let mut mapped = Mapped {
            area,
            frames: [0; MOST_LISTED],
            listed: 0,
        };
        for (page, address) in area.pages().zip(0..) {
            let Ok(frame) = self.map_fresh(page, current, frames) else {
                self.unmap(
                    Area {
                        pages: address,
                        ..area
                    },
                    current,
                    frames,
                );
                self.areas.release(area.start);
                return Err(Errno::NoMemory);
            };
            if mapped.listed < MOST_LISTED {
                mapped.frames[mapped.listed] = frame.0;
                mapped.listed += 1;
            }
        }
        Ok(mapped)
    }

    /// Unmaps the allocation that starts at `start` and gives its frames back.
    pub fn free(
        &mut self,
        start: VirtAddr,
        current: Table,
        frames: &mut FrameAllocator,
    ) -> Result<Area, Errno> {
        let area = self.areas.release(start).ok_or(Errno::NoSuchProcess)?;
        self.unmap(area, current, frames);
        Ok(area)
    }

    /// Gives the allocation that starts at `start` other permissions.
    pub fn protect(
        &mut self,
        start: VirtAddr,
        writable: bool,
        current: Table,
    ) -> Result<(Area, u64), Errno> {
        let area = self.areas.find(start).ok_or(Errno::NoSuchProcess)?;
        let protection = PROT_READ | if writable { PROT_WRITE } else { 0 };
        for page in area.pages() {
            let roots = self.roots(current);
            self.propagation
                .change(roots, page, Some(Flags::kernel(protection)));
            flush_page(page);
        }
        Ok((area, protection))
    }

    fn map_fresh(
        &mut self,
        page: VirtAddr,
        current: Table,
        frames: &mut FrameAllocator,
    ) -> Result<Frame, OutOfFrames> {
        let frame = frames.allocate_zeroed(Use::Kernel)?;
        let leaf = Entry::new(frame, Flags::KERNEL_DATA);
        let roots = self.roots(current);
        if let Err(error) = self.propagation.map(roots, page, leaf, frames) {
            frames.free_kernel(frame);
            return Err(error);
        }
        Ok(frame)
    }

    fn unmap(&mut self, area: Area, current: Table, frames: &mut FrameAllocator) {
        for page in area.pages() {
            if let Some(old) = self.propagation.change(self.roots(current), page, None) {
                flush_page(page);
                frames.free_kernel(old.frame());
            }
        }
    }

    fn roots(&self, current: Table) -> Roots {
        Roots {
            kernel: self.root,
            current,
        }
    }
}

/// Makes the CPU forget one page.
fn flush_page(page: VirtAddr) {
    COUNTERS.add(Counter::PageFlushes);
    x86_64::instructions::tlb::flush(x86_64::VirtAddr::new_truncate(page.0));
}

impl Area {
    /// The address of each of its pages.
    pub fn pages(self) -> impl Iterator<Item = VirtAddr> {
        let start = self.start.0;
        (0..self.pages).map(move |page| VirtAddr(start + page * PAGE_SIZE))
    }
}
