//! What a kernel is known to do: data, not code.
//!
//! A [`Profile`] says by which marks a kernel is known, what its areas are called and where they may lie, which of
//! its entries are each address space's own by design, where its self-map is, which of its pages are let
//! pass and under which condition, and where its kernel half is. Nothing of one kernel is assumed of
//! another: a kernel without known marks has [`Profile::generic`], which claims only what the CPU's
//! manual makes true.

mod built_in;
mod file;
mod marks;
mod name;

use serde::Serialize;

pub use file::{AreaFile, MarkFile, PageFile, ProfileError, ProfileFile, nearest};
pub use marks::Mark;
pub(crate) use marks::{Kernel, recognize};
pub use name::Name;

use crate::layout::Area;
use crate::rules::Exception;
use heirloom_paging::addr::{VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::level::Depth;
use heirloom_paging::rights::Rights;

/// What a kernel is known to do.
#[derive(Clone, Debug)]
pub struct Profile {
    /// `linux`.
    pub name: Name,
    /// Any of these tells the kernel.
    pub marks: Vec<Mark>,
    /// Its areas that have a place of their own.
    pub areas: Vec<AreaPlace>,
    /// What it calls areas that are found by what they map, where that is not the usual name.
    pub names: Vec<(Area, Name)>,
    /// How its kernel half is laid out.
    pub layout: LayoutStyle,
    /// Entries of its roots that point back to the root.
    pub self_maps: Vec<u16>,
    /// Deviations from the rules that are meant; each has its own condition.
    pub exceptions: Vec<Exception>,
    /// Pages that are let pass.
    pub pages: Vec<PagePass>,
    /// Where its kernel half is, if that is not the upper half, or as the tables tell.
    pub kernel_half: Option<VirtRange>,
}

/// Where an area may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaPlace {
    /// What it is to the rules.
    pub area: Area,
    /// Its addresses.
    pub range: VirtRange,
    /// With so many levels; `None`: with any.
    pub depth: Option<Depth>,
    /// Entries of the root in it are each address space's own.
    pub private: bool,
}

/// How areas are found that have no fixed place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutStyle {
    /// Linux's order: direct map, vmalloc, vmemmap, the image in the last 2 GiB, modules behind it.
    Linux,
    /// By what they map: memory in a line, code, devices, and the rest.
    ByContent,
}

/// Pages that would break a rule and are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePass {
    /// Under which name.
    pub exception: Exception,
    /// The rule.
    pub rule: Name,
    /// Where they lie.
    pub range: VirtRange,
    /// The condition: they allow no more than this.
    pub at_most: Rights,
}

/// Which profile is taken, and what tells so.
#[derive(Clone, Debug, Serialize)]
pub struct Recognized {
    /// The profile's name.
    pub name: Name,
    /// What tells.
    pub evidence: String,
}

impl Profile {
    /// A kernel that means nothing but what the rules say.
    pub const STRICT: &'static Profile = &Profile {
        name: Name::fixed("strict"),
        marks: Vec::new(),
        areas: Vec::new(),
        names: Vec::new(),
        layout: LayoutStyle::ByContent,
        self_maps: Vec::new(),
        exceptions: Vec::new(),
        pages: Vec::new(),
        kernel_half: None,
    };

    /// The profiles that are built in, those first that are asked first.
    pub fn built_in() -> Vec<Profile> {
        vec![
            Profile::xen(),
            Profile::heirloom(),
            Profile::linux(),
            Profile::generic(),
        ]
    }

    /// The built-in profile of this name.
    pub fn named(name: &str) -> Option<Profile> {
        let mut all = Profile::built_in().into_iter();
        all.find(|profile| profile.name.as_str() == name)
    }

    /// What people call an area of this kernel.
    pub fn name_of(&self, area: Area) -> &'static str {
        let own = self.names.iter().find(|(known, _)| *known == area);
        own.map_or(area.name(), |(_, name)| name.as_str())
    }

    /// The areas that have a place of their own, with so many levels.
    pub fn places(&self, depth: Depth) -> impl Iterator<Item = &AreaPlace> {
        self.areas
            .iter()
            .filter(move |place| place.depth.is_none_or(|only| only == depth))
    }

    /// Where an area is.
    pub fn place_of(&self, area: Area, depth: Depth) -> Option<VirtRange> {
        let mut places = self.places(depth);
        Some(places.find(|place| place.area == area)?.range)
    }

    /// Whether the kernel does this on purpose.
    pub fn excepts(&self, exception: Exception) -> bool {
        self.exceptions.contains(&exception)
    }

    /// Why a page that breaks `rule` is let pass, if it is.
    pub fn lets_pass(&self, rule: &str, va: VirtAddr, rights: Rights) -> Option<Exception> {
        let mut pages = self.pages.iter();
        let pass = pages.find(|pass| {
            let most = pass.at_most;
            pass.rule.as_str() == rule
                && pass.range.contains(va)
                && (most.write || !rights.write)
                && (most.user || !rights.user)
                && (most.execute || !rights.execute)
        })?;
        Some(pass.exception)
    }

    /// Whether an entry of the root that translates `range` is each address space's own by design.
    pub fn is_private(&self, range: VirtRange, depth: Depth) -> bool {
        self.places(depth).any(|place| {
            place.private && place.range.contains(range.first) && place.range.contains(range.last)
        })
    }

    /// The entries of a root that are the kernel's, if the profile says so.
    pub(crate) fn kernel_entries(&self, depth: Depth) -> Option<EntrySet> {
        let range = self.kernel_half?;
        let top = depth.top();
        let mut entries = EntrySet::default();
        (range.first.index(top)..=range.last.index(top)).for_each(|index| entries.insert(index));
        Some(entries)
    }

    /// Entries of a root by which other roots are told: the kernel's, less what each has of its own.
    pub(crate) fn common_entries(&self, depth: Depth) -> Option<EntrySet> {
        let mut entries = self.kernel_entries(depth)?;
        let own = entries.iter().filter(|index| {
            self.self_maps.contains(index)
                || self.is_private(VirtRange::of_top_entry(*index, depth), depth)
        });
        own.collect::<Vec<u16>>()
            .into_iter()
            .for_each(|index| entries.remove(index));
        (!entries.is_empty()).then_some(entries)
    }
}
