//! The user half of one process: demand paging, copy on write, fork, tear-down.
//!
//! "How kernel updates the page tables in PF handler?" (the lecture): through the direct map, in
//! whichever address space the fault came from.

use super::entry::{Entry, Flags, Level};
use super::frame::{FrameAllocator, Use};
use super::table::Table;
use super::vma::{Backing, NoRoom, Vma, Vmas};
use super::{Frame, OutOfFrames, VirtAddr, direct_map, page_down};
use crate::boot::modules::Modules;
use crate::bug;
use crate::counters::{COUNTERS, Counter};
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
    root: Table,
    pub vmas: Vmas,
}

impl UserSpace {
    /// An address space with an empty user half below `root`.
    pub fn new(root: Table) -> UserSpace {
        UserSpace {
            root,
            vmas: Vmas::new(),
        }
    }

    pub fn root(&self) -> Table {
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
        let page = VirtAddr(page_down(address.0));
        if let Some((table, index, entry)) = self.root.leaf(page) {
            if access == Access::Write && entry.flags().contains(Flags::COPY_ON_WRITE) {
                copy_on_write(table, index, entry, frames)?;
                x86_64::instructions::tlb::flush(x86_64::VirtAddr::new_truncate(page.0));
                COUNTERS.add(Counter::PageFlushes);
            }
            return Ok(());
        }
        let frame = frames.allocate_zeroed(Use::User)?;
        fill(frame, page, area, modules);
        let leaf = Entry::new(frame, Flags::user(area.protection));
        self.put(page, leaf, frames)
            .inspect_err(|_| frames.release_user(frame))?;
        Ok(())
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
                self.root,
                area.start,
                area.end,
                &mut |table, index, page| {
                    if failed.is_err() {
                        return;
                    }
                    let mut entry = table.get(index);
                    if entry.flags().contains(Flags::WRITABLE) && !bug::is(Bug::ForkKeepsWritable) {
                        let flags = entry
                            .flags()
                            .without(Flags::WRITABLE)
                            .with(Flags::COPY_ON_WRITE);
                        entry = entry.with_flags(flags);
                        table.set_user(index, entry);
                    }
                    failed = child.put(page, entry, frames);
                    if failed.is_ok() {
                        frames.share(entry.frame());
                    }
                },
            );
            failed?;
        }
        if bug::is(Bug::ForkSharesTable) {
            self.share_text_table(child);
        }
        if bug::is(Bug::TableUserMapped) {
            let own = Entry::new(child.root.frame(), Flags::user(PROT_READ));
            child.put(VirtAddr(PAGE_SIZE), own, frames)?;
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
            .map_or(VirtAddr(0), |area| area.start);
        let table_of = |root: Table| root.table(text, Level::Pd);
        if let (Some(parents), Some(childs)) = (table_of(self.root), table_of(child.root)) {
            let index = Level::Pd.index(text);
            childs.set_user(index, parents.get(index));
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
        release(self.root, start, end, frames);
        Ok(())
    }

    /// Unmaps everything. The caller flushes the TLB, or loads another root.
    pub fn clear(&mut self, frames: &mut FrameAllocator) {
        for area in self.vmas.iter() {
            release(self.root, area.start, area.end, frames);
        }
        self.vmas = Vmas::new();
    }

    /// Puts a leaf entry where none is yet.
    fn put(
        &mut self,
        page: VirtAddr,
        leaf: Entry,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        let mut table = self.root;
        while let Some(below) = table.level().below() {
            let index = table.level().index(page);
            table = if let Some(child) = table.child(index) {
                child
            } else {
                let child = Table::allocate(below, frames)?;
                table.set_user(index, Entry::new(child.frame(), Flags::USER_TABLE));
                frames.table_gains(table.frame());
                child
            };
        }
        table.set_user(Level::Pt.index(page), leaf);
        frames.table_gains(table.frame());
        Ok(())
    }
}

/// Gives the entry a frame that it may write to: its own copy, or, if nobody shares it, the frame
/// itself.
fn copy_on_write(
    table: Table,
    index: usize,
    entry: Entry,
    frames: &mut FrameAllocator,
) -> Result<(), OutOfFrames> {
    let flags = entry
        .flags()
        .without(Flags::COPY_ON_WRITE)
        .with(Flags::WRITABLE);
    let shared = entry.frame();
    if frames.is_exclusive(shared) || bug::is(Bug::CopyOnWriteSkipsCopy) {
        table.set_user(index, entry.with_flags(flags));
        return Ok(());
    }
    let own = frames.allocate_dirty(Use::User)?;
    // SAFETY: `own` is ours alone; `shared` is mapped read-only everywhere, being copy-on-write.
    unsafe { direct_map::copy(shared, own) };
    table.set_user(index, Entry::new(own, flags));
    frames.release_user(shared);
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
    let skipped = page.0 - area.start.0;
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

/// Calls `visit` with table, index and page of every present 4 KiB leaf in `start..end`.
fn for_each_leaf(
    table: Table,
    start: VirtAddr,
    end: VirtAddr,
    visit: &mut impl FnMut(Table, usize, VirtAddr),
) {
    let span = table.level().span();
    let mut at = start.0;
    while at < end.0 {
        let next = (at | (span - 1)).saturating_add(1);
        let index = table.level().index(VirtAddr(at));
        if table.level() == Level::Pt {
            if table.get(index).is_present() {
                visit(table, index, VirtAddr(at));
            }
        } else if let Some(child) = table.child(index) {
            for_each_leaf(child, VirtAddr(at), VirtAddr(end.0.min(next)), visit);
        }
        at = next;
    }
}

/// Empties the entries for `start..end`, frees the pages behind them, and the tables that become
/// empty. Returns whether `table` itself is empty now.
fn release(table: Table, start: VirtAddr, end: VirtAddr, frames: &mut FrameAllocator) -> bool {
    let span = table.level().span();
    let mut at = start.0;
    while at < end.0 {
        let next = (at | (span - 1)).saturating_add(1);
        let index = table.level().index(VirtAddr(at));
        let entry = table.get(index);
        if entry.is_present() {
            let gone = match table.child(index) {
                None => {
                    if !bug::is(Bug::LeakedPage) {
                        frames.release_user(entry.frame());
                    }
                    true
                }
                Some(child) => {
                    let empty = release(child, VirtAddr(at), VirtAddr(end.0.min(next)), frames);
                    let kept = child.level() == Level::Pt
                        && (bug::is(Bug::LeakedTable) || bug::is(Bug::ForkSharesTable));
                    if empty && !kept {
                        frames.free_table(child.frame());
                    }
                    empty
                }
            };
            if gone {
                table.set_user(index, Entry::ABSENT);
                frames.table_loses(table.frame());
            }
        }
        at = next;
    }
    // Not only what was emptied here: a table that was made when memory ran out has no entry yet.
    frames.table_is_empty(table.frame())
}
