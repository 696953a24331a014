//! `isolated`: the kernel has its own root; user roots hold only the entry trampoline.
//!
//! The lecture's first question, "why not treat kernel as an isolated MM context?": CR3 is switched
//! at every entry and exit, and "a small part of the kernel can not be isolated as HW does not
//! perform MM context switch", here the CPU entry area. Linux's kernel page-table isolation
//! (Documentation/arch/x86/pti.rst) is its descendant.

use super::{Propagation, Spaces};
use crate::bug;
use crate::mm::entry::{Flags, Level};
use crate::mm::table::Table;
use crate::mm::{OutOfFrames, VirtAddr};
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::Region;
use heirloom_abi::options::Strategy;

pub struct Isolated;

impl Propagation for Isolated {
    fn strategy(&self) -> Strategy {
        Strategy::Isolated
    }

    fn inherit(&self, spaces: &mut Spaces<'_>, child: Table) -> Result<(), OutOfFrames> {
        let trampoline = Level::Pgd.index(VirtAddr(Region::CpuEntryArea.start()));
        child.set_kernel(trampoline, spaces.kernel.get(trampoline));
        if bug::is(Bug::TrampolineLeaks) {
            let direct_map = Region::DirectMap.pgd_entries().0;
            child.set_kernel(direct_map, spaces.kernel.get(direct_map));
        }
        Ok(())
    }

    fn leaf(&self, flags: Flags) -> Flags {
        // A global translation would outlive the switch to a user root.
        flags.without(Flags::GLOBAL)
    }

    fn isolates(&self) -> bool {
        true
    }
}
