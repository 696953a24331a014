//! `fault`: a new PGD entry is copied on the first kernel fault of each process.
//!
//! Linux to 5.7 (`vmalloc_fault` in arch/x86/mm/fault.c, removed by commit 7f0a002b5a21): mappings
//! are made in the kernel's own root, and a process that faults on one takes the PGD entry over.

use super::Propagation;
use crate::mm::half::KernelHalf;
use crate::mm::root::{KernelRoot, Root, RootIndex};
use crate::mm::table::Node;
use crate::mm::{VirtAddr, depth};
use heirloom_abi::layout::Region;

pub struct Fault;

impl Propagation for Fault {
    fn kernel_fault(&self, kernel: KernelRoot, current: Root, address: VirtAddr) -> bool {
        // Only for what may come and go, and only if the kernel really maps it: any other fault is
        // a fault.
        let mapped = || kernel.root().leaf::<KernelHalf>(address).is_some();
        if !Region::Vmalloc.contains(address.get(), depth()) || !mapped() {
            return false;
        }
        let index = RootIndex::of(address);
        if current.half().get(index).present() {
            return false;
        }
        // SAFETY: there was no entry, and this strategy frees no kernel table.
        unsafe { kernel.share_entry(index, current) };
        true
    }
}
