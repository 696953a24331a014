//! `sync`: PGD entries are shared from creation; a new one is written to every PGD on the list.
//!
//! Linux 5.8 for its vmalloc area (commit 7f0a002b5a21, `arch_sync_kernel_mappings` and
//! `sync_global_pgds` in arch/x86/mm/init_64.c, walking `pgd_list`), and to this day for the direct
//! map and vmemmap when memory is plugged in.

use super::{Propagation, Spaces};
use crate::fault_injection::inject;
use crate::mm::half::KernelHalf;
use crate::mm::root::RootIndex;
use heirloom_abi::bugs::Bug;

pub struct Sync;

impl Propagation for Sync {
    fn publish(&self, spaces: &Spaces<'_>, index: RootIndex<KernelHalf>) {
        let skipped = usize::from(inject(Bug::SyncSkipsOne));
        for root in spaces.process_roots().skip(skipped) {
            // SAFETY: the entry is new, and this strategy frees no kernel table.
            unsafe { spaces.kernel.share_entry(index, root) };
        }
    }
}
