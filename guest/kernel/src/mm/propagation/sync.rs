//! `sync`: PGD entries are shared from creation; a new one is written to every PGD on the list.
//!
//! Linux 5.8 for its vmalloc area (commit 7f0a002b5a21, `arch_sync_kernel_mappings` and
//! `sync_global_pgds` in arch/x86/mm/init_64.c, walking `pgd_list`), and to this day for the direct
//! map and vmemmap when memory is plugged in.

use super::{Propagation, Spaces};
use crate::bug;
use crate::mm::entry::Entry;
use heirloom_abi::bugs::Bug;
use heirloom_abi::options::Strategy;

pub struct Sync;

impl Propagation for Sync {
    fn strategy(&self) -> Strategy {
        Strategy::Sync
    }

    fn publish(&self, spaces: &Spaces<'_>, index: usize, entry: Entry) {
        let skipped = usize::from(bug::is(Bug::SyncSkipsOne));
        for root in spaces.process_roots().skip(skipped) {
            root.set_kernel(index, entry);
        }
    }
}
