//! The areas of a kernel of which nothing is known, by what they map: memory in a line, code, devices, and the
//! rest.

use super::{Area, Layout, MAX_ENTRIES, Region, executable_bytes, mapped_in};
use crate::discover::part::ranges;
use crate::layout::direct_map::ram_bytes;
use crate::memory::PhysRange;
use crate::profile::Name;
use crate::size::Size;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::{Depth, Half};

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

/// The entries of a root that translate a range of the lower half.
fn entries_of(range: VirtRange, depth: Depth) -> EntrySet {
    let mut entries = EntrySet::default();
    Half::User
        .indices()
        .filter(|index| VirtRange::of_top_entry(*index, depth).overlaps(&range))
        .for_each(|index| entries.insert(index));
    entries
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
                "linear: physical {} is at {}; {} of it executable",
                image.pa,
                image.range.first,
                Size(executable_bytes(snapshot, root, image.range))
            );
            self.add(Area::KernelImage, image.range, evidence);
        }
    }

    /// Memory at its own address, for ring 0 alone, where others have their user half: what the machine booted on, or
    /// where a kernel without processes is. What else is there is the user half's.
    pub(super) fn add_identity_map(&mut self, snapshot: &Snapshot, root: RootId, depth: Depth) {
        for at in (0..self.regions.len()).rev() {
            let range = self.regions[at].range;
            if self.regions[at].area != Area::User
                || snapshot.distinct_entries(root, &entries_of(range, depth)) > MAX_ENTRIES
            {
                continue;
            }
            let (mut same, mut other) = (0, 0);
            for page in snapshot.distinct_leaves(root, range) {
                if page.rights.user {
                    other = u64::MAX;
                    break;
                }
                let is_same = page.va.get() == page.pa.get();
                *(if is_same { &mut same } else { &mut other }) += 1;
            }
            let Some(what) = mapped_in(snapshot, root, range).filter(|_| same > other) else {
                continue;
            };
            let code = Size(executable_bytes(snapshot, root, range));
            let evidence = format!("{what} for ring 0 alone, {code} of it executable");
            let shown = VirtRange {
                first: what.first,
                last: what.last,
            };
            let user = self.regions.remove(at);
            self.add(Area::Other(Name::fixed("identity map")), shown, evidence);
            for (first, last) in [
                (Some(range.first), shown.first.get().checked_sub(1)),
                (shown.last.checked_add(1), Some(range.last.get())),
            ] {
                if let (Some(first), Some(last)) = (first, last.map(VirtAddr::new))
                    && first <= last
                {
                    let range = VirtRange { first, last };
                    self.regions.push(Region {
                        range,
                        ..user.clone()
                    });
                }
            }
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
            let code = Size(stretch.code);
            let whose = match stretch.open {
                0 => format!("{pages} for ring 0 alone"),
                open if open == stretch.pages => format!("{pages} for ring 3, too"),
                open => format!("{pages}, {open} of them for ring 3, too"),
            };
            let (area, evidence) = match (stretch.ram, stretch.code) {
                (0, _) => (Area::Devices, format!("{pages}, none of RAM")),
                (_, 0) => (Area::Kernel, whose),
                _ => (Area::Kernel, format!("{whose}, {code} of it executable")),
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
