//! The kernel half: one set of mappings that every address space shall show.

use super::entry::{Entry, Flags, Level};
use super::frame::{FrameAllocator, FrameList, Use};
use super::propagation::{self, Propagation, Spaces};
use super::table::Table;
use super::vmalloc::{Area, Vmalloc};
use super::{Frame, OutOfFrames, VirtAddr};
use crate::bug;
use crate::counters::{COUNTERS, Counter};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::Region;
use heirloom_abi::syscall::{Errno, PROT_READ, PROT_WRITE};

/// Most frames that a mapping event lists.
pub const MOST_LISTED: usize = 256;

/// The kernel's root, its strategy and its vmalloc area.
pub struct KernelSpace {
    root: Table,
    propagation: &'static dyn Propagation,
    areas: Vmalloc,
    /// The roots of all processes.
    processes: FrameList,
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
        processes: FrameList::new(),
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
        propagation::activate(propagation.strategy(), root);
        propagation.prepare(root, first, frames)
    }

    pub fn root(&self) -> Table {
        self.root
    }

    pub fn propagation(&self) -> &'static dyn Propagation {
        self.propagation
    }

    /// A new root whose kernel half comes from `parent`'s; `None` stands for the kernel's own.
    pub fn new_root(
        &mut self,
        parent: Option<Table>,
        frames: &mut FrameAllocator,
    ) -> Result<Table, OutOfFrames> {
        let root = Table::allocate(Level::Pgd, frames)?;
        let (mut spaces, propagation) = self.spaces(parent.unwrap_or(self.root), frames);
        if let Err(error) = propagation.inherit(&mut spaces, root) {
            self.propagation.disinherit(root, frames);
            frames.free_table(root.frame());
            return Err(error);
        }
        if bug::is(Bug::ChildMissesEntry) && parent.is_some() {
            root.set_kernel(Region::Vmalloc.pgd_entries().0, Entry::ABSENT);
        }
        if bug::is(Bug::ChildCopiesTable) && parent.is_some() {
            let index = Region::Vmalloc.pgd_entries().0;
            if let Some(child) = root.child(index) {
                let copy = child.duplicate(frames)?;
                root.set_kernel(index, Entry::new(copy.frame(), Flags::KERNEL_TABLE));
            }
        }
        self.processes.insert(root.frame());
        Ok(root)
    }

    /// Frees a root that no CPU uses and whose user half is empty.
    pub fn drop_root(&mut self, root: Table, frames: &mut FrameAllocator) {
        self.processes.remove(root.frame());
        self.propagation.disinherit(root, frames);
        frames.free_table(root.frame());
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
        frames: &mut FrameAllocator,
    ) -> Result<(Area, u64), Errno> {
        let area = self.areas.find(start).ok_or(Errno::NoSuchProcess)?;
        let protection = PROT_READ | if writable { PROT_WRITE } else { 0 };
        let forgotten = u64::from(bug::is(Bug::ProtectForgetsLast));
        for page in (Area {
            pages: area.pages - forgotten,
            ..area
        })
        .pages()
        {
            let flags = self.propagation.leaf(Flags::kernel(protection));
            let (mut spaces, propagation) = self.spaces(current, frames);
            propagation.change(&mut spaces, page, Some(flags));
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
        let mut flags = self.propagation.leaf(Flags::KERNEL_DATA);
        if bug::is(Bug::UserBit) {
            flags = flags.with(Flags::USER);
        }
        if bug::is(Bug::ExecutableData) {
            flags = flags.without(Flags::NO_EXECUTE);
        }
        let leaf = Entry::new(frame, flags);
        let (mut spaces, propagation) = self.spaces(current, frames);
        if let Err(error) = propagation.map(&mut spaces, page, leaf) {
            frames.free_kernel(frame);
            return Err(error);
        }
        Ok(frame)
    }

    fn unmap(&mut self, area: Area, current: Table, frames: &mut FrameAllocator) {
        for (page, number) in area.pages().zip(1..) {
            let (mut spaces, propagation) = self.spaces(current, frames);
            let old = if bug::is(Bug::UnmapForgetsLast) && number == area.pages {
                spaces.kernel.leaf(page).map(|(_, _, entry)| entry)
            } else {
                propagation.change(&mut spaces, page, None)
            };
            if let Some(old) = old {
                flush_page(page);
                if !bug::is(Bug::LeakedKernelMemory) {
                    frames.free_kernel(old.frame());
                }
            }
        }
        if bug::is(Bug::FreedSharedTable)
            && let Some(table) = self.root.table(area.start, Level::Pt)
        {
            frames.free_table(table.frame());
        }
    }

    fn spaces<'a>(
        &'a self,
        current: Table,
        frames: &'a mut FrameAllocator,
    ) -> (Spaces<'a>, &'static dyn Propagation) {
        let spaces = Spaces {
            kernel: self.root,
            current,
            processes: &self.processes,
            frames,
        };
        (spaces, self.propagation)
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
