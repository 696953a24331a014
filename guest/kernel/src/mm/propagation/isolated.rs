//! `isolated`: the kernel has its own root; user roots hold only the entry trampoline.
//!
//! The lecture's first question, "why not treat kernel as an isolated MM context?": CR3 is switched
//! at every entry and exit, and "a small part of the kernel can not be isolated as HW does not
//! perform MM context switch", here the CPU entry area. Linux's kernel page-table isolation
//! (Documentation/arch/x86/pti.rst) is its descendant.

use super::{Propagation, Spaces};
use crate::fault_injection::inject;
use crate::mm::frame::FrameAllocator;
use crate::mm::half::{AddressHalf, KernelHalf};
use crate::mm::root::{Root, RootRange};
use crate::mm::table::{Node, Table};
use crate::mm::{Entry, Level, OutOfFrames, VirtAddr};
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::{CPU_ENTRY_AREA, Region};

pub struct Isolated;

/// The entry area has an entry of a PML4 for itself. Where a root is above that, its entry holds more of the
/// kernel, and a process needs tables of its own in between.
const AREA_ENTRY: Level = Level::Pml4;

impl Propagation for Isolated {
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        let kernel = spaces.kernel.root().half::<KernelHalf>();
        share_area(kernel, child.half(), spaces.frames)?;
        if inject(Bug::TrampolineLeaks) {
            let leaked = RootRange::of(Region::DirectMap).first;
            // SAFETY: a new root, and this strategy frees no kernel table.
            unsafe { spaces.kernel.share_entry(leaked, child) };
        }
        Ok(())
    }

    unsafe fn disinherit(&self, root: Root, frames: &mut FrameAllocator) {
        // SAFETY: obligation 1; and the tables above the area's entry are the process's own.
        unsafe {
            free_area(root.half::<KernelHalf>(), frames);
            root.clear_kernel_half();
        }
    }

    fn leaf_attributes(&self, attributes: Entry) -> Entry {
        // A global translation would outlive the switch to a user root.
        attributes.without(Entry::GLOBAL)
    }

    fn isolates(&self) -> bool {
        true
    }
}

/// Gives `own`, which is new and empty, the kernel's entry for the entry area, and nothing that lies beside it.
fn share_area<N: Node<Half = KernelHalf>>(
    kernels: N,
    own: N,
    frames: &mut FrameAllocator,
) -> Result<(), OutOfFrames> {
    let area = VirtAddr::new(CPU_ENTRY_AREA);
    let index = kernels.index(area);
    if kernels.level() == AREA_ENTRY {
        // SAFETY: 1. The kernel's tables stay for ever. 2. There was no entry.
        unsafe { own.set(index, kernels.get(index)) };
        return Ok(());
    }
    let (own, _) = own.child_or_new(area, KernelHalf::TABLE, frames)?;
    let kernels = kernels.child(index).expect("the boot has mapped the area");
    share_area::<Table<KernelHalf>>(kernels, own, frames)
}

/// Frees the tables above the entry area's entry.
///
/// # Safety
/// 1. No CPU uses them, and only `own` leads to them.
unsafe fn free_area<N: Node<Half = KernelHalf>>(own: N, frames: &mut FrameAllocator) {
    if own.level() == AREA_ENTRY {
        return;
    }
    if let Some(child) = own.child(own.index(VirtAddr::new(CPU_ENTRY_AREA))) {
        // SAFETY: obligation 1.
        unsafe {
            free_area(child, frames);
            frames.free_full_table(child.frame());
        }
    }
}
