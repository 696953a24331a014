//! Roots: the tables that CR3 points to, and their two halves.
//!
//! How many levels there are is [`depth`]'s business alone: nobody else says which level a root is of.

use super::frame::{FrameAllocator, Use};
use super::half::{self, AddressHalf, KernelHalf};
use super::table::{Index, Leaf, Node, Table, copy_entries, entry_at, table_of};
use super::{Entry, Frame, Level, OutOfFrames, VirtAddr, depth};
use crate::counters::{COUNTERS, Counter};
use core::marker::PhantomData;
use heirloom_abi::layout::Region;
use heirloom_paging::{Depth, VirtRange};

/// The number of a root's entry of half `H`.
pub type RootIndex<H> = Index<RootHalf<H>>;

impl<H: AddressHalf> RootIndex<H> {
    /// The entry that translates `address`.
    #[inline]
    pub fn of(address: VirtAddr) -> RootIndex<H> {
        Index::folded(address.index(Root::level()))
    }

    /// The lowest address that the entry translates.
    pub fn first_address(self) -> VirtAddr {
        VirtRange::of_top_entry(self.number(), depth()).first
    }
}

/// A root's entries from `first` to `last`, both included, all of half `H`.
#[derive(Clone, Copy)]
pub struct RootRange<H> {
    pub first: RootIndex<H>,
    pub last: RootIndex<H>,
}

impl<H: AddressHalf> RootRange<H> {
    /// Those of a region of half `H`. Of a region of the other half it would be others.
    pub fn of(region: Region) -> RootRange<H> {
        let (first, last) = (
            VirtAddr::new(region.start(depth())),
            VirtAddr::new(region.end(depth()) - 1),
        );
        debug_assert!(first.half() == H::HALF && last.half() == H::HALF);
        RootRange {
            first: RootIndex::of(first),
            last: RootIndex::of(last),
        }
    }

    /// Each of them, ascending.
    pub fn iter(self) -> impl Iterator<Item = RootIndex<H>> {
        (self.first.number()..=self.last.number()).map(Index::folded)
    }
}

/// The root of an address space: the table that CR3 points to. A handle, as [`Table`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    frame: Frame,
}

impl Root {
    /// The level of a root.
    #[inline]
    pub fn level() -> Level {
        depth().top()
    }

    /// The root in `frame`.
    ///
    /// # Safety
    /// 1. `frame` holds a root for as long as the handle is used, and each of its present entries leads
    ///    to tables of that half.
    pub const unsafe fn new(frame: Frame) -> Root {
        Root { frame }
    }

    /// A new, empty root.
    pub fn allocate(frames: &mut FrameAllocator) -> Result<Root, OutOfFrames> {
        let frame = frames.allocate_zeroed(Use::Table)?;
        Ok(Root { frame })
    }

    pub const fn frame(self) -> Frame {
        self.frame
    }

    /// Its entries of half `H`.
    #[inline]
    pub fn half<H: AddressHalf>(self) -> RootHalf<H> {
        self.half_of(Root::level())
    }

    #[inline]
    const fn half_of<H: AddressHalf>(self, level: Level) -> RootHalf<H> {
        RootHalf {
            frame: self.frame,
            level,
            half: PhantomData,
        }
    }

    /// As [`Root::half`], for `walk`, which descends from there: it is compiled once for each depth, so that
    /// each way down knows its levels and need not ask at every step. Where kernel code is emulated an
    /// instruction costs a microsecond.
    #[inline]
    pub fn descend<W: Descent>(self, walk: W) -> W::Found {
        match depth() {
            Depth::Four => walk.from(self.half_of(Level::Pml4)),
            Depth::Five => walk.from(self.half_of(Level::Pml5)),
        }
    }

    /// The table of `level`, below the root's, that `address` uses.
    pub fn table<H: AddressHalf>(self, address: VirtAddr, level: Level) -> Option<Table<H>> {
        let root = self.half();
        let mut table = root.child(root.index(address))?;
        while table.level() != level {
            table = table.child(table.index(address))?;
        }
        Some(table)
    }

    /// The leaf entry that maps `address`.
    #[inline]
    pub fn leaf<H: AddressHalf>(self, address: VirtAddr) -> Option<Leaf<H>> {
        self.descend(ToLeaf(address, PhantomData))
    }

    /// Shows `visit` the level, the number and the value of each entry that the CPU reads for `address`.
    pub fn walk(self, address: VirtAddr, mut visit: impl FnMut(Level, u16, Entry)) {
        let (mut frame, mut level) = (self.frame, Root::level());
        loop {
            let index = address.index(level);
            // SAFETY: `new` promised a table here, and nine bits number its entries.
            let entry = unsafe { entry_at(frame, index).read_volatile() };
            visit(level, index, entry);
            let Some(child) = level
                .next()
                .and_then(|next| table_of::<KernelHalf>(entry, next))
            else {
                return;
            };
            (frame, level) = (child.frame(), child.level());
        }
    }

    /// Copies another root's kernel half into this one ("inherits the kernel pgd entries from the
    /// parent", the lecture).
    ///
    /// # Safety
    /// 1. The tables below the parent's kernel entries are freed no sooner than this root's entries are
    ///    gone.
    pub unsafe fn copy_kernel_half(self, parent: Root) {
        // SAFETY: obligation 1, and nothing was in this root's kernel half that could be lost.
        unsafe { copy_entries(parent.frame, self.frame, KernelHalf::FIRST) };
        COUNTERS.add_many(Counter::KernelPgdWrites, half::ENTRIES.into());
    }

    /// Empties the kernel half of a root that is about to be freed.
    ///
    /// # Safety
    /// 1. No CPU uses the root, and none will.
    pub unsafe fn clear_kernel_half(self) {
        // SAFETY: a table of 512 words of RAM; by obligation 1 nobody misses the entries. `rep stosq` is
        // the shortest way where kernel code is emulated.
        unsafe {
            core::arch::asm!(
                "rep stosq",
                inout("rcx") u64::from(half::ENTRIES) => _,
                inout("rdi") entry_at(self.frame, KernelHalf::FIRST) => _,
                in("rax") 0,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// A way down from a half of a root; see [`Root::descend`].
pub trait Descent {
    /// The half.
    type Half: AddressHalf;
    /// What is at its end.
    type Found;

    /// Goes it. To be inlined always.
    fn from(self, root: RootHalf<Self::Half>) -> Self::Found;
}

/// The way of [`Root::leaf`].
struct ToLeaf<H>(VirtAddr, PhantomData<H>);

impl<H: AddressHalf> Descent for ToLeaf<H> {
    type Half = H;
    type Found = Option<Leaf<H>>;

    #[expect(
        clippy::inline_always,
        reason = "each depth's levels are to be constants"
    )]
    #[inline(always)]
    fn from(self, root: RootHalf<H>) -> Option<Leaf<H>> {
        let address = self.0;
        let mut table = root.child(root.index(address))?;
        loop {
            let index = table.index(address);
            let entry = table.get(index);
            if !entry.present() {
                return None;
            }
            match table.level().next().and_then(|next| table_of(entry, next)) {
                Some(child) => table = child,
                None => {
                    return Some(Leaf {
                        table,
                        index,
                        entry,
                    });
                }
            }
        }
    }
}

/// The kernel's own root: unlike a process's, its kernel half and the tables below are never freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelRoot(Root);

impl KernelRoot {
    /// # Safety
    /// 1. `root` and the tables below its kernel half are never freed.
    pub const unsafe fn new(root: Root) -> KernelRoot {
        KernelRoot(root)
    }

    pub const fn root(self) -> Root {
        self.0
    }

    /// Copies the kernel's entry `index` into `to`, which then has the same table below it.
    ///
    /// # Safety
    /// 1. No table below the entry that `to` had is needed any more, and nobody frees the tables below
    ///    the new one on behalf of `to`.
    pub unsafe fn share_entry(self, index: RootIndex<KernelHalf>, to: Root) {
        // SAFETY: obligation 1, and what hangs below the kernel's own entries stays for ever.
        unsafe { to.half().set(index, self.0.half().get(index)) };
    }
}

/// The entries of a root that belong to half `H`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootHalf<H> {
    frame: Frame,
    level: Level,
    half: PhantomData<H>,
}

impl<H: AddressHalf> Node for RootHalf<H> {
    type Half = H;
    const FIRST: u16 = H::FIRST;
    const COUNT: u16 = half::ENTRIES;
    const WRITES: Counter = H::ROOT_WRITES;

    #[inline]
    fn frame(self) -> Frame {
        self.frame
    }

    #[inline]
    fn level(self) -> Level {
        self.level
    }
}
