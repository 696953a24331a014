//! What a process of an isolated kernel has above the CPU entry area, where a top-level entry holds more than
//! the area. With four levels it has an entry for itself; with five it shares one with the kernel image, and each
//! process has tables of its own in between.

use super::context::Context;
use crate::layout::Area;
use crate::snapshot::Snapshot;
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Level;

/// The CPU entry area, where it is only a part of what top-level entry `index` translates.
pub(super) fn area_within(context: &Context<'_>, index: u16) -> Option<VirtRange> {
    let entry = VirtRange::of_top_entry(index, context.snapshot().mode().depth);
    let area = context.area(Area::CpuEntryArea)?;
    let is_part = area.overlaps(&entry) && !is_within(&entry, &area);
    is_part.then_some(area)
}

/// Whether top-level entry `index` of a process, which holds more than the CPU entry area, shows the area by the
/// kernel's own entries, and nothing beside it.
pub(super) fn shows_area_alone(
    context: &Context<'_>,
    index: u16,
    kernels: Entry,
    own: Entry,
) -> bool {
    let snapshot = context.snapshot();
    let range = VirtRange::of_top_entry(index, snapshot.mode().depth);
    area_within(context, index).is_some_and(|area| {
        let place = (snapshot.mode().depth.top(), range.first);
        shows_alone(snapshot, area, place, (kernels, own))
    })
}

fn is_within(inner: &VirtRange, outer: &VirtRange) -> bool {
    outer.contains(inner.first) && outer.contains(inner.last)
}

/// As [`shows_area_alone`], for an entry at a level that translates the addresses from `first` on, the kernel's and
/// the process's own.
fn shows_alone(
    snapshot: &Snapshot,
    area: VirtRange,
    (level, first): (Level, VirtAddr),
    (kernels, own): (Entry, Entry),
) -> bool {
    let last = VirtAddr::new(first.get() + (level.entry_span() - 1));
    let range = VirtRange { first, last };
    if !area.overlaps(&range) {
        return !own.present();
    }
    if is_within(&range, &area) {
        return kernels.as_written() == own.as_written();
    }
    let Some(next) = level.next() else {
        return false;
    };
    let table = |entry: Entry| {
        let leads = entry.present() && !entry.has(Entry::LARGE);
        leads.then(|| snapshot.table(entry.address().pfn(), next))?
    };
    let (Some(kernels), Some(own)) = (table(kernels), table(own)) else {
        return false;
    };
    (0..512).all(|index: u16| {
        let first = first.wrapping_add(u64::from(index) * next.entry_span());
        let entries = (kernels.entry(index), own.entry(index));
        shows_alone(snapshot, area, (next, first), entries)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeMemory;
    use crate::{Capturer, Mode, RootLabel};
    use heirloom_paging::addr::PhysAddr;
    use heirloom_paging::level::{Depth, PageSize};

    const AREA: VirtAddr = VirtAddr::new(0xffff_fe00_0000_0000);
    const IMAGE: VirtAddr = VirtAddr::new(0xffff_ffff_8000_0000);
    const LAST: u16 = 511;

    /// A kernel with entry area and image, and a process to which `share` gives something of the kernel.
    fn holds(share: impl FnOnce(&mut FakeMemory, PhysAddr, PhysAddr)) -> bool {
        let depth = Depth::Five;
        let mut memory = FakeMemory::new();
        let (kernel, process) = (memory.root(), memory.root());
        let mut map = |va: VirtAddr| {
            let page = memory.frame().base();
            let flags = FakeMemory::KERNEL_DATA;
            memory.map(depth, kernel, va, page, PageSize::Size4KiB, flags);
        };
        map(AREA);
        map(IMAGE);
        share(&mut memory, kernel, process);
        let roots = [
            (RootLabel::Kernel, kernel),
            (RootLabel::Process(1), process),
        ];
        let snapshot = Capturer::new().capture(&memory, Mode::typical(depth), &roots);
        let entry = |root: PhysAddr| memory.peek(root.pfn(), LAST);
        let area = VirtRange::new(AREA, Level::Pml4.entry_span()).unwrap();
        let place = (depth.top(), VirtRange::of_top_entry(LAST, depth).first);
        shows_alone(&snapshot, area, place, (entry(kernel), entry(process)))
    }

    /// Gives the process the kernel's PML4 entry for `va`, in a PML4 of its own.
    fn share(memory: &mut FakeMemory, kernel: PhysAddr, process: PhysAddr, va: VirtAddr) {
        let index = va.index(Level::Pml4);
        let from = memory.table_for(Depth::Five, kernel, va, Level::Pml4);
        let to = memory.table_for(Depth::Five, process, va, Level::Pml4);
        let entry = memory.peek(from, index);
        memory.poke(to, index, entry);
    }

    #[test]
    fn the_area_by_the_kernels_own_entry_in_a_table_of_the_processs_own_is_right() {
        assert!(holds(|memory, kernel, process| {
            share(memory, kernel, process, AREA);
        }));
    }

    #[test]
    fn the_kernel_image_beside_it_is_not() {
        assert!(!holds(|memory, kernel, process| {
            share(memory, kernel, process, AREA);
            share(memory, kernel, process, IMAGE);
        }));
        // The kernel's own PML4 shows both.
        assert!(!holds(|memory, kernel, process| {
            let entry = memory.peek(kernel.pfn(), LAST);
            memory.poke(process.pfn(), LAST, entry);
        }));
    }

    #[test]
    fn no_area_or_one_by_other_tables_is_not() {
        assert!(!holds(|_, _, _| {}));
        assert!(!holds(|memory, _, process| {
            let page = memory.frame().base();
            let flags = FakeMemory::KERNEL_DATA;
            memory.map(Depth::Five, process, AREA, page, PageSize::Size4KiB, flags);
        }));
    }
}
