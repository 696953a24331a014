//! The user half of one process: demand paging, copy on write, fork, tear-down.
//!
//! "How kernel updates the page tables in PF handler?" (the lecture): through the direct map, in
//! whichever address space the fault came from.

use super::frame::{FrameAllocator, Use};
use super::half::{AddressHalf, UserHalf};
use super::protection::{COPY_ON_WRITE, user_page};
use super::root::{Descent, Root, RootHalf};
use super::table::{Leaf, Node, Table};
use super::vma::{Backing, NoRoom, Vma, Vmas};
use super::{Entry, Frame, Level, OutOfFrames, VirtAddr, direct_map, page_down};
use crate::arch::pcid::Pcid;
use crate::boot::modules::Modules;
use crate::counters::{COUNTERS, Counter};
use crate::fault_injection::inject;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::bugs::Bug;
use heirloom_abi::syscall::{PROT_EXEC, PROT_READ, PROT_WRITE};

/// How an address was accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    Execute,
}

/// Why a user page cannot be put into place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unresolved {
    /// No area is there, or it does not allow the access.
    NotAllowed,
    /// It would be allowed, but memory is used up.
    OutOfMemory,
}

impl From<OutOfFrames> for Unresolved {
    fn from(_: OutOfFrames) -> Self {
        Unresolved::OutOfMemory
    }
}

/// An address space: its root, and what its user addresses mean.
pub struct UserSpace {
    root: Root,
    pcid: Pcid,
    pub vmas: Vmas,
}

impl UserSpace {
    /// An address space with an empty user half below `root`, and a PCID that is its own.
    pub fn new(root: Root, pcid: Pcid) -> UserSpace {
        UserSpace {
            root,
            pcid,
            vmas: Vmas::new(),
        }
    }

    /// What a process has that has none of its own any more.
    pub fn of_kernel(root: Root) -> UserSpace {
        UserSpace::new(root, Pcid::KERNEL)
    }

    pub fn pcid(&self) -> Pcid {
        self.pcid
    }

    pub fn root(&self) -> Root {
        self.root
    }

    /// Puts the page at `address` into place for `access`. The caller flushes nothing: an entry that
    /// gains rights needs no invalidation but for the faulting page, which the CPU has dropped (SDM
    /// vol. 3A, 4.10.4.3); copy on write changes a frame and flushes here.
    pub fn resolve(
        &mut self,
        address: VirtAddr,
        access: Access,
        modules: &Modules,
        frames: &mut FrameAllocator,
    ) -> Result<(), Unresolved> {
        let area = self.vmas.find(address).ok_or(Unresolved::NotAllowed)?;
        let needed = match access {
            Access::Read => PROT_READ,
            Access::Write => PROT_WRITE,
            Access::Execute => PROT_EXEC,
        };
        if area.protection & needed == 0 {
            return Err(Unresolved::NotAllowed);
        }
        COUNTERS.add(Counter::UserFaults);
        let page = VirtAddr::new(page_down(address.get()));
        if let Some(leaf) = self.root.leaf::<UserHalf>(page) {
            if access == Access::Write && leaf.entry.has(COPY_ON_WRITE) {
                copy_on_write(leaf, frames)?;
                self.pcid.drop_page(page);
                COUNTERS.add(Counter::PageFlushes);
                return Ok(());
            }
            // Where the entry allows less than the area, this kernel has not written it, and the fault would come
            // again for ever.
            let allowed = match access {
                Access::Write => Entry::USER.with(Entry::WRITABLE),
                Access::Read | Access::Execute => Entry::USER,
            };
            return if leaf.entry.has(allowed) {
                Ok(())
            } else {
                Err(Unresolved::NotAllowed)
            };
        }
        let frame = frames.allocate_zeroed(Use::User)?;
        fill(frame, page, area, modules);
        let leaf = Entry::pointing_to(frame.start(), user_page(area.protection));
        // SAFETY: a frame of this process alone.
        unsafe { self.put(page, leaf, frames) }.inspect_err(|_| {
            // SAFETY: it was not mapped.
            unsafe { frames.release_user(frame) };
        })?;
        Ok(())
    }

    /// Where the direct map shows the byte at `address`, and how many follow in its page; `None` if the
    /// page is not mapped, or not for that access.
    pub fn bytes(&self, address: VirtAddr, access: Access) -> Option<(*mut u8, usize)> {
        const PAGE: usize = 1 << Level::Pt.shift();
        let needed = match access {
            Access::Write => Entry::USER.with(Entry::WRITABLE),
            Access::Read | Access::Execute => Entry::USER,
        };
        let leaf = self.root.leaf::<UserHalf>(address)?;
        if !leaf.entry.has(needed) {
            return None;
        }
        let offset = usize::try_from(address.get()).unwrap_or(0) % PAGE;
        let page = direct_map::words(frame_of(leaf.entry)).cast::<u8>();
        Some((page.wrapping_add(offset), PAGE - offset))
    }

    /// Makes `child` a copy-on-write copy. The caller flushes the parent's TLB entries, which may
    /// still allow writes.
    pub fn fork_into(
        &mut self,
        child: &mut UserSpace,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        child.vmas = self.vmas;
        for area in self.vmas.iter() {
            let mut failed = Ok(());
            for_each_leaf(
                self.root.half::<UserHalf>(),
                area.start,
                area.end,
                &mut |leaf, page| {
                    if failed.is_err() {
                        return;
                    }
                    let mut entry = leaf.entry;
                    if entry.writable() && !inject(Bug::ForkKeepsWritable) {
                        entry = entry.without(Entry::WRITABLE).with(COPY_ON_WRITE);
                        // SAFETY: the same page with fewer rights.
                        unsafe { leaf.replace(entry) };
                    }
                    // SAFETY: a user page that both now have read-only, and that is counted for both.
                    failed = unsafe { child.put(page, entry, frames) };
                    if failed.is_ok() {
                        frames.share(frame_of(entry));
                    }
                },
            );
            failed?;
        }
        if inject(Bug::ForkSharesTable) {
            self.share_text_table(child);
        }
        if inject(Bug::TableUserMapped) {
            let own = Entry::pointing_to(child.root.frame().start(), user_page(PROT_READ));
            // SAFETY: the deliberate bug. Ring 3 can read its root and not write it.
            unsafe { child.put(VirtAddr::new(PAGE_SIZE), own, frames) }?;
        }
        Ok(())
    }

    /// The mistake of `fork-shares-table`: the child's entry for the program's text points to the
    /// parent's page table.
    fn share_text_table(&self, child: &UserSpace) {
        let text = self
            .vmas
            .iter()
            .next()
            .map_or(VirtAddr::new(0), |area| area.start);
        let table_of = |root: Root| root.table::<UserHalf>(text, Level::Pd);
        if let (Some(parents), Some(childs)) = (table_of(self.root), table_of(child.root)) {
            let index = parents.index(text);
            // SAFETY: the deliberate bug. `release` knows of it, and leaves the table alone.
            unsafe { childs.set(index, parents.get(index)) };
        }
    }

    /// Unmaps `start..end`. The caller flushes the TLB.
    pub fn unmap(
        &mut self,
        start: VirtAddr,
        end: VirtAddr,
        frames: &mut FrameAllocator,
    ) -> Result<(), NoRoom> {
        self.vmas.remove(start, end)?;
        release(self.root.half(), start, end, frames);
        Ok(())
    }

    /// Unmaps everything. The caller flushes the TLB, or loads another root.
    pub fn clear(&mut self, frames: &mut FrameAllocator) {
        for area in self.vmas.iter() {
            release(self.root.half(), area.start, area.end, frames);
        }
        self.vmas = Vmas::new();
    }

    /// Puts a leaf entry where none is yet.
    ///
    /// # Safety
    /// 1. It maps a user frame, of which the allocator counts this entry as a reference.
    unsafe fn put(
        &mut self,
        page: VirtAddr,
        leaf: Entry,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        let table = self.root.descend(ToPageTable { page, frames })?;
        // SAFETY: obligation 1; no entry was there.
        unsafe { table.set(table.index(page), leaf) };
        frames.table_gains(table.frame());
        Ok(())
    }
}

/// The way to the page table for a page, whose tables are made and counted where they are missing.
struct ToPageTable<'f> {
    page: VirtAddr,
    frames: &'f mut FrameAllocator,
}

impl Descent for ToPageTable<'_> {
    type Half = UserHalf;
    type Found = Result<Table<UserHalf>, OutOfFrames>;

    #[expect(
        clippy::inline_always,
        reason = "each depth's levels are to be constants"
    )]
    #[inline(always)]
    fn from(self, root: RootHalf<UserHalf>) -> Self::Found {
        let mut table = child_or_new(root, self.page, self.frames)?;
        while table.level() != Level::Pt {
            table = child_or_new(table, self.page, self.frames)?;
        }
        Ok(table)
    }
}

/// The table below a node for `page`, made and counted where it is missing.
#[inline]
fn child_or_new<N: Node<Half = UserHalf>>(
    node: N,
    page: VirtAddr,
    frames: &mut FrameAllocator,
) -> Result<Table<UserHalf>, OutOfFrames> {
    let (child, new) = node.child_or_new(page, UserHalf::TABLE, frames)?;
    if new {
        frames.table_gains(node.frame());
    }
    Ok(child)
}

/// The frame that a user leaf maps.
fn frame_of(leaf: Entry) -> Frame {
    // SAFETY: `UserSpace::put`, which wrote it, was given a frame of the allocator.
    unsafe { Frame::new(leaf.address().pfn()) }
}

/// Gives the entry a frame that it may write to: its own copy, or, if nobody shares it, the frame
/// itself.
fn copy_on_write(leaf: Leaf<UserHalf>, frames: &mut FrameAllocator) -> Result<(), OutOfFrames> {
    let writable = leaf.entry.without(COPY_ON_WRITE).with(Entry::WRITABLE);
    let shared = frame_of(leaf.entry);
    if frames.is_exclusive(shared) || inject(Bug::CopyOnWriteSkipsCopy) {
        // SAFETY: the process's own page, with the rights that its area gives.
        unsafe { leaf.replace(writable) };
        return Ok(());
    }
    let own = frames.allocate_dirty(Use::User)?;
    // SAFETY: `own` is ours alone; `shared` is mapped read-only everywhere, being copy-on-write. The
    // caller flushes the page before ring 3 runs again.
    unsafe {
        direct_map::copy(shared, own);
        leaf.replace(Entry::pointing_to(own.start(), writable.attributes()));
        frames.release_user(shared);
    }
    Ok(())
}

/// Copies what the area's module has for `page` into a frame of zeros.
fn fill(frame: Frame, page: VirtAddr, area: Vma, modules: &Modules) {
    let Backing::Module {
        module,
        offset,
        length,
    } = area.backing
    else {
        return;
    };
    let skipped = page.get() - area.start.get();
    let bytes = length.saturating_sub(skipped).min(PAGE_SIZE);
    let (start, bytes) = (offset + skipped, bytes);
    let range = usize::try_from(start).unwrap_or(usize::MAX)
        ..usize::try_from(start + bytes).unwrap_or(usize::MAX);
    let Some(source) = modules.get(module).bytes.get(range) else {
        return;
    };
    // SAFETY: at most a page, into a frame that is ours alone and in the direct map. Whole words
    // first: a byte costs as much as a word where kernel code is emulated.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov rcx, rdx",
            "rep movsb",
            inout("rcx") source.len() / 8 => _,
            in("rdx") source.len() % 8,
            inout("rsi") source.as_ptr() => _,
            inout("rdi") direct_map::words(frame) => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Calls `visit` with each present 4 KiB leaf in `start..end` and the page that it maps.
fn for_each_leaf<N: Node<Half = UserHalf>>(
    node: N,
    start: VirtAddr,
    end: VirtAddr,
    visit: &mut impl FnMut(Leaf<UserHalf>, VirtAddr),
) {
    for (at, next) in steps(node.level(), start, end) {
        let Some(table) = node.child(node.index(at)) else {
            continue;
        };
        if table.level() != Level::Pt {
            for_each_leaf(table, at, next, visit);
            continue;
        }
        for (page, _) in steps(Level::Pt, at, next) {
            let index = table.index(page);
            let entry = table.get(index);
            if entry.present() {
                let leaf = Leaf {
                    table,
                    index,
                    entry,
                };
                visit(leaf, page);
            }
        }
    }
}

/// Cuts `start..end` where entries of `level` meet: where each part begins and ends.
fn steps(
    level: Level,
    start: VirtAddr,
    end: VirtAddr,
) -> impl Iterator<Item = (VirtAddr, VirtAddr)> {
    let (span, end) = (level.entry_span(), end.get());
    let mut at = start.get();
    core::iter::from_fn(move || {
        let first = at;
        // The user half ends far below the end of 64 bits.
        at = end.min((first | (span - 1)) + 1);
        (first < end).then_some((VirtAddr::new(first), VirtAddr::new(at)))
    })
}

/// Empties the entries for `start..end`, frees the pages behind them, and the tables that become
/// empty. Returns whether `node` itself is empty now.
fn release<N: Node<Half = UserHalf>>(
    node: N,
    start: VirtAddr,
    end: VirtAddr,
    frames: &mut FrameAllocator,
) -> bool {
    for (at, next) in steps(node.level(), start, end) {
        let index = node.index(at);
        let entry = node.get(index);
        if !entry.present() {
            continue;
        }
        let gone = match node.child(index) {
            None => {
                if !inject(Bug::LeakedPage) {
                    // SAFETY: the entry goes just below, and the caller flushes before ring 3 runs.
                    unsafe { frames.release_user(frame_of(entry)) };
                }
                true
            }
            Some(child) => {
                let empty = release(child, at, next, frames);
                let kept = child.level() == Level::Pt
                    && (inject(Bug::LeakedTable) || inject(Bug::ForkSharesTable));
                if empty && !kept {
                    // SAFETY: all of its entries are absent; the entry that leads there goes just
                    // below, and the caller flushes before ring 3 runs.
                    unsafe { frames.free_table(child.frame()) };
                }
                empty
            }
        };
        if gone {
            // SAFETY: what it led to is given back already, see above.
            unsafe { node.set(index, Entry::ABSENT) };
            frames.table_loses(node.frame());
        }
    }
    // Not only what was emptied here: a table that was made when memory ran out has no entry yet.
    frames.table_is_empty(node.frame())
}
