//! `copy-all`: every process has private copies of all kernel tables; each change is written into
//! every one.
//!
//! The lecture's "update mapping in every process", of which it says that it "does not look good";
//! xv6's `setupkvm`, which builds a kernel half of its own for every process.

use super::{Propagation, Spaces, change, put};
use crate::bug;
use crate::mm::entry::{Entry, Flags, Level};
use crate::mm::frame::FrameAllocator;
use crate::mm::table::Table;
use crate::mm::{Frame, OutOfFrames, VirtAddr};
use heirloom_abi::bugs::Bug;
use heirloom_abi::layout::KERNEL_HALF_FIRST_ENTRY;
use heirloom_abi::options::Strategy;

pub struct CopyAll;

/// Tables that one mapping may need in each address space: PDPT, PD, PT.
const TABLES_FOR_A_MAPPING: u64 = 3;

impl Propagation for CopyAll {
    fn strategy(&self) -> Strategy {
        Strategy::CopyAll
    }

    fn inherit(&self, spaces: &mut Spaces<'_>, child: Table) -> Result<(), OutOfFrames> {
        copy_tables(
            spaces.current,
            child,
            KERNEL_HALF_FIRST_ENTRY,
            spaces.frames,
        )
    }

    fn disinherit(&self, root: Table, frames: &mut FrameAllocator) {
        free_tables(root, KERNEL_HALF_FIRST_ENTRY, frames);
        root.clear_kernel_half();
    }

    fn map(
        &self,
        spaces: &mut Spaces<'_>,
        address: VirtAddr,
        leaf: Entry,
    ) -> Result<(), OutOfFrames> {
        // All or none: there must be frames for everybody before the first one is given the mapping.
        let address_spaces = 1 + spaces.process_roots().count() as u64;
        if spaces.frames.usage().free < address_spaces * TABLES_FOR_A_MAPPING {
            return Err(OutOfFrames);
        }
        put(spaces.kernel, address, leaf, spaces.frames)?;
        for (number, frame) in spaces.processes.iter().enumerate() {
            // SAFETY: the list holds the PGDs of living address spaces.
            let root = unsafe { Table::new(frame, Level::Pgd) };
            let wrong = number == 0 && bug::is(Bug::WrongFrameInOne);
            let frame = Frame(leaf.frame().0 + u64::from(wrong));
            put(
                root,
                address,
                Entry::new(frame, leaf.flags()),
                spaces.frames,
            )?;
        }
        Ok(())
    }

    fn change(
        &self,
        spaces: &mut Spaces<'_>,
        address: VirtAddr,
        flags: Option<Flags>,
    ) -> Option<Entry> {
        let skipped = usize::from(flags.is_none() && bug::is(Bug::StaleInOne));
        for root in spaces.process_roots().skip(skipped) {
            change(root, address, flags);
        }
        change(spaces.kernel, address, flags)
    }
}

/// Fills `to`, whose entries from `first` on are empty or the same as `from`'s, with copies of all
/// tables below `from`'s entries. Leaves are not copied: the memory is the same.
fn copy_tables(
    from: Table,
    to: Table,
    first: usize,
    frames: &mut FrameAllocator,
) -> Result<(), OutOfFrames> {
    let mut next = first;
    let mut failed = Ok(());
    while let Some(index) = from.next_used(next) {
        next = index + 1;
        let Some(child) = from.child(index) else {
            continue;
        };
        let copy = match failed {
            Ok(()) => child.duplicate(frames),
            Err(error) => Err(error),
        };
        match copy {
            Ok(copy) => {
                to.set_kernel(index, Entry::new(copy.frame(), from.get(index).flags()));
                if copy.level() != Level::Pt {
                    failed = copy_tables(child, copy, 0, frames);
                }
            }
            // Nothing of `from`'s may stay in a copy, or it would be freed with it.
            Err(error) => {
                to.set_kernel(index, Entry::ABSENT);
                failed = Err(error);
            }
        }
    }
    failed
}

/// Frees all tables below the entries of `table` from `first` on.
fn free_tables(table: Table, first: usize, frames: &mut FrameAllocator) {
    let mut next = first;
    while let Some(index) = table.next_used(next) {
        next = index + 1;
        if let Some(child) = table.child(index) {
            if child.level() != Level::Pt {
                free_tables(child, 0, frames);
            }
            frames.free_full_table(child.frame());
        }
    }
}
