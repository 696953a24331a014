//! The kernel half: one set of mappings that every address space shall show.

use super::frame::{FrameAllocator, FrameList, Use};
use super::half::KernelHalf;
use super::propagation::{self, Mapping, Propagation, Spaces};
use super::protection;
use super::root::{KernelRoot, Root};
use super::table::Node;
use super::vmalloc::{Area, Page, Vmalloc};
use super::{Entry, Frame, Level, OutOfFrames, Pfn, VirtAddr};
use crate::arch::cpu;
use crate::counters::{COUNTERS, Counter};
use crate::fault_injection::inject;
use crate::smp::shootdown;
use core::mem::MaybeUninit;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::propagation::Strategy;
use heirloom_abi::syscall::{Errno, PROT_READ, PROT_WRITE};

/// Frames that a mapping event lists at most.
pub const MAX_LISTED: usize = 256;

/// The kernel's root, its strategy and its vmalloc area.
pub struct KernelSpace {
    root: KernelRoot,
    strategy: Strategy,
    propagation: &'static dyn Propagation,
    isolates: bool,
    areas: Vmalloc,
    /// The roots of all processes.
    processes: FrameList,
}

/// A mapping just made: where, and the frames of its first pages.
pub struct Mapped {
    pub area: Area,
    pub frames: [u64; MAX_LISTED],
    pub listed: usize,
}

impl KernelSpace {
    /// Before the boot has built the kernel's tables.
    pub const BEFORE_BOOT: KernelSpace = KernelSpace {
        // SAFETY: nobody reads through it before `start` puts the real root into place.
        root: unsafe { KernelRoot::new(Root::new(Frame::new(Pfn::new(0)))) },
        strategy: Strategy::DEFAULT,
        propagation: propagation::of(Strategy::DEFAULT),
        isolates: false,
        areas: Vmalloc::new(),
        // SAFETY: the first root is added after `start`.
        processes: unsafe { FrameList::new() },
    };

    /// Takes over the tables that the boot built. Mappings will be made from `first` on.
    pub fn start(
        &mut self,
        root: KernelRoot,
        strategy: Strategy,
        first: VirtAddr,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        self.root = root;
        self.strategy = strategy;
        self.propagation = propagation::of(strategy);
        self.isolates = self.propagation.isolates();
        self.areas.start_at(first);
        propagation::activate(strategy, root);
        self.propagation.prepare(root, first, frames)
    }

    pub fn root(&self) -> Root {
        self.root.root()
    }

    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Whether ring 3 runs on roots that have the entry trampoline only, and the kernel on its own.
    #[inline]
    pub fn isolates(&self) -> bool {
        self.isolates
    }

    /// A new root whose kernel half comes from `parent`'s; `None` stands for the kernel's own.
    pub fn new_root(
        &mut self,
        parent: Option<Root>,
        frames: &mut FrameAllocator,
    ) -> Result<Root, OutOfFrames> {
        let root = Root::allocate(frames)?;
        let (mut spaces, propagation) = self.spaces(parent.unwrap_or(self.root()), frames);
        let inherited = propagation.inherit(&mut spaces, root);
        self.processes.insert(root.frame());
        if let Err(error) = inherited {
            // SAFETY: a new root, which nobody has loaded.
            unsafe { self.drop_root(root, frames) };
            return Err(error);
        }
        if inject(Bug::ChildMissesEntry) && parent.is_some() {
            // SAFETY: the deliberate bug. The kernel itself needs nothing of the vmalloc area.
            unsafe {
                root.half()
                    .set(propagation::vmalloc_entries().first, Entry::ABSENT);
            }
        }
        if inject(Bug::ChildCopiesTable)
            && parent.is_some()
            && let Some(child) = root
                .half::<KernelHalf>()
                .child(propagation::vmalloc_entries().first)
        {
            let copy = child.duplicate(frames)?;
            let entry = Entry::pointing_to(copy.frame().start(), protection::KERNEL_TABLE);
            // SAFETY: the deliberate bug; the copy leads where the original led, and is never freed.
            unsafe { root.half().set(propagation::vmalloc_entries().first, entry) };
        }
        Ok(root)
    }

    /// Frees a root.
    ///
    /// # Safety
    /// 1. It came from [`KernelSpace::new_root`], no CPU uses it or remembers it, and no handle to it is
    ///    used again.
    /// 2. Its user half is empty.
    pub unsafe fn drop_root(&mut self, root: Root, frames: &mut FrameAllocator) {
        self.processes.remove(root.frame());
        // SAFETY: obligations 1 and 2.
        unsafe {
            self.propagation.disinherit(root, frames);
            frames.free_table(root.frame());
        }
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
        current: Root,
        frames: &mut FrameAllocator,
    ) -> Result<Mapped, Errno> {
        let area = self.areas.reserve(pages).ok_or(Errno::NoMemory)?;
        let mut mapped = Mapped {
            area,
            frames: [0; MAX_LISTED],
            listed: 0,
        };
        for (page, done) in area.pages().zip(0..) {
            let Ok(frame) = self.map_fresh(page, current, frames) else {
                self.unmap(area, done, current, frames);
                self.areas.release(area.start());
                return Err(Errno::NoMemory);
            };
            if mapped.listed < MAX_LISTED {
                mapped.frames[mapped.listed] = frame.pfn().get();
                mapped.listed += 1;
            }
        }
        Ok(mapped)
    }

    /// Unmaps the allocation that starts at `start` and gives its frames back.
    pub fn free(
        &mut self,
        start: VirtAddr,
        current: Root,
        frames: &mut FrameAllocator,
    ) -> Result<Area, Errno> {
        let area = self.areas.release(start).ok_or(Errno::NoSuchProcess)?;
        self.unmap(area, area.length(), current, frames);
        Ok(area)
    }

    /// Gives the allocation that starts at `start` other permissions.
    pub fn protect(
        &mut self,
        start: VirtAddr,
        writable: bool,
        current: Root,
        frames: &mut FrameAllocator,
    ) -> Result<(Area, u64), Errno> {
        let area = self.areas.find(start).ok_or(Errno::NoSuchProcess)?;
        let protection = PROT_READ | if writable { PROT_WRITE } else { 0 };
        let forgotten = u64::from(inject(Bug::ProtectForgetsLast));
        for page in area.first_pages(area.length() - forgotten) {
            let attributes = self
                .propagation
                .leaf_attributes(protection::kernel_page(protection));
            let (mut spaces, propagation) = self.spaces(current, frames);
            propagation.change(&mut spaces, page, Some(attributes));
            if !inject(Bug::ProtectWithoutFlush) {
                flush_page(page);
            }
        }
        shootdown::all_others(area.start(), area.length());
        Ok((area, protection))
    }

    fn map_fresh(
        &mut self,
        page: Page,
        current: Root,
        frames: &mut FrameAllocator,
    ) -> Result<Frame, OutOfFrames> {
        let frame = frames.allocate_zeroed(Use::Kernel)?;
        let mut attributes = self.propagation.leaf_attributes(protection::KERNEL_DATA);
        if inject(Bug::UserBit) {
            attributes = attributes.with(Entry::USER);
        }
        if inject(Bug::ExecutableData) {
            attributes = attributes.without(Entry::NO_EXECUTE);
        }
        // SAFETY: a fresh frame, which is nobody else's.
        let mapping = unsafe { Mapping::new(page, frame, attributes) };
        let (mut spaces, propagation) = self.spaces(current, frames);
        if let Err(error) = propagation.map(&mut spaces, mapping) {
            // SAFETY: `map` fails before it has mapped anything.
            unsafe { frames.free_kernel(frame) };
            return Err(error);
        }
        Ok(frame)
    }

    /// Unmaps the first `count` pages. Their frames are free when every CPU has dropped the pages.
    fn unmap(&mut self, area: Area, count: u64, current: Root, frames: &mut FrameAllocator) {
        let last = count.min(area.length());
        let mut gone = Batch::new();
        let (mut first, mut pages) = (area.start(), 0);
        for (page, number) in area.first_pages(last).zip(1..) {
            if inject(Bug::FlushBeforeUnmap) {
                flush_page(page);
            }
            let (mut spaces, propagation) = self.spaces(current, frames);
            let old = if inject(Bug::UnmapForgetsLast) && number == last {
                let root = spaces.kernel.root();
                root.leaf::<KernelHalf>(page.address())
                    .map(|leaf| leaf.entry)
            } else {
                propagation.change(&mut spaces, page, None)
            };
            pages += 1;
            if let Some(old) = old {
                flush_unmapped(page);
                // SAFETY: `map_fresh` put a frame of RAM there.
                gone.push(unsafe { Frame::new(old.address().pfn()) });
            }
            if gone.is_full() || number == last {
                shootdown::all_others(first, pages);
                for frame in gone.drain() {
                    if !inject(Bug::LeakedKernelMemory) {
                        // SAFETY: the strategy has taken the mapping out of every address space that had it,
                        // and all CPUs have flushed it.
                        unsafe { frames.free_kernel(frame) };
                    }
                }
                (first, pages) = (first.wrapping_add(pages * PAGE_SIZE), 0);
            }
        }
        if inject(Bug::FreedSharedTable)
            && let Some(table) = self.root().table::<KernelHalf>(area.start(), Level::Pt)
        {
            // SAFETY: none, that is the bug: the entry above still leads there, and the next mapping below
            // it is written to a frame that may have become something else.
            unsafe { frames.free_table(table.frame()) };
        }
        if inject(Bug::TableFreedUnflushed)
            && let Some(above) = self.root().table::<KernelHalf>(area.start(), Level::Pd)
            && let Some(table) = above.child(above.index(area.start()))
            && table.used().next().is_none()
        {
            // SAFETY: the deliberate bug. No entry leads to the table any more, but the CPU may remember one
            // that did.
            unsafe {
                above.set(above.index(area.start()), Entry::ABSENT);
                frames.free_table(table.frame());
            }
        }
    }

    fn spaces<'a>(
        &'a self,
        current: Root,
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

/// Frames that are to be freed together, when all CPUs have forgotten them: so many cost one interrupt each.
struct Batch {
    frames: [MaybeUninit<Frame>; Batch::ROOM],
    count: usize,
}

impl Batch {
    const ROOM: usize = 32;

    const fn new() -> Batch {
        Batch {
            frames: [const { MaybeUninit::uninit() }; Batch::ROOM],
            count: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.count == Batch::ROOM
    }

    fn push(&mut self, frame: Frame) {
        self.frames[self.count].write(frame);
        self.count += 1;
    }

    /// Takes all of them out.
    fn drain(&mut self) -> impl Iterator<Item = Frame> {
        let count = core::mem::take(&mut self.count);
        // SAFETY: `push` has filled that many.
        self.frames[..count]
            .iter()
            .map(|frame| unsafe { frame.assume_init() })
    }
}

/// Makes the CPU forget a page that is unmapped.
fn flush_unmapped(page: Page) {
    if inject(Bug::UnmapWithoutFlush)
        || inject(Bug::FlushBeforeUnmap)
        || inject(Bug::ReuseBeforeFlush)
        || inject(Bug::TableFreedUnflushed)
    {
    } else if inject(Bug::FlushWrongPage) {
        cpu::flush_page(page.address().wrapping_add(PAGE_SIZE));
    } else if inject(Bug::FlushKeepsGlobal) {
        cpu::reload_root();
    } else {
        flush_page(page);
    }
}

/// Makes this CPU forget one page.
fn flush_page(page: Page) {
    COUNTERS.add(Counter::PageFlushes);
    cpu::flush_page(page.address());
}
