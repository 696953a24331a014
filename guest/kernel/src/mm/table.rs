//! One page table, reached through the direct map. All writes to page tables go through [`Table::set`].

use super::entry::{Entry, Level};
use super::frame::{FrameAllocator, Use};
use super::{Frame, OutOfFrames, VirtAddr, direct_map};
use crate::counters::{COUNTERS, Counter};
use heirloom_abi::layout::KERNEL_HALF_FIRST_ENTRY;

/// Entries in a table.
pub const ENTRIES: usize = 512;

/// A page table, by its frame and level. A handle: copying it copies no table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table {
    frame: Frame,
    level: Level,
}

impl Table {
    /// The table in `frame`.
    ///
    /// # Safety
    /// 1. `frame` holds a page table of that level for as long as the handle is used.
    pub const unsafe fn new(frame: Frame, level: Level) -> Table {
        Table { frame, level }
    }

    /// A new, empty table.
    pub fn allocate(level: Level, frames: &mut FrameAllocator) -> Result<Table, OutOfFrames> {
        let frame = frames.allocate_zeroed(Use::Table)?;
        Ok(Table { frame, level })
    }

    pub const fn frame(self) -> Frame {
        self.frame
    }

    pub const fn level(self) -> Level {
        self.level
    }

    /// Entry `index`.
    pub fn get(self, index: usize) -> Entry {
        debug_assert!(index < ENTRIES);
        // SAFETY: `new` promised a table here; the index is nine bits wide. Volatile, because the
        // CPU sets A and D behind the compiler's back.
        unsafe {
            direct_map::words(self.frame)
                .add(index)
                .cast::<Entry>()
                .read_volatile()
        }
    }

    /// Writes entry `index`, counting it as a change to a kernel mapping.
    pub fn set_kernel(self, index: usize, entry: Entry) {
        COUNTERS.add(match self.level {
            Level::Pgd => Counter::KernelPgdWrites,
            _ => Counter::KernelEntryWrites,
        });
        self.set(index, entry);
    }

    /// Writes entry `index`, counting it as a change to a user half.
    pub fn set_user(self, index: usize, entry: Entry) {
        COUNTERS.add(Counter::UserEntryWrites);
        self.set(index, entry);
    }

    fn set(self, index: usize, entry: Entry) {
        debug_assert!(index < ENTRIES);
        // SAFETY: as in `get`. Whether the new mapping is right is the caller's logic; that the
        // store hits a page table and nothing else is ours.
        unsafe {
            direct_map::words(self.frame)
                .add(index)
                .cast::<Entry>()
                .write_volatile(entry);
        }
    }

    /// The table that entry `index` points to, if it points to one.
    pub fn child(self, index: usize) -> Option<Table> {
        let entry = self.get(index);
        let level = self.level.below()?;
        (entry.is_present() && !entry.is_large()).then(|| Table {
            frame: entry.frame(),
            level,
        })
    }

    /// Copies the kernel half of a PGD into this one ("inherits the kernel pgd entries from the
    /// parent", the lecture).
    pub fn copy_kernel_half(self, parent: Table) {
        debug_assert!(self.level == Level::Pgd && parent.level == Level::Pgd);
        self.copy_entries(parent, KERNEL_HALF_FIRST_ENTRY);
        let copied = (ENTRIES - KERNEL_HALF_FIRST_ENTRY) as u64;
        COUNTERS.add_many(Counter::KernelPgdWrites, copied);
    }

    /// A new kernel table with the entries of this one.
    pub fn duplicate(self, frames: &mut FrameAllocator) -> Result<Table, OutOfFrames> {
        let frame = frames.allocate_dirty(Use::Table)?;
        let copy = Table {
            frame,
            level: self.level,
        };
        copy.copy_entries(self, 0);
        COUNTERS.add_many(Counter::KernelEntryWrites, ENTRIES as u64);
        Ok(copy)
    }

    /// Copies the entries from `first` on.
    fn copy_entries(self, from: Table, first: usize) {
        // SAFETY: both are tables of 512 words of RAM; `rep movsq` is the shortest way where kernel
        // code is emulated.
        unsafe {
            core::arch::asm!(
                "rep movsq",
                inout("rcx") ENTRIES - first => _,
                inout("rsi") direct_map::words(from.frame).add(first) => _,
                inout("rdi") direct_map::words(self.frame).add(first) => _,
                options(nostack, preserves_flags)
            );
        }
    }

    /// The first entry from `first` on that is not zero.
    pub fn next_used(self, first: usize) -> Option<usize> {
        let left = ENTRIES.checked_sub(first).filter(|left| *left > 0)?;
        let (rest, found): (usize, u8);
        // SAFETY: reads the words of the table from `first` on, and stops behind the first that is
        // not zero; again the shortest way.
        unsafe {
            core::arch::asm!(
                "repe scasq",
                "setne {found}",
                found = out(reg_byte) found,
                inout("rcx") left => rest,
                inout("rdi") direct_map::words(self.frame).add(first) => _,
                in("rax") 0,
                options(nostack, readonly)
            );
        }
        (found != 0).then(|| ENTRIES - rest - 1)
    }

    /// Empties the kernel half of a PGD that is about to be freed.
    pub fn clear_kernel_half(self) {
        debug_assert!(self.level == Level::Pgd);
        // SAFETY: as in `copy_kernel_half`.
        unsafe {
            core::arch::asm!(
                "rep stosq",
                inout("rcx") ENTRIES - KERNEL_HALF_FIRST_ENTRY => _,
                inout("rdi") direct_map::words(self.frame).add(KERNEL_HALF_FIRST_ENTRY) => _,
                in("rax") 0,
                options(nostack, preserves_flags)
            );
        }
    }

    /// The table of `level` that `address` uses below this one.
    pub fn table(self, address: VirtAddr, level: Level) -> Option<Table> {
        let mut table = self;
        while table.level != level {
            table = table.child(table.level.index(address))?;
        }
        Some(table)
    }

    /// The leaf entry that maps `address` below this table: its table, index and value.
    pub fn leaf(self, address: VirtAddr) -> Option<(Table, usize, Entry)> {
        let mut table = self;
        loop {
            let index = table.level.index(address);
            let entry = table.get(index);
            if !entry.is_present() {
                return None;
            }
            match table.level.below() {
                Some(level) if !entry.is_large() => {
                    table = Table {
                        frame: entry.frame(),
                        level,
                    }
                }
                _ => return Some((table, index, entry)),
            }
        }
    }
}
