//! What an address space maps, merged: neighbouring pages of neighbouring frames with equal rights
//! are one range.

use std::fmt;

use serde::Serialize;

use crate::leaves::{Leaves, Mapping};
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::level::PageSize;
use heirloom_paging::rights::Rights;

/// Addresses that are mapped without a gap, virtually and physically, with the same rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MappedRange {
    /// The virtual addresses.
    pub range: VirtRange,
    /// Where its first byte is.
    pub pa: PhysAddr,
    /// What all entries of the walks allow together.
    pub rights: Rights,
    /// How many pages of each size it consists of.
    pub pages: PageCounts,
}

/// Pages by size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct PageCounts {
    /// Pages of 4 KiB.
    #[serde(rename = "4KiB")]
    pub size_4_kib: u64,
    /// Pages of 2 MiB.
    #[serde(rename = "2MiB")]
    pub size_2_mib: u64,
    /// Pages of 1 GiB.
    #[serde(rename = "1GiB")]
    pub size_1_gib: u64,
}

/// `245 pages of 2 MiB, 3 of 4 KiB`, largest first.
impl fmt::Display for PageCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.size_1_gib, PageSize::Size1GiB),
            (self.size_2_mib, PageSize::Size2MiB),
            (self.size_4_kib, PageSize::Size4KiB),
        ];
        let mut noun = " pages";
        for (count, size) in counts.into_iter().filter(|(count, _)| *count > 0) {
            let separator = if noun.is_empty() { ", " } else { "" };
            write!(f, "{separator}{count}{noun} of {size}")?;
            noun = "";
        }
        if noun.is_empty() {
            Ok(())
        } else {
            f.write_str("no pages")
        }
    }
}

impl PageCounts {
    pub(crate) fn add(&mut self, size: PageSize) {
        match size {
            PageSize::Size4KiB => self.size_4_kib += 1,
            PageSize::Size2MiB => self.size_2_mib += 1,
            PageSize::Size1GiB => self.size_1_gib += 1,
        }
    }
}

impl MappedRange {
    fn of(page: &Mapping) -> Self {
        let mut pages = PageCounts::default();
        pages.add(page.size);
        MappedRange {
            range: page.range(),
            pa: page.pa,
            rights: page.rights,
            pages,
        }
    }

    /// Whether `page` goes on where the range ends.
    fn is_continued_by(&self, page: &Mapping) -> bool {
        self.rights == page.rights
            && self.range.last.checked_add(1) == Some(page.va)
            && self.pa.checked_add(self.range.bytes()) == Some(page.pa)
    }
}

/// Iterator over merged ranges, ascending: [`Snapshot::ranges`].
#[derive(Clone, Debug)]
pub struct Ranges<'s> {
    leaves: Leaves<'s>,
    begun: Option<MappedRange>,
}

impl Snapshot {
    /// The leaves of [`Snapshot::leaves`], merged.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn ranges(&self, root: RootId, range: VirtRange) -> Ranges<'_> {
        Ranges {
            leaves: self.leaves(root, range),
            begun: None,
        }
    }
}

impl Ranges<'_> {
    /// As [`Leaves::stopped_at`].
    pub fn stopped_at(&self) -> Option<VirtAddr> {
        self.leaves.stopped_at()
    }
}

impl Iterator for Ranges<'_> {
    type Item = MappedRange;

    fn next(&mut self) -> Option<MappedRange> {
        for page in self.leaves.by_ref() {
            match &mut self.begun {
                Some(begun) if begun.is_continued_by(&page) => {
                    begun.range.last = page.range().last;
                    begun.pages.add(page.size);
                }
                begun => {
                    if let Some(whole) = begun.replace(MappedRange::of(&page)) {
                        return Some(whole);
                    }
                }
            }
        }
        self.begun.take()
    }
}
