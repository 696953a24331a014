//! Page tables built by hand, in a memory of their own: sound ones with [`FakeMemory::map`], broken
//! ones with [`FakeMemory::poke`].

use std::collections::BTreeMap;

use zerocopy::IntoBytes;

use crate::memory::{MemoryError, PhysicalMemory, Words};
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::{Depth, Level, PageSize};

/// A guest-physical memory that has the frames that were put into it, and no others. New frames
/// are zero and get ascending numbers.
#[derive(Clone, Debug)]
pub struct FakeMemory {
    frames: BTreeMap<Pfn, Box<Words>>,
    next: Pfn,
}

impl Default for FakeMemory {
    fn default() -> Self {
        FakeMemory::new()
    }
}

impl FakeMemory {
    /// P, R/W and U/S: what [`FakeMemory::map`] gives the entries above a leaf, so that the leaf
    /// alone decides.
    pub const POINTER: Entry = Entry::new(0b111);
    /// Kernel data: P, R/W, G, NX.
    pub const KERNEL_DATA: Entry = Entry::new(1 << 63 | 1 << 8 | 0b11);
    /// Kernel text: P, G.
    pub const KERNEL_TEXT: Entry = Entry::new(1 << 8 | 0b1);
    /// A process's data: P, R/W, U/S, NX.
    pub const USER_DATA: Entry = Entry::new(1 << 63 | 0b111);
    /// A process's text: P, U/S.
    pub const USER_TEXT: Entry = Entry::new(0b101);

    /// An empty memory whose first frame will be number 1.
    pub fn new() -> Self {
        FakeMemory {
            frames: BTreeMap::new(),
            next: Pfn::new(1),
        }
    }

    /// Adds a zeroed frame: its number.
    pub fn frame(&mut self) -> Pfn {
        let pfn = self.next;
        self.add(pfn);
        pfn
    }

    /// Makes frame `pfn` exist, zeroed if it did not.
    pub fn add(&mut self, pfn: Pfn) {
        self.frames.entry(pfn).or_insert_with(|| Box::new([0; 512]));
        self.next = self.next.max(Pfn::new(pfn.get() + 1));
    }

    /// Takes frame `pfn` away.
    pub fn remove(&mut self, pfn: Pfn) {
        self.frames.remove(&pfn);
    }

    /// Adds an empty root table: its address.
    pub fn root(&mut self) -> PhysAddr {
        self.frame().base()
    }

    /// Adds a root table that inherits entries 256–511 of `parent`.
    pub fn child_of(&mut self, parent: PhysAddr) -> PhysAddr {
        let child = self.root();
        for index in 256..512 {
            let entry = self.peek(parent.pfn(), index);
            self.poke(child.pfn(), index, entry);
        }
        child
    }

    /// Adds a frame with the same words as `pfn`.
    ///
    /// # Panics
    /// If `pfn` does not exist.
    pub fn copy_of(&mut self, pfn: Pfn) -> Pfn {
        let words = self.frames[&pfn].clone();
        let copy = self.frame();
        self.frames.insert(copy, words);
        copy
    }

    /// Entry `index` of the table in `table`.
    ///
    /// # Panics
    /// If there is none.
    pub fn peek(&self, table: Pfn, index: u16) -> Entry {
        Entry::new(self.frames[&table][usize::from(index)])
    }

    /// Writes entry `index` of the table in `table`, adding the frame if need be.
    ///
    /// # Panics
    /// If `index` is above 511.
    pub fn poke(&mut self, table: Pfn, index: u16, entry: Entry) {
        self.add(table);
        if let Some(words) = self.frames.get_mut(&table) {
            words[usize::from(index)] = entry.get();
        }
    }

    /// Maps the page at `va` to `pa`, `flags` being the whole leaf but its address and, for a large
    /// page, PS. Tables that are missing are added, with [`FakeMemory::POINTER`].
    ///
    /// # Panics
    /// If a page is mapped where a table would have to be.
    pub fn map(
        &mut self,
        depth: Depth,
        root: PhysAddr,
        va: VirtAddr,
        pa: PhysAddr,
        size: PageSize,
        flags: Entry,
    ) {
        let level = size.level();
        let table = self.table_for(depth, root, va, level);
        let large = match size {
            PageSize::Size4KiB => Entry::ABSENT,
            PageSize::Size2MiB | PageSize::Size1GiB => Entry::LARGE,
        };
        self.poke(
            table,
            va.index(level),
            Entry::pointing_to(pa, flags | large),
        );
    }

    /// The table at `level` on the way to `va`; tables that are missing are added.
    ///
    /// # Panics
    /// If a page is mapped where a table would have to be.
    pub fn table_for(&mut self, depth: Depth, root: PhysAddr, va: VirtAddr, level: Level) -> Pfn {
        let mut table = root.pfn();
        let mut at = depth.top();
        while at != level {
            let index = va.index(at);
            let entry = self.peek(table, index);
            assert!(
                !entry.present() || !entry.is_leaf(at),
                "{va} is mapped by a page in the {at}"
            );
            let below = if entry.present() {
                entry.address().pfn()
            } else {
                let below = self.frame();
                self.poke(
                    table,
                    index,
                    Entry::pointing_to(below.base(), Self::POINTER),
                );
                below
            };
            table = below;
            at = at.next().expect("a level below the top");
        }
        table
    }

    /// Replaces the leaf or table entry for `va` at `level` by what `change` makes of it.
    pub fn change(
        &mut self,
        depth: Depth,
        root: PhysAddr,
        va: VirtAddr,
        level: Level,
        change: impl FnOnce(Entry) -> Entry,
    ) {
        let table = self.table_for(depth, root, va, level);
        let entry = change(self.peek(table, va.index(level)));
        self.poke(table, va.index(level), entry);
    }
}

impl PhysicalMemory for FakeMemory {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        let outside = MemoryError { at, length };
        let mut next = at;
        let mut rest = buffer;
        while !rest.is_empty() {
            let words = self.frames.get(&next.pfn()).ok_or(outside)?;
            let start = usize::try_from(next.get() % 4096).map_err(|_| outside)?;
            let bytes = &words.as_bytes()[start..];
            let now = bytes.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(now);
            head.copy_from_slice(&bytes[..now]);
            rest = tail;
            next = next.checked_add(now as u64).ok_or(outside)?;
        }
        Ok(())
    }
}
