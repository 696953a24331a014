//! What lies where in a kernel half, inferred from the tables.
//!
//! Linux places the direct map, vmalloc and vmemmap at random (KASLR), each at a multiple of 1 GiB and in
//! this order; the rest of its layout is fixed (Documentation/arch/x86/x86_64/mm.rst). So the first
//! three are recognized by what they map, and the others by their addresses:
//!
//! ```text
//! 4 levels             5 levels
//! 0xffff880000000000   0xff10000000000000   LDT remap, per address space
//! …                    …                    direct map: linear, shows RAM
//! …                    …                    vmalloc: scattered pages
//! …                    …                    vmemmap: one `struct page` per frame
//! 0xfffffe0000000000   the same             cpu entry area
//! 0xffffff0000000000   the same             espfix stacks
//! 0xffffffef00000000   the same             EFI runtime
//! 0xffffffff80000000   the same             kernel image: linear, then modules
//! 0xffffffffff000000   the same             fixmap, with the vsyscall page
//! ```

mod area;
mod direct_map;
mod image;
mod vmemmap;

use std::fmt;

use serde::Serialize;

pub use area::Area;
pub(crate) use area::{VSYSCALL, area_at, cpu_entry_area, ldt_area};
pub use direct_map::DirectMap;
pub use image::KernelImage;
pub use vmemmap::Vmemmap;

use area::{FIXMAP, default_direct_map, fixed_areas};
use image::{KERNEL_IMAGE, find_kernel_image};

use crate::discover::part::{all_but, ranges, upper_half};
use crate::memory::PhysRange;
use crate::snapshot::{RootId, Snapshot};
use crate::tally::Tallier;
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::{Depth, Half, Level};

/// An area that is in use, where it is, and what tells so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// What it is.
    pub area: Area,
    /// Where it lies.
    pub range: VirtRange,
    /// Why it is taken for that.
    pub evidence: String,
}

/// What lies where in one kernel half.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Layout {
    /// Ascending; only areas in which something is mapped, and the user half.
    pub regions: Vec<Region>,
    /// Where all physical memory is mapped, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_map: Option<DirectMap>,
    /// The linear mapping at the top: the kernel's text and data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_image: Option<KernelImage>,
    /// Where the array of `struct page` lies, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmemmap: Option<Vmemmap>,
}

/// Entries of a kernel half that are looked through, several times: those of 64 GiB in 4 KiB pages, or of 32
/// TiB in pages of 2 MiB. Tables can claim 2^36 pages with a few frames.
pub(crate) const MOST_ENTRIES: u64 = 1 << 24;
impl Layout {
    /// What the kernel half of `root` tells. `ram` is where guest-physical memory has RAM. A kernel half
    /// of more than 16 million entries tells nothing.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn infer(snapshot: &Snapshot, root: RootId, ram: &[PhysRange]) -> Layout {
        Layout::infer_in(snapshot, root, ram, &upper_half(), &[])
    }

    /// As [`Layout::infer`], where these entries of the root are the kernel's, and of all its entries those
    /// in `self_maps` point to roots.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn infer_in(
        snapshot: &Snapshot,
        root: RootId,
        ram: &[PhysRange],
        kernel: &EntrySet,
        self_maps: &[u16],
    ) -> Layout {
        let depth = snapshot.mode().depth;
        let mut layout = Layout::default();
        let mut users = all_but(kernel);
        Half::Kernel
            .indices()
            .chain(self_maps.iter().copied())
            .for_each(|index| users.remove(index));
        for range in ranges(&users, depth) {
            layout.regions.push(Region {
                area: Area::User,
                range,
                evidence: format!(
                    "{} bits of virtual address, {} levels",
                    depth.virtual_bits(),
                    depth.levels()
                ),
            });
        }
        for &index in self_maps {
            layout.regions.push(Region {
                area: Area::SelfMap,
                range: VirtRange::of_top_entry(index, depth),
                evidence: format!(
                    "{}[{index}] of each root points to a root: recursive paging shows the tables here",
                    depth.root_name()
                ),
            });
        }
        let entries = Tallier::new(snapshot).count_entries(root, kernel).entries;
        if entries > MOST_ENTRIES {
            // Looking through them would end before the end, and what was seen would say nothing.
            return layout;
        }
        layout.direct_map = DirectMap::find_in(snapshot, root, &ranges(kernel, depth), ram);
        layout.kernel_image = find_kernel_image(snapshot, root);
        layout.add_direct_map(depth, ram);
        if layout
            .direct_map
            .is_some_and(|map| map.range.first.half() == Half::Kernel)
        {
            layout.add_between(snapshot, root, ram, self_maps);
        }
        for (area, range) in fixed_areas(depth) {
            // What is found by what it maps may lie there, in kernels that are not Linux.
            if layout
                .regions
                .iter()
                .all(|region| !region.range.overlaps(&range))
                && let Some(what) = mapped_in(snapshot, root, range)
            {
                layout.regions.push(Region {
                    area,
                    range: narrow(area, range, &what),
                    evidence: format!("{what} at the place that Linux gives it"),
                });
            }
        }
        layout.add_image_and_modules(snapshot, root);
        layout.add_lower_half(snapshot, root, kernel);
        layout.regions.sort_by_key(|region| region.range.first);
        layout
    }

    /// The named area that an address lies in.
    pub fn area_of(&self, va: VirtAddr) -> Option<Area> {
        self.region_of(va).map(|region| region.area)
    }

    /// The named region that an address lies in.
    pub fn region_of(&self, va: VirtAddr) -> Option<&Region> {
        self.regions.iter().find(|region| region.range.contains(va))
    }

    /// The named regions that `range` has an address in common with.
    pub fn regions_in(&self, range: VirtRange) -> impl Iterator<Item = &Region> {
        self.regions
            .iter()
            .filter(move |region| region.range.overlaps(&range))
    }

    fn add_direct_map(&mut self, depth: Depth, ram: &[PhysRange]) {
        let Some(map) = self.direct_map else { return };
        let all: u64 = ram.iter().map(|range| range.bytes).sum();
        let moved = match map.base.get().checked_sub(default_direct_map(depth)) {
            Some(0) => "Linux's base without KASLR".to_owned(),
            Some(bytes) => format!("{} GiB above Linux's base without KASLR", bytes >> 30),
            None => "below Linux's base".to_owned(),
        };
        self.regions.push(Region {
            area: Area::DirectMap,
            range: map.range,
            evidence: format!(
                "linear: physical 0 is at {}, {moved}; shows {} of {} MiB of RAM in {}",
                map.base,
                map.ram_bytes >> 20,
                all >> 20,
                map.pages
            ),
        });
    }

    /// vmalloc and vmemmap, which lie between the direct map and the cpu entry area.
    fn add_between(
        &mut self,
        snapshot: &Snapshot,
        root: RootId,
        ram: &[PhysRange],
        self_maps: &[u16],
    ) {
        let Some(map) = self.direct_map else { return };
        let depth = snapshot.mode().depth;
        // What a self-map shows is neither.
        let end = self_maps
            .iter()
            .map(|index| VirtRange::of_top_entry(*index, depth).first)
            .filter(|first| *first > map.range.last)
            .fold(cpu_entry_area(depth).first, VirtAddr::min);
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
        if let Some(vmemmap) = &self.vmemmap {
            self.regions.push(Region {
                area: Area::Vmemmap,
                range: vmemmap.range,
                evidence: vmemmap.to_string(),
            });
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
            self.regions.push(Region {
                area: Area::Vmalloc,
                range: VirtRange {
                    first: VirtAddr::new(what.first.get() & !(unit - 1)).max(below.first),
                    last: what.last,
                },
                evidence: format!(
                    "{what} between the direct map and {}; begins at a multiple of 1 GiB",
                    if self.vmemmap.is_some() {
                        "vmemmap"
                    } else {
                        "the cpu entry area"
                    }
                ),
            });
        }
    }

    /// What the kernel has in the lower half besides the direct map.
    fn add_lower_half(&mut self, snapshot: &Snapshot, root: RootId, kernel: &EntrySet) {
        let depth = snapshot.mode().depth;
        for index in kernel.iter().filter(|index| *index < 256) {
            let range = VirtRange::of_top_entry(index, depth);
            let is_free = self
                .regions
                .iter()
                .all(|region| !region.range.overlaps(&range));
            if let Some(what) = mapped_in(snapshot, root, range).filter(|_| is_free) {
                self.regions.push(Region {
                    area: Area::Kernel,
                    range: VirtRange {
                        first: what.first,
                        last: what.last,
                    },
                    evidence: format!(
                        "{what} for ring 0 alone, in the lower half, {} KiB of it executable",
                        executable_bytes(snapshot, root, range) >> 10
                    ),
                });
            }
        }
    }

    fn add_image_and_modules(&mut self, snapshot: &Snapshot, root: RootId) {
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
        self.regions.push(Region {
            area: Area::KernelImage,
            range: image.range,
            evidence: format!(
                "linear: physical {} is at {}, {} MiB above {KERNEL_IMAGE}; {} KiB of it executable",
                image.pa,
                image.range.first,
                moved >> 20,
                executable_bytes(snapshot, root, image.range) >> 10,
            ),
        });
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
            self.regions.push(Region {
                area: Area::Modules,
                range: VirtRange {
                    first: what.first,
                    last: what.last,
                },
                evidence: format!("{what} between the kernel image and the fixmap"),
            });
        }
    }
}

/// The named part of a fixed area: all of it, but only what is mapped where it is 2^39 bytes wide and
/// more.
fn narrow(area: Area, range: VirtRange, what: &Mapped) -> VirtRange {
    match area {
        Area::Fixmap | Area::Vsyscall | Area::Ldt => range,
        _ => VirtRange {
            first: range.first,
            last: what.last,
        },
    }
}

/// The pages that are mapped somewhere.
struct Mapped {
    first: VirtAddr,
    last: VirtAddr,
    pages: u64,
    ranges: u64,
}

impl fmt::Display for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pages, ranges) = (self.pages, self.ranges);
        write!(
            f,
            "{pages} {} in {ranges} {}",
            if pages == 1 { "page" } else { "pages" },
            if ranges == 1 { "range" } else { "ranges" }
        )
    }
}

fn mapped_in(snapshot: &Snapshot, root: RootId, range: VirtRange) -> Option<Mapped> {
    let mut mapped: Option<Mapped> = None;
    for page in snapshot.leaves(root, range) {
        let last = page.range().last;
        match &mut mapped {
            None => {
                mapped = Some(Mapped {
                    first: page.va,
                    last,
                    pages: 1,
                    ranges: 1,
                });
            }
            Some(so_far) => {
                so_far.ranges += u64::from(so_far.last.checked_add(1) != Some(page.va));
                so_far.pages += 1;
                so_far.last = last;
            }
        }
    }
    mapped
}

fn executable_bytes(snapshot: &Snapshot, root: RootId, range: VirtRange) -> u64 {
    snapshot
        .leaves(root, range)
        .filter(|page| page.rights.execute)
        .map(|page| page.size.bytes())
        .sum()
}

/// Whether the kernel half of `root` shows the frame that the root itself is in: every kernel must
/// be able to write its page tables.
pub(crate) fn shows_itself(snapshot: &Snapshot, root: RootId) -> bool {
    let frame = snapshot.root(root).address;
    snapshot
        .leaves(root, VirtRange::half(Half::Kernel))
        .any(|page| page.pa <= frame && frame.get() - page.pa.get() < page.size.bytes())
}
