//! `prealloc`: all kernel PGD entries exist from boot; a child inherits them.
//!
//! Linux since 5.9 for its vmalloc area (commits 6eb82f994026 and 995909a4e22b,
//! `preallocate_vmalloc_pages` in arch/x86/mm/init_64.c). vmalloc is the one area where mappings
//! come and go; the other regions' entries are complete at boot. So no PGD entry is ever new, and no
//! change to a kernel mapping ever concerns more than one table.

use super::{Propagation, new_child};
use crate::bug;
use crate::mm::entry::Flags;
use crate::mm::frame::FrameAllocator;
use crate::mm::table::Table;
use crate::mm::{OutOfFrames, VirtAddr};
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::{KERNEL_HALF_FIRST_ENTRY, Region};
use heirloom_abi::options::Strategy;

pub struct Prealloc;

impl Propagation for Prealloc {
    fn strategy(&self) -> Strategy {
        Strategy::Prealloc
    }

    fn prepare(
        &self,
        kernel: Table,
        _first: VirtAddr,
        frames: &mut FrameAllocator,
    ) -> Result<(), OutOfFrames> {
        let (first, last) = Region::Vmalloc.pgd_entries();
        for index in first..=last {
            if index == last && bug::is(Bug::AliasByHighTable) {
                kernel.set_kernel(last, kernel.get(first));
            } else {
                new_child(kernel, index, frames)?;
            }
        }
        if bug::is(Bug::ReservedBit) {
            kernel.set_kernel(
                last,
                kernel
                    .get(last)
                    .with_flags(Flags::KERNEL_TABLE.with(Flags::LARGE)),
            );
        }
        if bug::is(Bug::UnnamedRegion) {
            new_child(kernel, KERNEL_HALF_FIRST_ENTRY, frames)?;
        }
        Ok(())
    }
}
