//! Page tables, reached through the direct map. All writes to page tables go through this module.
//!
//! Half of a root's entries ([`super::root`]) and a whole [`Table`] below it are the two kinds of [`Node`]:
//! entries of one half of the address space. An [`Index`] belongs to one kind of node and cannot leave its
//! range, so that no user address, however wrong, reaches a kernel entry of a root, nor the other way round.

use super::frame::{FrameAllocator, Use};
use super::half::{AddressHalf, KernelHalf};
use super::{Entry, Frame, Level, OutOfFrames, VirtAddr, direct_map};
use crate::counters::{COUNTERS, Counter};
use core::marker::PhantomData;

/// Entries in a table.
pub const ENTRIES: u16 = 512;

/// Entries that are written and read as one: half a root, or a whole table below it.
pub trait Node: Copy {
    /// The half that they belong to.
    type Half: AddressHalf;
    /// Which entries of the frame they are: a power of two of them, from a multiple of it on.
    const FIRST: u16;
    /// How many.
    const COUNT: u16;
    /// What counts the writes to them.
    const WRITES: Counter;

    /// The frame of the table.
    fn frame(self) -> Frame;

    /// The level of the table.
    fn level(self) -> Level;

    /// Which of the entries translates `address`. Of an address in the other half only the bits below
    /// the highest count.
    #[inline]
    fn index(self, address: VirtAddr) -> Index<Self> {
        Index::folded(address.index(self.level()))
    }

    /// Entry `index`.
    #[inline]
    fn get(self, index: Index<Self>) -> Entry {
        // SAFETY: `Root::new` promised a table here, `Index` that there is such an entry. Volatile,
        // because the CPU sets A and D behind the compiler's back.
        unsafe { entry_at(self.frame(), index.0).read_volatile() }
    }

    /// Writes entry `index`, and counts it.
    ///
    /// # Safety
    /// 1. If `entry` is present, it points to a table of this half and the next level, which is freed no
    ///    sooner than the entry is gone; or it maps memory that the half's users may access so: it makes
    ///    nothing writable that the kernel's Rust code relies on, and takes nothing from it.
    /// 2. What the old entry led to is freed or reused only when no CPU can use it by an old translation.
    #[inline]
    unsafe fn set(self, index: Index<Self>, entry: Entry) {
        COUNTERS.add(Self::WRITES);
        // SAFETY: as in `get`; what the entry means is the caller's obligations 1 and 2.
        unsafe { entry_at(self.frame(), index.0).write_volatile(entry) };
    }

    /// The table that entry `index` points to, if it points to one.
    #[inline]
    fn child(self, index: Index<Self>) -> Option<Table<Self::Half>> {
        table_of(self.get(index), self.level().next()?)
    }

    /// The table that `address` uses below this one, made where it is missing; and whether it was.
    /// `attributes` are the new entry's, [`AddressHalf::TABLE`] if nothing is wrong with it.
    ///
    /// # Panics
    /// If a page is mapped there.
    #[expect(
        clippy::inline_always,
        reason = "a walk that knows its levels is to keep them as constants"
    )]
    #[inline(always)]
    fn child_or_new(
        self,
        address: VirtAddr,
        attributes: Entry,
        frames: &mut FrameAllocator,
    ) -> Result<(Table<Self::Half>, bool), OutOfFrames> {
        let index = self.index(address);
        if let Some(child) = self.child(index) {
            return Ok((child, false));
        }
        let level = self.level().next().expect("a PT has no tables below it");
        assert!(!self.get(index).present(), "a page is mapped here");
        let child = Table::allocate(level, frames)?;
        // SAFETY: 1. A new, empty table, which is nobody's yet. 2. There was no entry.
        unsafe { self.set(index, Entry::pointing_to(child.frame.start(), attributes)) };
        Ok((child, true))
    }

    /// The first of the entries.
    fn first(self) -> Index<Self> {
        Index::folded(Self::FIRST)
    }

    /// The entries that are not zero, in ascending order, as they are when the iterator comes to them.
    fn used(self) -> impl Iterator<Item = Index<Self>> {
        let mut next = Self::FIRST;
        core::iter::from_fn(move || {
            let found = next_used(self.frame(), next, Self::FIRST + Self::COUNT)?;
            next = found + 1;
            Some(Index::folded(found))
        })
    }
}

/// The number of an entry of a node `N`, always in its range.
pub struct Index<N>(u16, PhantomData<N>);

impl<N> Clone for Index<N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for Index<N> {}

impl<N: Node> Index<N> {
    /// The entry of that number, or, if it is not in the range, the one with the same low bits.
    #[inline]
    pub(super) const fn folded(number: u16) -> Self {
        const {
            assert!(N::COUNT.is_power_of_two() && N::FIRST.is_multiple_of(N::COUNT));
            assert!(N::FIRST + N::COUNT <= ENTRIES);
        }
        Index(N::FIRST | number & (N::COUNT - 1), PhantomData)
    }

    /// Its number in the whole table.
    pub(super) const fn number(self) -> u16 {
        self.0
    }
}

/// A table of half `H` below a root, by its frame and level. A handle: copying it copies no table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table<H> {
    frame: Frame,
    level: Level,
    half: PhantomData<H>,
}

impl<H: AddressHalf> Node for Table<H> {
    type Half = H;
    const FIRST: u16 = 0;
    const COUNT: u16 = ENTRIES;
    const WRITES: Counter = H::TABLE_WRITES;

    #[inline]
    fn frame(self) -> Frame {
        self.frame
    }

    #[inline]
    fn level(self) -> Level {
        self.level
    }
}

impl<H: AddressHalf> Table<H> {
    /// A new, empty table.
    pub fn allocate(level: Level, frames: &mut FrameAllocator) -> Result<Table<H>, OutOfFrames> {
        let frame = frames.allocate_zeroed(Use::Table)?;
        // SAFETY: a frame of zeros is an empty table of any level.
        Ok(unsafe { Table::new(frame, level) })
    }

    /// The table in `frame`.
    ///
    /// # Safety
    /// 1. `frame` holds a table of that level and half for as long as the handle is used.
    pub unsafe fn new(frame: Frame, level: Level) -> Table<H> {
        Table {
            frame,
            level,
            half: PhantomData,
        }
    }

    /// Maps `count` pages one after the other, from entry `index` on: the first as `first` says, each
    /// other one a page of the table's level further on. Less work than as many times [`Node::set`].
    ///
    /// # Safety
    /// As for [`Node::set`], for each of the entries.
    pub unsafe fn fill(self, index: Index<Self>, count: u16, first: Entry) {
        let count = count.min(ENTRIES - index.0);
        COUNTERS.add_many(Self::WRITES, count.into());
        let span = self.level.entry_span();
        let mut entry = first.get();
        for index in index.0..index.0 + count {
            // SAFETY: the caller's obligations; `count` ends with the table.
            unsafe { entry_at(self.frame, index).write_volatile(Entry::new(entry)) };
            entry += span;
        }
    }

    /// How many entries there are from `index` to the end of the table.
    pub fn entries_from(index: Index<Self>) -> u16 {
        ENTRIES - index.0
    }
}

impl Table<KernelHalf> {
    /// A new kernel table with the entries of this one.
    pub fn duplicate(self, frames: &mut FrameAllocator) -> Result<Self, OutOfFrames> {
        let frame = frames.allocate_dirty(Use::Table)?;
        // SAFETY: nobody uses the copy yet.
        unsafe { copy_entries(self.frame, frame, 0) };
        COUNTERS.add_many(Counter::KernelEntryWrites, ENTRIES.into());
        Ok(Table { frame, ..self })
    }
}

/// A leaf entry: where it stands, and what it was when it was found.
#[derive(Clone, Copy)]
pub struct Leaf<H> {
    pub table: Table<H>,
    pub index: Index<Table<H>>,
    pub entry: Entry,
}

impl<H: AddressHalf> Leaf<H> {
    /// Writes another value to its place.
    ///
    /// # Safety
    /// As for [`Node::set`].
    #[inline]
    pub unsafe fn replace(self, entry: Entry) {
        // SAFETY: the caller's obligations.
        unsafe { self.table.set(self.index, entry) };
    }

    /// Where the direct map shows it.
    pub fn address(self) -> VirtAddr {
        VirtAddr::new(entry_at(self.table.frame, self.index.0) as u64)
    }
}

/// Entry `index` of the table in `frame`, seen in the direct map.
#[inline]
pub(super) fn entry_at(frame: Frame, index: u16) -> *mut Entry {
    direct_map::words(frame)
        .cast::<Entry>()
        .wrapping_add(index.into())
}

/// The table of `level` that `entry` points to, if it points to one. PS needs no look at the level: where
/// it makes no leaf it is reserved, so that no such entry leads anywhere.
#[inline]
pub(super) fn table_of<H: AddressHalf>(entry: Entry, level: Level) -> Option<Table<H>> {
    (entry.present() && !entry.has(Entry::LARGE)).then(|| Table {
        // SAFETY: whoever wrote the entry promised a table there, so it is RAM.
        frame: unsafe { Frame::new(entry.address().pfn()) },
        level,
        half: PhantomData,
    })
}

/// Copies the entries from `first` on.
///
/// # Safety
/// As for [`Node::set`], for each of the entries of `to`.
pub(super) unsafe fn copy_entries(from: Frame, to: Frame, first: u16) {
    // SAFETY: both are tables of 512 words of RAM; the caller's obligations. `rep movsq` is the shortest
    // way where kernel code is emulated.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            inout("rcx") u64::from(ENTRIES - first) => _,
            inout("rsi") entry_at(from, first) => _,
            inout("rdi") entry_at(to, first) => _,
            options(nostack, preserves_flags)
        );
    }
}

/// The first entry in `first..end` that is not zero.
fn next_used(table: Frame, first: u16, end: u16) -> Option<u16> {
    let left = end.checked_sub(first).filter(|left| *left > 0)?;
    let (rest, found): (u64, u8);
    // SAFETY: reads the words of the table from `first` on, and stops behind the first that is not zero;
    // again the shortest way.
    unsafe {
        core::arch::asm!(
            "repe scasq",
            "setne {found}",
            found = out(reg_byte) found,
            inout("rcx") u64::from(left) => rest,
            inout("rdi") entry_at(table, first) => _,
            in("rax") 0,
            options(nostack, readonly)
        );
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 512")]
    (found != 0).then(|| end - rest as u16 - 1)
}
