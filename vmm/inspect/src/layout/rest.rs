//! The areas of a kernel of which nothing is known, by what they map: memory in a line, code, devices, and the
//! rest.

use super::{Area, Layout, executable_bytes};
use crate::discover::part::ranges;
use crate::layout::direct_map::ram_bytes;
use crate::memory::PhysRange;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::VirtRange;
use heirloom_paging::bits::EntrySet;

/// What is as far apart as this belongs to two areas.
const GAP: u64 = 1 << 30;
/// Areas that are told apart.
const MOST: usize = 64;

/// Pages near each other.
struct Stretch {
    range: VirtRange,
    pages: u64,
    /// Those of them that ring 3 may use, too.
    open: u64,
    code: u64,
    ram: u64,
}

impl Layout {
    /// The linear map of memory, and the kernel's code.
    pub(super) fn add_memory_and_code(
        &mut self,
        snapshot: &Snapshot,
        root: RootId,
        ram: &[PhysRange],
    ) {
        if let Some(map) = self.direct_map {
            let all: u64 = ram.iter().map(|range| range.bytes).sum();
            let evidence = format!(
                "linear: physical 0 is at {}; shows {} of {} MiB of RAM in {}",
                map.base,
                map.ram_bytes >> 20,
                all >> 20,
                map.pages
            );
            self.add(Area::DirectMap, map.range, evidence);
        }
        let image = self.kernel_image;
        if let Some(image) = image.filter(|image| self.is_free(&image.range)) {
            let evidence = format!(
                "linear: physical {} is at {}; {} KiB of it executable",
                image.pa,
                image.range.first,
                executable_bytes(snapshot, root, image.range) >> 10
            );
            self.add(Area::KernelImage, image.range, evidence);
        }
    }

    /// Whatever the kernel's entries map besides what has a name.
    pub(super) fn add_rest(
        &mut self,
        snapshot: &Snapshot,
        root: RootId,
        ram: &[PhysRange],
        kernel: &EntrySet,
    ) {
        let mut taken: Vec<VirtRange> = self.regions.iter().map(|region| region.range).collect();
        taken.sort_unstable();
        let mut stretches: Vec<Stretch> = Vec::new();
        for part in ranges(kernel, snapshot.mode().depth) {
            for page in snapshot.distinct_leaves(root, part) {
                let range = page.range();
                let next = taken.partition_point(|taken| taken.last < range.first);
                if taken.get(next).is_some_and(|taken| taken.overlaps(&range)) {
                    continue;
                }
                let is_full = stretches.len() >= MOST;
                let near = stretches.last_mut().filter(|last| {
                    let gap = range.first.get() - last.range.last.get();
                    // Nothing that has a name lies between.
                    let between = taken.get(next.wrapping_sub(1));
                    let is_one = between.is_none_or(|named| named.first < last.range.first);
                    is_one && (gap < GAP || is_full)
                });
                if near.is_none() && is_full {
                    return self.add_stretches(&stretches);
                }
                let bytes = page.size.bytes();
                let stretch = if let Some(stretch) = near {
                    stretch
                } else {
                    stretches.push(Stretch {
                        range,
                        pages: 0,
                        open: 0,
                        code: 0,
                        ram: 0,
                    });
                    let last = stretches.len() - 1;
                    &mut stretches[last]
                };
                stretch.range.last = range.last;
                stretch.pages += 1;
                stretch.open += u64::from(page.rights.user);
                stretch.code += if page.rights.execute { bytes } else { 0 };
                stretch.ram += ram_bytes(ram, page.pa, bytes);
            }
        }
        self.add_stretches(&stretches);
    }

    fn add_stretches(&mut self, stretches: &[Stretch]) {
        for stretch in stretches {
            let pages = match stretch.pages {
                1 => "1 page".to_owned(),
                pages => format!("{pages} pages"),
            };
            let code = stretch.code >> 10;
            let whose = match stretch.open {
                0 => format!("{pages} for ring 0 alone"),
                open if open == stretch.pages => format!("{pages} for ring 3, too"),
                open => format!("{pages}, {open} of them for ring 3, too"),
            };
            let (area, evidence) = match (stretch.ram, stretch.code) {
                (0, _) => (Area::Devices, format!("{pages}, none of RAM")),
                (_, 0) => (Area::Kernel, whose),
                _ => (
                    Area::Kernel,
                    format!("{whose}, {code} KiB of it executable"),
                ),
            };
            // What the profile has a place for has its name.
            let mut places = self.places.iter();
            let place = places.find(|(_, place)| {
                place.contains(stretch.range.first) && place.contains(stretch.range.last)
            });
            let area = place.map_or(area, |(area, _)| *area);
            self.add(area, stretch.range, evidence);
        }
    }
}
