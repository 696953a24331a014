//! `isolated`: the kernel has its own root; user roots hold only the entry trampoline.
//!
//! The lecture's first question, "why not treat kernel as an isolated MM context?": CR3 is switched
//! at every entry and exit, and "a small part of the kernel can not be isolated as HW does not
//! perform MM context switch", here the CPU entry area. Linux's kernel page-table isolation
//! (Documentation/arch/x86/pti.rst) is its descendant.

use super::{Propagation, Spaces};
use crate::fault_injection::inject;
use crate::mm::half::KernelHalf;
use crate::mm::root::{Root, RootRange};
use crate::mm::{Entry, OutOfFrames};
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::Region;

pub struct Isolated;

const ENTRY_AREA: RootRange<KernelHalf> = const { RootRange::of(Region::CpuEntryArea) };
const DIRECT_MAP: RootRange<KernelHalf> = const { RootRange::of(Region::DirectMap) };

impl Propagation for Isolated {
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        for index in ENTRY_AREA.iter() {
            // SAFETY: a new root without entries, and this strategy frees no kernel table.
            unsafe { spaces.kernel.share_entry(index, child) };
        }
        if inject(Bug::TrampolineLeaks) {
            // SAFETY: as above.
            unsafe { spaces.kernel.share_entry(DIRECT_MAP.first, child) };
        }
        Ok(())
    }

    fn leaf_attributes(&self, attributes: Entry) -> Entry {
        // A global translation would outlive the switch to a user root.
        attributes.without(Entry::GLOBAL)
    }

    fn isolates(&self) -> bool {
        true
    }
}
