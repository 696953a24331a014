//! What lies where in a kernel half, inferred from the tables.
//!
//! Linux places the direct map, vmalloc and vmemmap at random (KASLR), each at a multiple of 1 GiB and in
//! this order; the rest of its layout is fixed (Documentation/arch/x86/x86_64/mm.rst). So the first three
//! are recognized by what they map, and the others by their addresses, which the kernel's profile has. Of a
//! kernel that is not known everything is recognized by what it maps.

mod area;
mod direct_map;
mod image;
mod linux;
mod rest;
mod vmemmap;

use std::fmt;

use serde::Serialize;

pub use area::Area;
pub(crate) use area::{FIXMAP, VSYSCALL, area_at};
pub use direct_map::DirectMap;
pub use image::KernelImage;
pub(crate) use image::{KERNEL_IMAGE, KERNEL_IMAGE_LAST};
pub use vmemmap::Vmemmap;

use area::default_direct_map;
use image::{find_code, find_kernel_image};

use crate::discover::part::{all_but, ranges, upper_half};
use crate::memory::PhysRange;
use crate::profile::{LayoutStyle, Name, Profile};
use crate::size::Size;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::Half;

/// An area that is in use, where it is, and what tells so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// What it is.
    pub area: Area,
    /// What people call it.
    pub name: Name,
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
    /// Where the profile has areas, in use or not.
    #[serde(skip)]
    places: Vec<(Area, VirtRange)>,
}

/// Entries of a kernel half that are looked through, several times: those of 64 GiB in 4 KiB pages, or of 32
/// TiB in pages of 2 MiB. Tables can claim 2^36 pages with a few frames.
pub(crate) const MAX_ENTRIES: u64 = 1 << 24;
/// A linear map of memory shows one part of RAM in so many, or so much as no image has. What shows less is one.
const LEAST_SHOWN: u64 = 16;
const MANY_BYTES: u64 = 64 << 20;

impl Layout {
    /// What the kernel half of `root` tells, if it is Linux's. `ram` is where guest-physical memory has RAM. A
    /// kernel half of more than 16 million entries tells nothing.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn infer(snapshot: &Snapshot, root: RootId, ram: &[PhysRange]) -> Layout {
        Layout::infer_in(snapshot, root, ram, (&upper_half(), &[]), &Profile::linux())
    }

    /// As [`Layout::infer`], of a kernel of which this profile is known, where these entries of the root are
    /// the kernel's, and of all its entries those in `self_maps` point to roots.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn infer_in(
        snapshot: &Snapshot,
        root: RootId,
        ram: &[PhysRange],
        (kernel, self_maps): (&EntrySet, &[u16]),
        profile: &Profile,
    ) -> Layout {
        let depth = snapshot.mode().depth;
        let places = profile.places(depth);
        let mut layout = Layout {
            places: places.map(|place| (place.area, place.range)).collect(),
            ..Layout::default()
        };
        let region = |area: Area, range: VirtRange, evidence: String| Region {
            area,
            name: Name::fixed(profile.name_of(area)),
            range,
            evidence,
        };
        let mut users = all_but(kernel);
        Half::Kernel
            .indices()
            .chain(self_maps.iter().copied())
            .for_each(|index| users.remove(index));
        for range in ranges(&users, depth) {
            let (bits, levels) = (depth.virtual_bits(), depth.levels());
            let evidence = format!("{bits} bits of virtual address, {levels} levels");
            layout.regions.push(region(Area::User, range, evidence));
        }
        for &index in self_maps {
            let evidence = format!(
                "{}[{index}] points to a root: recursive paging shows the tables here",
                depth.root_name()
            );
            let range = VirtRange::of_top_entry(index, depth);
            layout.regions.push(region(Area::SelfMap, range, evidence));
        }
        let entries = snapshot.distinct_entries(root, kernel);
        if entries > MAX_ENTRIES {
            // Looking through them would end before the end, and what was seen would say nothing.
            return layout;
        }
        if !snapshot.has_shadows() {
            layout.places.retain(|(area, _)| *area != Area::SHADOW);
        }
        let parts = ranges(kernel, depth);
        let memory = profile.place_of(Area::DirectMap, depth);
        let memory = memory.map_or(parts.clone(), |place| vec![place]);
        layout.direct_map = DirectMap::find_in(snapshot, root, &memory, ram);
        match profile.layout {
            LayoutStyle::Linux => {
                layout.kernel_image = find_kernel_image(snapshot, root);
                // Before all of memory is mapped the image shows most of it.
                layout
                    .direct_map
                    .take_if(|map| map.range.first >= KERNEL_IMAGE);
                layout.add_direct_map(depth, ram);
                let map = layout.direct_map;
                if map.is_some_and(|map| map.range.first.half() == Half::Kernel) {
                    let end = profile.place_of(Area::CpuEntryArea, depth);
                    let end = end.map_or(KERNEL_IMAGE, |area| area.first);
                    layout.add_between(snapshot, root, ram, (self_maps, end));
                }
                layout.add_places(snapshot, root, "the place that Linux gives it");
                layout.add_image_and_modules(snapshot, root);
                layout.add_lower_half(snapshot, root, kernel);
            }
            LayoutStyle::ByContent => {
                // The line in which a kernel's image lies shows the image, and not memory.
                let all: u64 = ram.iter().map(|range| range.bytes).sum();
                let is_little =
                    |map: &mut DirectMap| map.ram_bytes < (all / LEAST_SHOWN).min(MANY_BYTES);
                layout.direct_map.take_if(is_little);
                let code = profile.place_of(Area::KernelImage, depth);
                let code = code.map_or(parts, |place| vec![place]);
                let base = layout.direct_map.map(|map| map.base);
                layout.kernel_image = find_code(snapshot, root, (&code, ram), base);
                layout.add_memory_and_code(snapshot, root, ram);
                layout.add_places(snapshot, root, "its place in the profile");
                layout.add_rest(snapshot, root, ram, kernel);
                layout.add_identity_map(snapshot, root, depth);
            }
        }
        for region in &mut layout.regions {
            region.name = Name::fixed(profile.name_of(region.area));
        }
        layout.regions.sort_by_key(|region| region.range.first);
        layout
    }

    /// What an address space has where that has no kernel half, but memory at its own address.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn of_identity(snapshot: &Snapshot, root: RootId) -> Layout {
        let mut layout = Layout::default();
        let lower = VirtRange::half(Half::User);
        let kernel = all_but(&upper_half());
        if snapshot.distinct_entries(root, &kernel) <= MAX_ENTRIES
            && let Some(what) = mapped_in(snapshot, root, lower)
        {
            let range = VirtRange {
                first: what.first,
                last: what.last,
            };
            let code = Size(executable_bytes(snapshot, root, lower));
            let mut leaves = snapshot.distinct_leaves(root, lower);
            let whose = if leaves.any(|page| page.rights.user) {
                "ring 3, too"
            } else {
                "ring 0 alone"
            };
            let evidence = format!("{what} for {whose}, {code} of it executable");
            layout.add(Area::Other(Name::fixed("identity map")), range, evidence);
        }
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

    /// What another address space has at the profile's places that the layout's own has not.
    pub(crate) fn add_places_of(&mut self, snapshot: &Snapshot, root: RootId, profile: &Profile) {
        let before = self.regions.len();
        self.add_places(snapshot, root, "its place in the profile, in some roots");
        for region in &mut self.regions[before..] {
            region.name = Name::fixed(profile.name_of(region.area));
        }
        self.regions.sort_by_key(|region| region.range.first);
    }

    fn add(&mut self, area: Area, range: VirtRange, evidence: String) {
        self.regions.push(Region {
            area,
            name: Name::fixed(area.name()),
            range,
            evidence,
        });
    }

    /// Whether no region has an address in common with `range`.
    fn is_free(&self, range: &VirtRange) -> bool {
        let mut regions = self.regions.iter();
        regions.all(|region| !region.range.overlaps(range))
    }

    /// What is mapped where the profile has areas.
    fn add_places(&mut self, snapshot: &Snapshot, root: RootId, whose: &str) {
        for (area, range) in self.places.clone() {
            // What is found by what it maps may lie there.
            if !self.is_free(&range) {
                continue;
            }
            if let Some(what) = mapped_in(snapshot, root, range) {
                let evidence = format!("{what} at {whose}");
                self.add(area, narrow(area, range, &what), evidence);
            }
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
    for page in snapshot.distinct_leaves(root, range) {
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
        .distinct_leaves(root, range)
        .filter(|page| page.rights.execute)
        .map(|page| page.size.bytes())
        .sum()
}

/// Whether the kernel half of `root` shows the frame that the root itself is in: every kernel must
/// be able to write its page tables.
pub(crate) fn shows_itself(snapshot: &Snapshot, root: RootId) -> bool {
    let frame = snapshot.root(root).address;
    snapshot
        .distinct_leaves(root, VirtRange::half(Half::Kernel))
        .any(|page| page.pa <= frame && frame.get() - page.pa.get() < page.size.bytes())
}
