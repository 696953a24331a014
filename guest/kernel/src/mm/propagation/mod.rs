//! How a change of a kernel mapping becomes visible in every address space.
//!
//! "Every process owns its own pgd entries but inherits the kernel pgd entries from the parent" (the
//! lecture). Below a shared PGD entry one write is seen by all; what is left is the *new* PGD entry,
//! and there the strategies differ. One file each; what else must be known of one is its row in
//! `heirloom_abi::propagation`.

#[cfg(feature = "assignments")]
#[path = "../../../../assignments/mod.rs"]
mod assignments;
mod copy_all;
mod fault;
mod isolated;
mod none;
mod prealloc;
mod sync;

use super::frame::{FrameAllocator, FrameList};
use super::half::KernelHalf;
use super::protection;
use super::root::{Descent, KernelRoot, Root, RootHalf, RootIndex, RootRange};
use super::table::{Leaf, Node, Table};
use super::vmalloc::Page;
use super::{Entry, Frame, Level, OutOfFrames, Pfn, VirtAddr};
use crate::arch::cpu;
use crate::counters::{COUNTERS, Counter};
use crate::fault_injection::inject;
use crate::kernel::KERNEL;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::Region;
use heirloom_abi::propagation::{Promise, Strategy};

/// The PGD entries of the area where mappings come and go.
pub fn vmalloc_entries() -> RootRange<KernelHalf> {
    RootRange::of(Region::Vmalloc)
}

/// The address spaces there are, and frames for their tables.
pub struct Spaces<'a> {
    /// The kernel's own root.
    pub kernel: KernelRoot,
    /// The root of the process on whose behalf the kernel works; the kernel's own at boot.
    pub current: Root,
    /// The roots of all processes.
    pub processes: &'a FrameList,
    pub frames: &'a mut FrameAllocator,
}

impl Spaces<'_> {
    /// The roots of all processes.
    fn process_roots(&self) -> impl Iterator<Item = Root> + use<'_> {
        roots(self.processes)
    }
}

/// The roots on the list of processes' roots.
fn roots(processes: &FrameList) -> impl Iterator<Item = Root> + use<'_> {
    processes.iter().map(|frame| {
        // SAFETY: the list holds the roots of living address spaces.
        unsafe { Root::new(frame) }
    })
}

/// A page of kernel memory to be mapped, and the leaf entry that does it.
#[derive(Clone, Copy)]
pub struct Mapping {
    page: Page,
    leaf: Entry,
}

impl Mapping {
    /// # Safety
    /// 1. Nothing that the kernel's Rust code relies on is in `frame`.
    pub unsafe fn new(page: Page, frame: Frame, attributes: Entry) -> Mapping {
        Mapping {
            page,
            leaf: Entry::pointing_to(frame.start(), attributes),
        }
    }

    /// The page's address.
    fn address(self) -> VirtAddr {
        self.page.address()
    }
}

/// A strategy: what happens to kernel PGD entries when address spaces are born, change and die.
pub trait Propagation: core::marker::Sync {
    /// Prepares the kernel's own root, from which the first process inherits, for mappings from
    /// `first` on: here with the one PGD entry that the first mappings will need.
    fn prepare(
        &self,
        kernel: KernelRoot,
        first: VirtAddr,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        let root = kernel.root().half::<KernelHalf>();
        root.child_or_new(first, table_attributes(), frames)?;
        Ok(())
    }

    /// Gives `child`, a new root, its kernel half; `spaces.current` is the parent's. On an error,
    /// `disinherit` cleans up.
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        // SAFETY: kernel tables are the kernel's own, or stay for ever all the same. (Only `copy-all`
        // frees some, and it does not come here.)
        unsafe { child.copy_kernel_half(spaces.current) };
        Ok(())
    }

    /// Empties the kernel half of an address space that dies.
    ///
    /// # Safety
    /// 1. No CPU uses `root`, and none will.
    unsafe fn disinherit(&self, root: Root, _frames: &mut FrameAllocator) {
        // SAFETY: obligation 1.
        unsafe { root.clear_kernel_half() };
    }

    /// The root at which changes to kernel mappings are made.
    fn writable_root(&self, spaces: &Spaces<'_>) -> Root {
        spaces.kernel.root()
    }

    /// Makes a PGD entry that [`Propagation::writable_root`] has just got known to others.
    fn publish(&self, _spaces: &Spaces<'_>, _index: RootIndex<KernelHalf>) {}

    /// Maps a page of kernel memory, making tables where they are missing. On an error nothing is mapped.
    fn map(&self, spaces: &mut Spaces<'_>, mapping: Mapping) -> Result<(), OutOfFrames> {
        let root = self.writable_root(spaces);
        if put(root, mapping, spaces.frames)? {
            self.publish(spaces, RootIndex::of(mapping.address()));
        }
        Ok(())
    }

    /// Gives a page of kernel memory other attributes, or unmaps it, in every address space that has it,
    /// and returns the leaf entry that was there; `None` where there was none. The caller flushes it.
    fn change(
        &self,
        spaces: &mut Spaces<'_>,
        page: Page,
        attributes: Option<Entry>,
    ) -> Option<Entry> {
        change(self.writable_root(spaces), page, attributes)
    }

    /// The kernel faulted at `address` in the address space `current`: whether that was for a
    /// kernel mapping that had not come there yet, and has now.
    fn kernel_fault(&self, _kernel: KernelRoot, _current: Root, _address: VirtAddr) -> bool {
        false
    }

    /// What a strategy makes of the attributes of kernel leaves.
    fn leaf_attributes(&self, attributes: Entry) -> Entry {
        attributes
    }

    /// Whether ring 3 runs on roots that have the entry trampoline only, and the kernel on its own.
    fn isolates(&self) -> bool {
        false
    }
}

macro_rules! implementations {
    ($($strategy:ident { module: $module:ident, $($row:tt)* })*) => {
        /// The code of a strategy.
        pub const fn of(strategy: Strategy) -> &'static dyn Propagation {
            #[cfg(feature = "assignments")]
            if let Some(answer) = assignments::instead_of(strategy) {
                return answer;
            }
            match strategy {
                $(Strategy::$strategy => &$module::$strategy,)*
            }
        }
    };
}

heirloom_abi::with_strategies!(implementations);

/// The strategy and the kernel's root, for a fault in the kernel, of whoever holds the kernel's lock.
static ACTIVE: (AtomicUsize, AtomicU64) = (AtomicUsize::new(0), AtomicU64::new(0));

/// From now on faults in the kernel are shown to `strategy`.
pub fn activate(strategy: Strategy, kernel: KernelRoot) {
    ACTIVE.0.store(strategy as usize, Relaxed);
    ACTIVE.1.store(kernel.root().frame().pfn().get(), Relaxed);
}

/// The kernel faulted at `address`: whether the strategy has put a kernel mapping into place there.
pub fn kernel_fault(address: VirtAddr) -> bool {
    let kernel = ACTIVE.1.load(Relaxed);
    let strategy = Strategy::ALL[ACTIVE.0.load(Relaxed)];
    if kernel == 0 {
        return false;
    }
    // Whoever watches does so without the lock; and only where a fault may bring something is it worth it.
    let _locked = if KERNEL.is_held_here() {
        None
    } else if strategy.promise() == Promise::EntriesOnFault {
        Some(KERNEL.lock())
    } else {
        return false;
    };
    // SAFETY: `activate` was given the kernel's root, and CR3 always holds one.
    let (kernel, current) = unsafe {
        (
            KernelRoot::new(Root::new(Frame::new(Pfn::new(kernel)))),
            Root::new(cpu::loaded_root()),
        )
    };
    let mapped = of(strategy).kernel_fault(kernel, current, address);
    if mapped {
        COUNTERS.add(Counter::KernelFaults);
    }
    mapped
}

/// Maps a page below `root`; whether that took a new entry of the root. On an error it is not mapped.
fn put(root: Root, mapping: Mapping, frames: &mut FrameAllocator) -> Result<bool, OutOfFrames> {
    let address = mapping.address();
    let written = inject(Bug::LostEntry) && write_blindly(root, address, frames)?;
    let (table, new) = root.descend(ToPageTable { address, frames })?;
    // SAFETY: 1. `Mapping` promises that nobody relies on the page, nor on what it shows. 2. The address
    // was unmapped.
    unsafe { table.set(table.index(address), mapping.leaf) };
    Ok(new || written)
}

/// The mistake of `lost-entry`: whether the root has an entry for `address` is looked at, then others have the
/// kernel for a while, and then it is written.
fn write_blindly(
    root: Root,
    address: VirtAddr,
    frames: &mut FrameAllocator,
) -> Result<bool, OutOfFrames> {
    let half = root.half::<KernelHalf>();
    let index = half.index(address);
    if half.get(index).present() {
        return Ok(false);
    }
    let level = Root::level().next().expect("a root has tables below it");
    let table = Table::<KernelHalf>::allocate(level, frames)?;
    // Others change them meanwhile.
    core::hint::black_box(frames);
    // SAFETY: none, that is the bug. What the caller has borrowed is allocators and tables, of which it holds no
    // value across the call but `table`, which is nobody else's.
    unsafe { KERNEL.let_others_in() };
    // SAFETY: a new, empty table; what another CPU has put there is lost.
    unsafe {
        half.set(
            index,
            Entry::pointing_to(table.frame().start(), table_attributes()),
        );
    };
    Ok(true)
}

/// The way to the page table for a page of kernel memory, whose tables are made where they are missing; and
/// whether that took a new entry of the root.
struct ToPageTable<'f> {
    address: VirtAddr,
    frames: &'f mut FrameAllocator,
}

impl Descent for ToPageTable<'_> {
    type Half = KernelHalf;
    type Found = Result<(Table<KernelHalf>, bool), OutOfFrames>;

    #[expect(
        clippy::inline_always,
        reason = "each depth's levels are to be constants"
    )]
    #[inline(always)]
    fn from(self, root: RootHalf<KernelHalf>) -> Self::Found {
        let (address, frames) = (self.address, self.frames);
        let (mut table, new) = root.child_or_new(address, table_attributes(), frames)?;
        while table.level() != Level::Pt {
            (table, _) = table.child_or_new(address, table_attributes(), frames)?;
        }
        Ok((table, new))
    }
}

/// Gives a page below `root` other attributes, or unmaps it; the leaf entry before.
fn change(root: Root, page: Page, attributes: Option<Entry>) -> Option<Entry> {
    let leaf: Leaf<KernelHalf> = root.leaf(page.address())?;
    let entry = attributes.map_or(Entry::ABSENT, |attributes| {
        leaf.entry.with_attributes(attributes)
    });
    // SAFETY: 1. The kernel relies on no page of the vmalloc area. 2. The frame is given back by the
    // caller, who has flushed the page.
    unsafe { leaf.replace(entry) };
    Some(leaf.entry)
}

/// The attributes of entries that point to kernel tables made while the kernel runs.
fn table_attributes() -> Entry {
    if inject(Bug::UserBit) {
        protection::USER_TABLE
    } else {
        protection::KERNEL_TABLE
    }
}
