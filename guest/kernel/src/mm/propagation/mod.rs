//! How a change of a kernel mapping becomes visible in every address space.
//!
//! "Every process owns its own pgd entries but inherits the kernel pgd entries from the parent" (the
//! lecture). Below a shared PGD entry one write is seen by all; what is left is the *new* PGD entry,
//! and there the strategies differ. One file each.

mod none;
mod prealloc;

use super::entry::{Entry, Flags, Level};
use super::frame::FrameAllocator;
use super::table::{Table, table_flags};
use super::{OutOfFrames, VirtAddr};
use heirloom_abi::options::Strategy;

/// The address spaces that a change of a kernel mapping starts from.
#[derive(Clone, Copy)]
pub struct Roots {
    /// The kernel's own.
    pub kernel: Table,
    /// The one that is loaded: of the process on whose behalf the kernel works.
    pub current: Table,
}

/// A strategy: what happens to kernel PGD entries when address spaces are born, change and die.
pub trait Propagation: Sync {
    /// Its name and place in the list of strategies.
    fn strategy(&self) -> Strategy;

    /// Prepares the kernel's own root, from which the first process inherits, for mappings from
    /// `first` on: here with the one PGD entry that the first mappings will need.
    fn prepare(
        &self,
        kernel: Table,
        first: VirtAddr,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        new_child(kernel, Level::Pgd.index(first), first, frames)?;
        Ok(())
    }

    /// Gives the new address space `child` its kernel half.
    fn inherit(&self, parent: Table, child: Table) {
        child.copy_kernel_half(parent);
    }

    /// Empties the kernel half of an address space that dies.
    fn disinherit(&self, root: Table) {
        root.clear_kernel_half();
    }

    /// The root at which changes to kernel mappings are made.
    fn writable_root(&self, roots: Roots) -> Table;

    /// Puts a leaf entry for the kernel page at `address`, making tables where they are missing.
    fn map(
        &self,
        roots: Roots,
        address: VirtAddr,
        leaf: Entry,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        let mut table = self.writable_root(roots);
        while table.level() != Level::Pt {
            let index = table.level().index(address);
            table = match table.child(index) {
                Some(child) => child,
                None => new_child(table, index, address, frames)?,
            };
        }
        table.set_kernel(Level::Pt.index(address), leaf);
        Ok(())
    }

    /// Gives the kernel page at `address` other flags, or none at all, and returns the entry that
    /// was there; `None` where there was none.
    fn change(&self, roots: Roots, address: VirtAddr, flags: Option<Flags>) -> Option<Entry> {
        let (table, index, old) = self.writable_root(roots).leaf(address)?;
        table.set_kernel(
            index,
            flags.map_or(Entry::ABSENT, |flags| old.with_flags(flags)),
        );
        Some(old)
    }
}

/// The strategy of a command line that names none.
pub const DEFAULT: &dyn Propagation = &prealloc::Prealloc;

/// The strategy of that name.
pub fn of(strategy: Strategy) -> &'static dyn Propagation {
    match strategy {
        Strategy::Prealloc => &prealloc::Prealloc,
        Strategy::None => &none::None,
    }
}

/// Hangs a new, empty table below entry `index` of `table`.
fn new_child(
    table: Table,
    index: usize,
    address: VirtAddr,
    frames: &mut FrameAllocator,
) -> Result<Table, OutOfFrames> {
    let level = table
        .level()
        .below()
        .expect("a page table has no tables below it");
    let child = Table::allocate(level, frames)?;
    table.set_kernel(index, Entry::new(child.frame(), table_flags(address)));
    Ok(child)
}
