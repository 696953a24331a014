//! The frame allocator: every frame of RAM has one use, and all uses add up to all of RAM.
//!
//! Never-used frames are taken from the boot's free ranges in ascending order; freed ones are kept
//! in two lists, because a page table is empty when it is freed and need not be zeroed again.

use super::{Frame, OutOfFrames, direct_map};
use crate::boot::memory_map::Ranges;
use heirloom_abi::layout::Region;

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
    used_for: Use,
    /// User frames: how many leaf entries map it. User tables: how many entries are present.
    references: u32,
    /// Free frames and PGDs: the next in the list, by frame number, or 0.
    next: u32,
    /// PGDs: the one before in the list, or 0.
    previous: u32,
}

/// Bytes of vmemmap for each frame.
pub const PAGE_INFO_SIZE: u64 = size_of::<PageInfo>() as u64;

const _: () = assert!(PAGE_INFO_SIZE == 16);

/// Gives out frames and counts them.
pub struct FrameAllocator {
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
    // By value, because the allocator takes the ranges over.
    #[allow(clippy::large_types_passed_by_value)]
    pub const fn new(total: u64, fresh: Ranges, fresh_is_zero: bool) -> FrameAllocator {
        let free = fresh.frames();
        FrameAllocator {
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
        if let Some(frame) = pop(&mut self.zeroed) {
            return Ok(self.taken(frame, used_for));
        }
        if let Some(frame) = self.fresh.take_first() {
            if !self.fresh_is_zero {
                // SAFETY: a free frame; nobody refers to it.
                unsafe { direct_map::zero(frame) };
            }
            return Ok(self.taken(frame, used_for));
        }
        let frame = pop(&mut self.dirty).ok_or(OutOfFrames)?;
        // SAFETY: a free frame; nobody refers to it.
        unsafe { direct_map::zero(frame) };
        Ok(self.taken(frame, used_for))
    }

    /// A frame that the caller will overwrite as a whole.
    pub fn allocate_dirty(&mut self, used_for: Use) -> Result<Frame, OutOfFrames> {
        match pop(&mut self.dirty) {
            Some(frame) => Ok(self.taken(frame, used_for)),
            None => self.allocate_zeroed(used_for),
        }
    }

    /// Page tables and vmemmap backing for the boot, before any frame has a [`PageInfo`]: zeros,
    /// never freed. `count` frames in one piece, aligned to `count` frames.
    pub fn allocate_at_boot(&mut self, used_for: Use, count: u64) -> Result<Frame, OutOfFrames> {
        let frame = self.fresh.take_aligned(count).ok_or(OutOfFrames)?;
        self.free -= count;
        if used_for == Use::Table {
            self.table += count;
        }
        if !self.fresh_is_zero {
            for number in frame.0..frame.0 + count {
                // SAFETY: a free frame; nobody refers to it.
                unsafe { direct_map::zero(Frame(number)) };
            }
        }
        Ok(frame)
    }

    /// Takes back a page table all of whose entries are absent.
    pub fn free_table(&mut self, frame: Frame) {
        self.given_back(frame, Use::Table);
        push(&mut self.zeroed, frame);
    }

    /// Takes back a page table that still has entries.
    pub fn free_full_table(&mut self, frame: Frame) {
        self.given_back(frame, Use::Table);
        push(&mut self.dirty, frame);
    }

    /// Takes back a frame of kernel data.
    pub fn free_kernel(&mut self, frame: Frame) {
        self.given_back(frame, Use::Kernel);
        push(&mut self.dirty, frame);
    }

    /// One more leaf entry maps this user frame.
    // These concern one frame; the allocator is borrowed so that nobody else is at it.
    #[allow(clippy::unused_self)]
    pub fn share(&mut self, frame: Frame) {
        info(frame).references += 1;
    }

    /// Whether one leaf entry alone maps this user frame.
    #[allow(clippy::unused_self)]
    pub fn is_exclusive(&self, frame: Frame) -> bool {
        info(frame).references == 1
    }

    /// One leaf entry fewer maps this user frame; the last one frees it.
    pub fn release_user(&mut self, frame: Frame) {
        let info = info(frame);
        info.references -= 1;
        if info.references == 0 {
            self.given_back(frame, Use::User);
            push(&mut self.dirty, frame);
        }
    }

    /// One more entry of this user table is present.
    #[allow(clippy::unused_self)]
    pub fn table_gains(&mut self, table: Frame) {
        info(table).references += 1;
    }

    /// One entry fewer of this user table is present.
    #[allow(clippy::unused_self)]
    pub fn table_loses(&mut self, table: Frame) {
        info(table).references -= 1;
    }

    /// Whether no entry of this user table is present.
    #[allow(clippy::unused_self)]
    pub fn table_is_empty(&self, table: Frame) -> bool {
        info(table).references == 0
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
        let info = info(frame);
        debug_assert!(matches!(info.used_for, Use::Free | Use::Unmanaged));
        info.used_for = used_for;
        info.references = u32::from(used_for == Use::User);
        self.free -= 1;
        *self.counter(used_for) += 1;
        frame
    }

    fn given_back(&mut self, frame: Frame, used_for: Use) {
        let info = info(frame);
        assert!(
            info.used_for == used_for,
            "frame {:#x} freed as {used_for:?}, is {:?}",
            frame.0,
            info.used_for
        );
        info.used_for = Use::Free;
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

fn info(frame: Frame) -> &'static mut PageInfo {
    let address = Region::Vmemmap.start() + frame.0 * PAGE_INFO_SIZE;
    // SAFETY: the boot maps the vmemmap of every frame that the allocator owns, zeroed, and zero is
    // a valid PageInfo. The reference lives within one function of the allocator, which is borrowed.
    unsafe { &mut *(address as *mut PageInfo) }
}

fn push(head: &mut u32, frame: Frame) {
    info(frame).next = *head;
    *head = number(frame);
}

fn pop(head: &mut u32) -> Option<Frame> {
    // Frame 0 is low memory, which the allocator never owns.
    let frame = (*head != 0).then_some(Frame((*head).into()))?;
    *head = info(frame).next;
    Some(frame)
}

/// 32 bits number the frames of 16 TiB.
fn number(frame: Frame) -> u32 {
    u32::try_from(frame.0).expect("a machine of more than 16 TiB")
}

/// A list of frames in use, each in at most one list: Linux's `pgd_list`.
pub struct FrameList {
    first: u32,
}

impl FrameList {
    pub const fn new() -> FrameList {
        FrameList { first: 0 }
    }

    /// Adds a frame that is in no list.
    pub fn insert(&mut self, frame: Frame) {
        let next = self.first;
        if next != 0 {
            info(Frame(next.into())).previous = number(frame);
        }
        let info = info(frame);
        info.next = next;
        info.previous = 0;
        self.first = number(frame);
    }

    /// Takes out a frame that is in this list.
    pub fn remove(&mut self, frame: Frame) {
        let (next, previous) = (info(frame).next, info(frame).previous);
        if next != 0 {
            info(Frame(next.into())).previous = previous;
        }
        if previous == 0 {
            self.first = next;
        } else {
            info(Frame(previous.into())).next = next;
        }
    }

    /// The frames, last added first.
    pub fn iter(&self) -> impl Iterator<Item = Frame> + '_ {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let frame = (next != 0).then_some(Frame(next.into()))?;
            next = info(frame).next;
            Some(frame)
        })
    }
}
