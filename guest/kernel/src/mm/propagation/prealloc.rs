//! `prealloc`: all kernel PGD entries exist from boot; a child inherits them.
//!
//! Linux since 5.9 for its vmalloc area (commits 6eb82f994026 and 995909a4e22b,
//! `preallocate_vmalloc_pages` in arch/x86/mm/init_64.c). vmalloc is the one area where mappings
//! come and go; the other regions' entries are complete at boot. So no PGD entry is ever new, and no
//! change to a kernel mapping ever concerns more than one table.

use super::{Propagation, table_attributes, vmalloc_entries};
use crate::fault_injection::inject;
use crate::mm::frame::FrameAllocator;
use crate::mm::half::KernelHalf;
use crate::mm::root::KernelRoot;
use crate::mm::table::Node;
use crate::mm::{Entry, OutOfFrames, VirtAddr};
use heirloom_abi::bugs::Bug;

pub struct Prealloc;

impl Propagation for Prealloc {
    fn prepare(
        &self,
        kernel: KernelRoot,
        _first: VirtAddr,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        let root = kernel.root().half::<KernelHalf>();
        let entries = vmalloc_entries();
        if inject(Bug::AliasByHighTable) {
            root.child_or_new(entries.first.first_address(), table_attributes(), frames)?;
            // SAFETY: the deliberate bug: both entries lead to one kernel table, which is never freed.
            unsafe { root.set(entries.last, root.get(entries.first)) };
        }
        for index in entries.iter() {
            root.child_or_new(index.first_address(), table_attributes(), frames)?;
        }
        if inject(Bug::ReservedBit) {
            let entry = root.get(entries.last).with(Entry::LARGE);
            // SAFETY: the deliberate bug; no kernel memory is that far up, so no CPU reads the entry.
            unsafe { root.set(entries.last, entry) };
        }
        if inject(Bug::UnnamedRegion) {
            root.child_or_new(root.first().first_address(), table_attributes(), frames)?;
        }
        Ok(())
    }
}
