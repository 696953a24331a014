//! `copy-all`: every process has private copies of all kernel tables; each change is written into
//! every one.
//!
//! The lecture's "update mapping in every process", of which it says that it "does not look good";
//! xv6's `setupkvm`, which builds a kernel half of its own for every process.

use super::{Mapping, Propagation, Spaces, change, put, roots};
use crate::fault_injection::inject;
use crate::mm::frame::FrameAllocator;
use crate::mm::half::KernelHalf;
use crate::mm::root::Root;
use crate::mm::table::Node;
use crate::mm::vmalloc::Page;
use crate::mm::{Entry, Frame, Level, OutOfFrames, Pfn, depth};
use heirloom_abi::bugs::Bug;

pub struct CopyAll;

/// Tables that one mapping may need in each address space: one of each level below the root.
fn tables_for_a_mapping() -> u64 {
    u64::from(depth().levels()) - 1
}

impl Propagation for CopyAll {
    fn inherit(&self, spaces: &mut Spaces<'_>, child: Root) -> Result<(), OutOfFrames> {
        copy_tables(
            spaces.current.half::<KernelHalf>(),
            child.half(),
            spaces.frames,
        )
    }

    unsafe fn disinherit(&self, root: Root, frames: &mut FrameAllocator) {
        // SAFETY: all kernel tables of a process are its own, by `inherit` and `map`; and obligation 1.
        unsafe {
            free_tables(root.half::<KernelHalf>(), frames);
            root.clear_kernel_half();
        }
    }

    fn map(&self, spaces: &mut Spaces<'_>, mapping: Mapping) -> Result<(), OutOfFrames> {
        // All or none: there must be frames for everybody before the first one is given the mapping.
        let address_spaces = 1 + spaces.process_roots().count() as u64;
        if spaces.frames.usage().free < address_spaces * tables_for_a_mapping() {
            return Err(OutOfFrames);
        }
        put(spaces.kernel.root(), mapping, spaces.frames)?;
        for (number, root) in roots(spaces.processes).enumerate() {
            let mapping = if number == 0 && inject(Bug::WrongFrameInOne) {
                neighbour(mapping)
            } else {
                mapping
            };
            put(root, mapping, spaces.frames)?;
        }
        Ok(())
    }

    fn change(
        &self,
        spaces: &mut Spaces<'_>,
        page: Page,
        attributes: Option<Entry>,
    ) -> Option<Entry> {
        let skipped = usize::from(attributes.is_none() && inject(Bug::StaleInOne));
        for root in spaces.process_roots().skip(skipped) {
            change(root, page, attributes);
        }
        change(spaces.kernel.root(), page, attributes)
    }
}

/// The mistake of `wrong-frame-in-one`: the same page on the next frame.
fn neighbour(mapping: Mapping) -> Mapping {
    let pfn = Pfn::new(mapping.leaf.address().pfn().get() + 1);
    // SAFETY: none, that is the bug: the next frame may be anybody's, a page table too, and what is written
    // to this page goes there.
    unsafe { Mapping::new(mapping.page, Frame::new(pfn), mapping.leaf.attributes()) }
}

/// Fills `to`, which is new and empty or a copy of `from`, with copies of all tables below `from`'s
/// entries. Leaves are not copied: the memory is the same.
fn copy_tables<N: Node<Half = KernelHalf>>(
    from: N,
    to: N,
    frames: &mut FrameAllocator,
) -> Result<(), OutOfFrames> {
    let mut failed = Ok(());
    for index in from.used() {
        let Some(child) = from.child(index) else {
            continue;
        };
        let copy = match failed {
            Ok(()) => child.duplicate(frames),
            Err(error) => Err(error),
        };
        let entry = match copy {
            Ok(copy) => {
                if copy.level() != Level::Pt {
                    failed = copy_tables(child, copy, frames);
                }
                Entry::pointing_to(copy.frame().start(), from.get(index).attributes())
            }
            // Nothing of `from`'s may stay in a copy, or it would be freed with it.
            Err(error) => {
                failed = Err(error);
                Entry::ABSENT
            }
        };
        // SAFETY: 1. The copy maps what the original maps, and lives until `free_tables`. 2. No CPU has
        // `to` loaded yet.
        unsafe { to.set(index, entry) };
    }
    failed
}

/// Frees all tables below the entries of `node`.
///
/// # Safety
/// 1. No CPU uses them, and only `node` leads to them.
unsafe fn free_tables<N: Node<Half = KernelHalf>>(node: N, frames: &mut FrameAllocator) {
    for index in node.used() {
        if let Some(child) = node.child(index) {
            // SAFETY: obligation 1.
            unsafe {
                if child.level() != Level::Pt {
                    free_tables(child, frames);
                }
                frames.free_full_table(child.frame());
            }
        }
    }
}
