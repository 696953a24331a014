//! The levels of a page-table walk, the depth of the walk, and the sizes of the pages at its end.

use core::fmt;

/// Which table of a walk an entry stands in; from the root down (Intel SDM vol. 3A, 4.5).
///
/// Serialized by Intel's name, whatever the depth of the walk: `"PML5"`, `"PML4"`, `"PDPT"`, `"PD"`, `"PT"`.
/// [`Depth::name`] is the name for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "UPPERCASE"))]
pub enum Level {
    /// The root with 5-level paging; 256 TiB an entry.
    Pml5,
    /// The PML4, the root with 4-level paging; 512 GiB an entry.
    Pml4,
    /// The PUD; 1 GiB an entry.
    Pdpt,
    /// The PMD; 2 MiB an entry.
    Pd,
    /// The last table; 4 KiB an entry.
    Pt,
}

impl Level {
    /// All levels, from the root down.
    pub const ALL: [Level; 5] = [Level::Pml5, Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];

    /// Lowest bit of a virtual address that selects an entry at this level.
    pub const fn shift(self) -> u32 {
        match self {
            Level::Pml5 => 48,
            Level::Pml4 => 39,
            Level::Pdpt => 30,
            Level::Pd => 21,
            Level::Pt => 12,
        }
    }

    /// Virtual bytes below one entry.
    pub const fn entry_span(self) -> u64 {
        1 << self.shift()
    }

    /// The level of the tables that entries of this level point to.
    pub const fn next(self) -> Option<Level> {
        match self {
            Level::Pml5 => Some(Level::Pml4),
            Level::Pml4 => Some(Level::Pdpt),
            Level::Pdpt => Some(Level::Pd),
            Level::Pd => Some(Level::Pt),
            Level::Pt => None,
        }
    }

    /// The page that a leaf at this level maps; `None` where the manual knows no leaves.
    pub const fn page_size(self) -> Option<PageSize> {
        match self {
            Level::Pml5 | Level::Pml4 => None,
            Level::Pdpt => Some(PageSize::Size1GiB),
            Level::Pd => Some(PageSize::Size2MiB),
            Level::Pt => Some(PageSize::Size4KiB),
        }
    }

    /// Intel's name of the table. [`Depth::name`] is the one for people: it calls the root of four levels the
    /// PGD.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Pml5 => "PML5",
            Level::Pml4 => "PML4",
            Level::Pdpt => "PDPT",
            Level::Pd => "PD",
            Level::Pt => "PT",
        }
    }

    /// Position in [`Level::ALL`].
    pub const fn number(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How many levels a walk has: CR4.LA57 of the vCPU decides, the tables themselves do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Depth {
    /// 48-bit virtual addresses.
    Four,
    /// 57-bit virtual addresses (LA57).
    Five,
}

impl Depth {
    /// The level that CR3 points to.
    pub const fn top(self) -> Level {
        match self {
            Depth::Four => Level::Pml4,
            Depth::Five => Level::Pml5,
        }
    }

    /// Bits of a virtual address that are translated: 48 or 57. The bits above repeat the highest.
    pub const fn virtual_bits(self) -> u32 {
        self.top().shift() + 9
    }

    /// What people call the table at `level` of a walk this deep: by Intel's names, but that the root of four
    /// levels is the PGD, as Linux calls the root. With five levels that is the PML5, and the PML4 below it
    /// is one.
    pub const fn name(self, level: Level) -> &'static str {
        match (self, level) {
            (Depth::Four, Level::Pml4) => "PGD",
            _ => level.name(),
        }
    }

    /// What people call the root: the PGD of four levels, the PML5 of five.
    pub const fn root_name(self) -> &'static str {
        self.name(self.top())
    }

    /// 4 or 5.
    pub const fn levels(self) -> u32 {
        match self {
            Depth::Four => 4,
            Depth::Five => 5,
        }
    }
}

/// The two halves of an address space, as the root table's entries divide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Half {
    /// Entries 0–255 of the root: each process its own.
    User,
    /// Entries 256–511 of the root: inherited.
    Kernel,
}

impl Half {
    /// The root's first entry of the kernel half; half of all.
    pub const KERNEL_FIRST: u16 = 256;

    /// Which half entry `index` of a root belongs to.
    pub const fn of_index(index: u16) -> Half {
        if index < Half::KERNEL_FIRST {
            Half::User
        } else {
            Half::Kernel
        }
    }

    /// The root's entries of this half.
    pub const fn indices(self) -> core::ops::Range<u16> {
        match self {
            Half::User => 0..Half::KERNEL_FIRST,
            Half::Kernel => Half::KERNEL_FIRST..512,
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Half::User => "user half",
            Half::Kernel => "kernel half",
        })
    }
}

/// The size of the page that a leaf maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum PageSize {
    /// A leaf of a PT.
    #[cfg_attr(feature = "serde", serde(rename = "4KiB"))]
    Size4KiB,
    /// A leaf of a PD.
    #[cfg_attr(feature = "serde", serde(rename = "2MiB"))]
    Size2MiB,
    /// A leaf of a PDPT.
    #[cfg_attr(feature = "serde", serde(rename = "1GiB"))]
    Size1GiB,
}

impl PageSize {
    /// All sizes, ascending.
    pub const ALL: [PageSize; 3] = [PageSize::Size4KiB, PageSize::Size2MiB, PageSize::Size1GiB];

    /// Bytes in the page.
    pub const fn bytes(self) -> u64 {
        self.level().entry_span()
    }

    /// The level whose leaves map pages of this size.
    pub const fn level(self) -> Level {
        match self {
            PageSize::Size4KiB => Level::Pt,
            PageSize::Size2MiB => Level::Pd,
            PageSize::Size1GiB => Level::Pdpt,
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PageSize::Size4KiB => "4 KiB",
            PageSize::Size2MiB => "2 MiB",
            PageSize::Size1GiB => "1 GiB",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_spans_a_whole_table_of_the_next_level() {
        for level in Level::ALL {
            if let Some(next) = level.next() {
                assert_eq!(level.entry_span(), 512 * next.entry_span(), "{level}");
            }
        }
        assert_eq!(Level::Pt.entry_span(), 4096);
    }

    #[test]
    fn a_page_is_what_one_entry_of_its_level_spans() {
        for size in PageSize::ALL {
            assert_eq!(size.level().page_size(), Some(size));
        }
        assert_eq!(
            PageSize::ALL.map(PageSize::bytes),
            [4 << 10, 2 << 20, 1 << 30]
        );
        assert_eq!(Level::Pml4.page_size(), None);
        assert_eq!(Level::Pml5.page_size(), None);
    }

    #[test]
    fn the_root_of_four_levels_is_the_pgd_and_that_of_five_the_pml5() {
        let names = |depth: Depth| Level::ALL.map(|level| depth.name(level));
        assert_eq!(names(Depth::Four)[1..], ["PGD", "PDPT", "PD", "PT"]);
        assert_eq!(names(Depth::Five), ["PML5", "PML4", "PDPT", "PD", "PT"]);
        assert_eq!(Level::ALL.map(Level::name), names(Depth::Five));
        assert_eq!(
            [Depth::Four, Depth::Five].map(Depth::root_name),
            ["PGD", "PML5"]
        );
    }

    #[test]
    fn programs_read_intels_names_at_every_depth() {
        let json = serde_json::to_value(Level::ALL).unwrap();
        let names = Level::ALL.map(|level| Depth::Five.name(level));
        assert_eq!(json, serde_json::json!(names));
    }

    #[test]
    fn four_levels_translate_48_bits_and_five_57() {
        assert_eq!(Depth::Four.virtual_bits(), 48);
        assert_eq!(Depth::Five.virtual_bits(), 57);
    }
}
