//! `fault`: a new PGD entry is copied on the first kernel fault of each process.
//!
//! Linux to 5.7 (`vmalloc_fault` in arch/x86/mm/fault.c, removed by commit 7f0a002b5a21): mappings
//! are made in the kernel's own root, and a process that faults on one takes the PGD entry over.

use super::Propagation;
use crate::mm::VirtAddr;
use crate::mm::entry::Level;
use crate::mm::table::Table;
use heirloom_abi::layout::Region;
use heirloom_abi::options::Strategy;

pub struct Fault;

impl Propagation for Fault {
    fn strategy(&self) -> Strategy {
        Strategy::Fault
    }

    fn bring(&self, kernel: Table, current: Table, address: VirtAddr) -> bool {
        // Only for what may come and go, and only if the kernel really maps it: any other fault is
        // a fault.
        if !Region::Vmalloc.contains(address.0) || kernel.leaf(address).is_none() {
            return false;
        }
        let index = Level::Pgd.index(address);
        if current.get(index).is_present() {
            return false;
        }
        current.set_kernel(index, kernel.get(index));
        true
    }
}
