//! Linux's order: the direct map, vmalloc, vmemmap, the kernel image, modules.

use super::{
    Area, FIXMAP, KERNEL_IMAGE, Layout, Vmemmap, default_direct_map, executable_bytes, mapped_in,
};
use crate::memory::PhysRange;
use crate::size::Size;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::{Depth, Level};

impl Layout {
    pub(super) fn add_direct_map(&mut self, depth: Depth, ram: &[PhysRange]) {
        let Some(map) = self.direct_map else { return };
        let all: u64 = ram.iter().map(|range| range.bytes).sum();
        let moved = match map.base.get().checked_sub(default_direct_map(depth)) {
            Some(0) => "Linux's base without KASLR".to_owned(),
            Some(bytes) => format!("{} GiB above Linux's base without KASLR", bytes >> 30),
            None => "below Linux's base".to_owned(),
        };
        self.add(
            Area::DirectMap,
            map.range,
            format!(
                "linear: physical 0 is at {}, {moved}; shows {} of {} MiB of RAM in {}",
                map.base,
                map.ram_bytes >> 20,
                all >> 20,
                map.pages
            ),
        );
    }

    /// vmalloc and vmemmap, which lie between the direct map and the cpu entry area.
    pub(super) fn add_between(
        &mut self,
        snapshot: &Snapshot,
        root: RootId,
        ram: &[PhysRange],
        (self_maps, end): (&[u16], VirtAddr),
    ) {
        let Some(map) = self.direct_map else { return };
        let depth = snapshot.mode().depth;
        // What a self-map shows is neither.
        let end = self_maps
            .iter()
            .map(|index| VirtRange::of_top_entry(*index, depth).first)
            .filter(|first| *first > map.range.last)
            .fold(end, VirtAddr::min);
        let (Some(first), Some(last)) = (map.range.last.checked_add(1), end.get().checked_sub(1))
        else {
            return;
        };
        let between = VirtRange {
            first,
            last: VirtAddr::new(last),
        };
        if between.first > between.last {
            return;
        }
        self.vmemmap = Vmemmap::find(snapshot, root, between, ram);
        if let Some(vmemmap) = self.vmemmap {
            self.add(Area::Vmemmap, vmemmap.range, vmemmap.to_string());
        }
        let end = self.vmemmap.as_ref().map_or(between.last, |vmemmap| {
            VirtAddr::new(vmemmap.range.first.get() - 1)
        });
        let below = VirtRange {
            first: between.first,
            last: end,
        };
        if let Some(what) = mapped_in(snapshot, root, below) {
            let unit = Level::Pdpt.entry_span();
            self.add(
                Area::Vmalloc,
                VirtRange {
                    first: VirtAddr::new(what.first.get() & !(unit - 1)).max(below.first),
                    last: what.last,
                },
                format!(
                    "{what} between the direct map and {}; begins at a multiple of 1 GiB",
                    if self.vmemmap.is_some() {
                        "vmemmap"
                    } else {
                        "the cpu entry area"
                    }
                ),
            );
        }
    }

    /// What the kernel has in the lower half besides the direct map.
    pub(super) fn add_lower_half(&mut self, snapshot: &Snapshot, root: RootId, kernel: &EntrySet) {
        let depth = snapshot.mode().depth;
        for index in kernel.iter().filter(|index| *index < 256) {
            let range = VirtRange::of_top_entry(index, depth);
            let is_free = self
                .regions
                .iter()
                .all(|region| !region.range.overlaps(&range));
            if let Some(what) = mapped_in(snapshot, root, range).filter(|_| is_free) {
                self.add(
                    Area::Kernel,
                    VirtRange {
                        first: what.first,
                        last: what.last,
                    },
                    format!(
                        "{what} for ring 0 alone, in the lower half, {} of it executable",
                        Size(executable_bytes(snapshot, root, range))
                    ),
                );
            }
        }
    }

    pub(super) fn add_image_and_modules(&mut self, snapshot: &Snapshot, root: RootId) {
        let Some(image) = self.kernel_image else {
            return;
        };
        let moved = image.range.first.get() - KERNEL_IMAGE.get();
        // Where one linear mapping is both, it is the direct map that the image lies in.
        if self
            .direct_map
            .is_some_and(|map| map.range.overlaps(&image.range))
        {
            return;
        }
        self.add(
            Area::KernelImage,
            image.range,
            format!(
                "linear: physical {} is at {}, {} MiB above {KERNEL_IMAGE}; {} of it executable",
                image.pa,
                image.range.first,
                moved >> 20,
                Size(executable_bytes(snapshot, root, image.range)),
            ),
        );
        let Some(first) = image.range.last.checked_add(1) else {
            return;
        };
        let above = VirtRange {
            first,
            last: VirtAddr::new(FIXMAP.get() - 1),
        };
        if above.first < above.last
            && let Some(what) = mapped_in(snapshot, root, above)
        {
            self.add(
                Area::Modules,
                VirtRange {
                    first: what.first,
                    last: what.last,
                },
                format!("{what} between the kernel image and the fixmap"),
            );
        }
    }
}
