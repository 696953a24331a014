//! How a change of a kernel mapping becomes visible in every address space.
//!
//! "Every process owns its own pgd entries but inherits the kernel pgd entries from the parent" (the
//! lecture). Below a shared PGD entry one write is seen by all; what is left is the *new* PGD entry,
//! and there the strategies differ. One file each.

mod copy_all;
mod fault;
mod isolated;
mod none;
mod prealloc;
mod sync;

use super::entry::{Entry, Flags, Level};
use super::frame::{FrameAllocator, FrameList};
use super::table::Table;
use super::{Frame, OutOfFrames, VirtAddr};
use crate::arch::cpu;
use crate::bug;
use crate::counters::{COUNTERS, Counter};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;
use heirloom_abi::options::Strategy;

/// The address spaces there are, and frames for their tables.
pub struct Spaces<'a> {
    /// The kernel's own root.
    pub kernel: Table,
    /// The root of the process on whose behalf the kernel works; the kernel's own at boot.
    pub current: Table,
    /// The roots of all processes.
    pub processes: &'a FrameList,
    pub frames: &'a mut FrameAllocator,
}

impl Spaces<'_> {
    /// The roots of all processes.
    fn process_roots(&self) -> impl Iterator<Item = Table> + use<'_> {
        self.processes.iter().map(|frame| {
            // SAFETY: the list holds the PGDs of living address spaces.
            unsafe { Table::new(frame, Level::Pgd) }
        })
    }
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
        new_child(kernel, Level::Pgd.index(first), frames)?;
        Ok(())
    }

    /// Gives `child` its kernel half; `spaces.current` is the parent's. On an error, `disinherit`
    /// cleans up.
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Table) -> Result<(), OutOfFrames> {
        child.copy_kernel_half(spaces.current);
        Ok(())
    }

    /// Empties the kernel half of an address space that dies.
    fn disinherit(&self, root: Table, _frames: &mut FrameAllocator) {
        root.clear_kernel_half();
    }

    /// The root at which changes to kernel mappings are made.
    fn writable_root(&self, spaces: &Spaces<'_>) -> Table {
        spaces.kernel
    }

    /// Makes a PGD entry that [`Propagation::writable_root`] has just got known to others.
    fn publish(&self, _spaces: &Spaces<'_>, _index: usize, _entry: Entry) {}

    /// Puts a leaf entry for the kernel page at `address`, making tables where they are missing.
    fn map(
        &self,
        spaces: &mut Spaces<'_>,
        address: VirtAddr,
        leaf: Entry,
    ) -> Result<(), OutOfFrames> {
        let root = self.writable_root(spaces);
        if let Some(index) = put(root, address, leaf, spaces.frames)? {
            self.publish(spaces, index, root.get(index));
        }
        Ok(())
    }

    /// Gives the kernel page at `address` other flags, or none at all, and returns the entry that
    /// was there; `None` where there was none.
    fn change(
        &self,
        spaces: &mut Spaces<'_>,
        address: VirtAddr,
        flags: Option<Flags>,
    ) -> Option<Entry> {
        change(self.writable_root(spaces), address, flags)
    }

    /// The kernel faulted at `address` in the address space `current`: whether that was for a
    /// kernel mapping that had not come there yet, and has now.
    fn bring(&self, _kernel: Table, _current: Table, _address: VirtAddr) -> bool {
        false
    }

    /// The flags of kernel leaves.
    fn leaf(&self, flags: Flags) -> Flags {
        flags
    }

    /// Whether ring 3 runs on roots that have the entry trampoline only, and the kernel on its own.
    fn isolates(&self) -> bool {
        false
    }
}

/// The strategy of a command line that names none.
pub const DEFAULT: &dyn Propagation = &prealloc::Prealloc;

/// The strategy of that name.
pub fn of(strategy: Strategy) -> &'static dyn Propagation {
    match strategy {
        Strategy::CopyAll => &copy_all::CopyAll,
        Strategy::Prealloc => &prealloc::Prealloc,
        Strategy::Sync => &sync::Sync,
        Strategy::Fault => &fault::Fault,
        Strategy::Isolated => &isolated::Isolated,
        Strategy::None => &none::None,
    }
}

/// The strategy and the kernel's root, for a fault in the kernel, which must not wait for the kernel's
/// lock: whoever faulted holds it.
static ACTIVE: (AtomicUsize, AtomicU64) = (AtomicUsize::new(0), AtomicU64::new(0));

/// From now on faults in the kernel are shown to `strategy`.
pub fn activate(strategy: Strategy, kernel: Table) {
    let number = Strategy::ALL.iter().position(|known| *known == strategy);
    ACTIVE.0.store(number.unwrap_or(0), Relaxed);
    ACTIVE.1.store(kernel.frame().0, Relaxed);
}

/// The kernel faulted at `address`: whether the strategy has put a kernel mapping into place there.
pub fn kernel_fault(address: VirtAddr) -> bool {
    let kernel = ACTIVE.1.load(Relaxed);
    if kernel == 0 {
        return false;
    }
    // SAFETY: `activate` was given the kernel's PGD, and CR3 always holds one.
    let (kernel, current) = unsafe {
        (
            Table::new(Frame(kernel), Level::Pgd),
            Table::new(cpu::loaded_root(), Level::Pgd),
        )
    };
    let brought = of(Strategy::ALL[ACTIVE.0.load(Relaxed)]).bring(kernel, current, address);
    if brought {
        COUNTERS.add(Counter::KernelFaults);
    }
    brought
}

/// Puts a leaf entry below `root`; the index of the PGD entry if a new one was needed.
fn put(
    root: Table,
    address: VirtAddr,
    leaf: Entry,
    frames: &mut FrameAllocator,
) -> Result<Option<usize>, OutOfFrames> {
    let mut table = root;
    let mut new = None;
    while table.level() != Level::Pt {
        let index = table.level().index(address);
        table = if let Some(child) = table.child(index) {
            child
        } else {
            if table.level() == Level::Pgd {
                new = Some(index);
            }
            new_child(table, index, frames)?
        };
    }
    table.set_kernel(Level::Pt.index(address), leaf);
    Ok(new)
}

/// Gives the page at `address` below `root` other flags, or none at all; the entry before.
fn change(root: Table, address: VirtAddr, flags: Option<Flags>) -> Option<Entry> {
    let (table, index, old) = root.leaf(address)?;
    table.set_kernel(
        index,
        flags.map_or(Entry::ABSENT, |flags| old.with_flags(flags)),
    );
    Some(old)
}

/// Hangs a new, empty table below entry `index` of a kernel table.
fn new_child(
    table: Table,
    index: usize,
    frames: &mut FrameAllocator,
) -> Result<Table, OutOfFrames> {
    let level = table
        .level()
        .below()
        .expect("a page table has no tables below it");
    let child = Table::allocate(level, frames)?;
    let flags = if bug::is(Bug::UserBit) {
        Flags::USER_TABLE
    } else {
        Flags::KERNEL_TABLE
    };
    table.set_kernel(index, Entry::new(child.frame(), flags));
    Ok(child)
}
