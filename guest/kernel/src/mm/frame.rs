//! The frame allocator: every frame of RAM has one use, and all uses add up to all of RAM.
//!
//! Never-used frames are taken from the boot's free ranges in ascending order; freed ones are kept
//! in two lists, because a page table is empty when it is freed and need not be zeroed again.

use super::boot_value::BootValue;
use super::{Depth, OutOfFrames, Pfn, PhysAddr, direct_map};
use crate::boot::memory_map::Ranges;
use crate::fault_injection::inject;
use core::cell::Cell;
use core::marker::PhantomData;
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::Region;

/// A frame of RAM: it has an entry in the vmemmap, and the direct map shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(Pfn);

impl Frame {
    /// Frame number `pfn`.
    ///
    /// # Safety
    /// 1. It is a frame of RAM, as the memory map has it.
    pub const unsafe fn new(pfn: Pfn) -> Frame {
        Frame(pfn)
    }

    /// Its number.
    pub const fn pfn(self) -> Pfn {
        self.0
    }

    /// Its first byte.
    pub const fn start(self) -> PhysAddr {
        self.0.base()
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Use {
    /// Before the allocator, or free and never used: the value of untouched memory.
    Unmanaged = 0,
    Free,
    /// A page table of any level.
    Table,
    /// Memory of ring-3 processes.
    User,
    /// Kernel data.
    Kernel,
}

/// What the kernel knows of one frame: Linux's `struct page`, in the vmemmap area.
#[repr(C)]
struct PageInfo {
    used_for: Cell<Use>,
    /// User frames: how many leaf entries map it. User tables: how many entries are present.
    references: Cell<u32>,
    /// Free frames and roots: the next in the list, by frame number, or 0.
    next: Cell<u32>,
    /// Roots: the one before in the list, or 0.
    previous: Cell<u32>,
}

impl PageInfo {
    fn add_reference(&self) {
        self.references.set(self.references.get() + 1);
    }

    /// How many are left.
    fn remove_reference(&self) -> u32 {
        let left = self.references.get() - 1;
        self.references.set(left);
        left
    }
}

/// Where the vmemmap begins: a value of its own, because it is asked for so often.
static VMEMMAP: BootValue<u64> = BootValue::new(Region::Vmemmap.start(Depth::Four));

/// Takes over how many levels the page tables have.
///
/// # Safety
/// As for [`BootValue::set`].
pub unsafe fn set_vmemmap(depth: Depth) {
    // SAFETY: the caller's.
    unsafe { VMEMMAP.set(Region::Vmemmap.start(depth)) };
}

/// Access to the [`PageInfo`] of every frame, for those whose users take turns: it is neither `Send` nor
/// `Sync`, and its owners stand behind the kernel's lock.
#[derive(Clone, Copy)]
struct Vmemmap(PhantomData<*const PageInfo>);

impl Vmemmap {
    /// # Safety
    /// 1. The vmemmap of all RAM is mapped, zeroed, before [`Vmemmap::info`] is called.
    /// 2. All values of this type are used by one CPU at a time.
    const unsafe fn new() -> Vmemmap {
        Vmemmap(PhantomData)
    }

    #[inline]
    #[expect(clippy::unused_self, reason = "to have it is the right to ask")]
    fn info(self, frame: Frame) -> &'static PageInfo {
        let address = VMEMMAP.get() + frame.pfn().get() * PAGE_INFO_SIZE;
        // SAFETY: `new` promised that it is mapped, zero is a valid PageInfo, and all of its fields are
        // cells, of which there may be any number of references on one CPU.
        unsafe { &*(address as *const PageInfo) }
    }

    fn push(self, head: &mut u32, frame: Frame) {
        self.info(frame).next.set(*head);
        *head = number(frame);
    }

    fn pop(self, head: &mut u32) -> Option<Frame> {
        let frame = from_number(*head)?;
        *head = self.info(frame).next.get();
        Some(frame)
    }
}

/// Bytes of vmemmap for each frame.
pub const PAGE_INFO_SIZE: u64 = size_of::<PageInfo>() as u64;

const _: () = assert!(PAGE_INFO_SIZE == 16);

/// Gives out frames and counts them.
pub struct FrameAllocator {
    vmemmap: Vmemmap,
    fresh: Ranges,
    fresh_is_zero: bool,
    zeroed: u32,
    dirty: u32,
    total: u64,
    free: u64,
    table: u64,
    user: u64,
    kernel: u64,
}

/// How many frames each use has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    pub total: u64,
    pub free: u64,
    pub table: u64,
    pub user: u64,
    pub kernel: u64,
    pub reserved: u64,
}

impl FrameAllocator {
    /// `fresh` are the free frames of a RAM of `total` frames; `fresh_is_zero` says that nobody
    /// wrote to them since the machine was made.
    ///
    /// # Safety
    /// 1. `fresh` is RAM, in the direct map, that nobody uses and no other allocator owns.
    /// 2. Until the vmemmap of all RAM is mapped, nothing but [`FrameAllocator::allocate_at_boot`] and
    ///    [`FrameAllocator::usage`] is called.
    // By value, because the allocator takes the ranges over.
    #[allow(clippy::large_types_passed_by_value)]
    pub const unsafe fn new(total: u64, fresh: Ranges, fresh_is_zero: bool) -> FrameAllocator {
        let free = fresh.frames();
        FrameAllocator {
            // SAFETY: obligation 2; the allocator is part of the kernel behind its lock.
            vmemmap: unsafe { Vmemmap::new() },
            fresh,
            fresh_is_zero,
            zeroed: 0,
            dirty: 0,
            total,
            free,
            table: 0,
            user: 0,
            kernel: 0,
        }
    }

    /// A frame of zeros.
    pub fn allocate_zeroed(&mut self, used_for: Use) -> Result<Frame, OutOfFrames> {
        if let Some(frame) = self.vmemmap.pop(&mut self.zeroed) {
            return Ok(self.taken(frame, used_for));
        }
        if let Some(pfn) = self.fresh.take_first() {
            // SAFETY: `new` was given ranges of RAM.
            let frame = unsafe { Frame::new(pfn) };
            if !self.fresh_is_zero {
                // SAFETY: a free frame; nobody refers to it.
                unsafe { direct_map::zero(frame) };
            }
            return Ok(self.taken(frame, used_for));
        }
        let frame = self.vmemmap.pop(&mut self.dirty).ok_or(OutOfFrames)?;
        // SAFETY: a free frame; nobody refers to it.
        unsafe { direct_map::zero(frame) };
        Ok(self.taken(frame, used_for))
    }

    /// A frame that the caller will overwrite as a whole.
    pub fn allocate_dirty(&mut self, used_for: Use) -> Result<Frame, OutOfFrames> {
        match self.vmemmap.pop(&mut self.dirty) {
            Some(frame) => Ok(self.taken(frame, used_for)),
            None => self.allocate_zeroed(used_for),
        }
    }

    /// Page tables and vmemmap backing for the boot, before any frame has a [`PageInfo`]: zeros,
    /// never freed. `count` frames in one piece, aligned to `count` frames.
    pub fn allocate_at_boot(&mut self, used_for: Use, count: u64) -> Result<Frame, OutOfFrames> {
        let first = self.fresh.take_aligned(count).ok_or(OutOfFrames)?;
        self.free -= count;
        if used_for == Use::Table {
            self.table += count;
        }
        if !self.fresh_is_zero {
            for number in first.get()..first.get() + count {
                // SAFETY: `new` was given ranges of RAM; a free frame, and nobody refers to it.
                unsafe { direct_map::zero(Frame::new(Pfn::new(number))) };
            }
        }
        // SAFETY: as above.
        Ok(unsafe { Frame::new(first) })
    }

    /// Takes back a page table all of whose entries are absent.
    ///
    /// # Safety
    /// 1. No entry leads to the table, no CPU has it loaded or remembers it, and no handle is used again.
    /// 2. All of its entries are zero.
    pub unsafe fn free_table(&mut self, frame: Frame) {
        self.given_back(frame, Use::Table);
        self.vmemmap.push(&mut self.zeroed, frame);
    }

    /// Takes back a page table that still has entries.
    ///
    /// # Safety
    /// As obligation 1 of [`FrameAllocator::free_table`].
    pub unsafe fn free_full_table(&mut self, frame: Frame) {
        self.given_back(frame, Use::Table);
        self.vmemmap.push(&mut self.dirty, frame);
    }

    /// Takes back a frame of kernel data.
    ///
    /// # Safety
    /// 1. Nobody refers to it, and no entry outside the direct map leads to it.
    pub unsafe fn free_kernel(&mut self, frame: Frame) {
        self.given_back(frame, Use::Kernel);
        if inject(Bug::ReuseBeforeFlush) || inject(Bug::FreedBeforeAnswer) {
            // SAFETY: the frame is nobody's.
            unsafe { direct_map::zero(frame) };
            self.vmemmap.push(&mut self.zeroed, frame);
            return;
        }
        self.vmemmap.push(&mut self.dirty, frame);
    }

    /// One more leaf entry maps this user frame.
    pub fn share(&mut self, frame: Frame) {
        self.vmemmap.info(frame).add_reference();
    }

    /// Whether one leaf entry alone maps this user frame.
    pub fn is_exclusive(&self, frame: Frame) -> bool {
        self.vmemmap.info(frame).references.get() == 1
    }

    /// One leaf entry fewer maps this user frame; the last one frees it.
    ///
    /// # Safety
    /// 1. An entry that was counted, by [`FrameAllocator::share`] or when the frame was allocated, is gone
    ///    or about to be overwritten, and no CPU uses an old translation of it before it is flushed.
    pub unsafe fn release_user(&mut self, frame: Frame) {
        if self.vmemmap.info(frame).remove_reference() == 0 {
            self.given_back(frame, Use::User);
            self.vmemmap.push(&mut self.dirty, frame);
        }
    }

    /// One more entry of this user table is present.
    pub fn table_gains(&mut self, table: Frame) {
        self.vmemmap.info(table).add_reference();
    }

    /// One entry fewer of this user table is present.
    pub fn table_loses(&mut self, table: Frame) {
        self.vmemmap.info(table).remove_reference();
    }

    /// Whether no entry of this user table is present.
    pub fn table_is_empty(&self, table: Frame) -> bool {
        self.vmemmap.info(table).references.get() == 0
    }

    /// How the frames are used now.
    pub fn usage(&self) -> Usage {
        let Self {
            total,
            free,
            table,
            user,
            kernel,
            ..
        } = *self;
        Usage {
            total,
            free,
            table,
            user,
            kernel,
            reserved: total - free - table - user - kernel,
        }
    }

    fn taken(&mut self, frame: Frame, used_for: Use) -> Frame {
        let info = self.vmemmap.info(frame);
        debug_assert!(matches!(info.used_for.get(), Use::Free | Use::Unmanaged));
        info.used_for.set(used_for);
        info.references.set(u32::from(used_for == Use::User));
        self.free -= 1;
        *self.counter(used_for) += 1;
        frame
    }

    fn given_back(&mut self, frame: Frame, used_for: Use) {
        let before = self.vmemmap.info(frame).used_for.replace(Use::Free);
        assert!(
            before == used_for,
            "frame {:#x} freed as {used_for:?}, is {before:?}",
            frame.pfn().get(),
        );
        *self.counter(used_for) -= 1;
        self.free += 1;
    }

    fn counter(&mut self, used_for: Use) -> &mut u64 {
        match used_for {
            Use::Table => &mut self.table,
            Use::User => &mut self.user,
            Use::Kernel => &mut self.kernel,
            Use::Free | Use::Unmanaged => unreachable!("no frame is allocated to be free"),
        }
    }
}

/// A frame as lists name it: 32 bits number the frames of 16 TiB.
fn number(frame: Frame) -> u32 {
    u32::try_from(frame.pfn().get()).expect("a machine of more than 16 TiB")
}

/// The frame that a list names; `None` at its end. Frame 0 is low memory, which the allocator never owns.
fn from_number(number: u32) -> Option<Frame> {
    // SAFETY: only numbers of frames are put into lists.
    (number != 0).then(|| unsafe { Frame::new(Pfn::new(number.into())) })
}

/// A list of frames in use, each in at most one list: Linux's `pgd_list`.
pub struct FrameList {
    vmemmap: Vmemmap,
    first: u32,
}

impl FrameList {
    /// # Safety
    /// 1. Before the vmemmap of all RAM is mapped, the list stays empty.
    pub const unsafe fn new() -> FrameList {
        FrameList {
            // SAFETY: obligation 1; the list is part of the kernel behind its lock.
            vmemmap: unsafe { Vmemmap::new() },
            first: 0,
        }
    }

    /// Adds a frame that is in no list.
    pub fn insert(&mut self, frame: Frame) {
        let next = self.first;
        if let Some(next) = from_number(next) {
            self.vmemmap.info(next).previous.set(number(frame));
        }
        let info = self.vmemmap.info(frame);
        info.next.set(next);
        info.previous.set(0);
        self.first = number(frame);
    }

    /// Takes out a frame that is in this list.
    pub fn remove(&mut self, frame: Frame) {
        let info = self.vmemmap.info(frame);
        let (next, previous) = (info.next.get(), info.previous.get());
        if let Some(next) = from_number(next) {
            self.vmemmap.info(next).previous.set(previous);
        }
        match from_number(previous) {
            Some(previous) => self.vmemmap.info(previous).next.set(next),
            None => self.first = next,
        }
    }

    /// The frames, last added first.
    pub fn iter(&self) -> impl Iterator<Item = Frame> + '_ {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let frame = from_number(next)?;
            next = self.vmemmap.info(frame).next.get();
            Some(frame)
        })
    }
}
