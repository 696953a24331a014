//! One entry of a page table: 64 bits, and what they mean at a level of a walk.
//!
//! Bit positions: Intel SDM vol. 3A, 4.5 (tables 4-14 to 4-20); AMD APM vol. 2, 5.4.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::ops::BitOr;

use crate::addr::{Pfn, PhysAddr};
use crate::level::{Level, PageSize};
use crate::mode::Mode;

/// An entry as it stands in memory. What it means depends on its level and on the CPU's mode:
/// [`Entry::decode`].
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry(u64);

impl Hash for Entry {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }

    /// Of many at once, as of a root's half: the words go to `state` together, and not one by one.
    fn hash_slice<H: Hasher>(entries: &[Entry], state: &mut H) {
        for some in entries.chunks(64) {
            let mut words = [0; 64];
            for (word, entry) in words.iter_mut().zip(some) {
                *word = entry.0;
            }
            u64::hash_slice(&words[..some.len()], state);
        }
    }
}

/// Bits 51–12: where the address stands. Bits 52–62 are software's, bit 63 is NX; they never
/// reach an address, although KPTI sets NX on entries that point to tables.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl Entry {
    /// An entry of zeroes: nothing is mapped.
    pub const ABSENT: Entry = Entry(0);
    /// P: without it the CPU looks at no other bit.
    pub const PRESENT: Entry = Entry(1 << 0);
    /// R/W.
    pub const WRITABLE: Entry = Entry(1 << 1);
    /// U/S.
    pub const USER: Entry = Entry(1 << 2);
    /// PWT: write-through.
    pub const WRITE_THROUGH: Entry = Entry(1 << 3);
    /// PCD: not cached.
    pub const CACHE_DISABLE: Entry = Entry(1 << 4);
    /// A: the CPU has walked through the entry.
    pub const ACCESSED: Entry = Entry(1 << 5);
    /// D, in a leaf: the CPU has written through it.
    pub const DIRTY: Entry = Entry(1 << 6);
    /// PS in a PDPT or PD: the entry maps a page. The same bit is PAT in a PT.
    pub const LARGE: Entry = Entry(1 << 7);
    /// PAT in a leaf of a PT: with PWT and PCD, which of the memory types of IA32_PAT. The same bit is
    /// PS above.
    pub const PAT: Entry = Entry(1 << 7);
    /// G, in a leaf: the translation outlives a load of CR3.
    pub const GLOBAL: Entry = Entry(1 << 8);
    /// Bit 9, which the CPU ignores: software's own.
    pub const SOFTWARE_9: Entry = Entry(1 << 9);
    /// Bit 10, which the CPU ignores: software's own.
    pub const SOFTWARE_10: Entry = Entry(1 << 10);
    /// Bit 11: software's own, but that it is R (restart) with HLAT paging (Intel SDM vol. 3A, 4.5.1).
    pub const SOFTWARE_11: Entry = Entry(1 << 11);
    /// PAT in a leaf of a PD or PDPT, where bit 7 is PS.
    pub const LARGE_PAT: Entry = Entry(1 << 12);
    /// Bits 58–52, which the CPU ignores: software's own.
    pub const SOFTWARE_HIGH: Entry = Entry(bits(52, 58));
    /// Bits 62–59, in a leaf: the protection key while CR4.PKE (user pages) or CR4.PKS (supervisor
    /// pages) is set; else software's own.
    pub const PROTECTION_KEY: Entry = Entry(bits(59, 62));
    /// NX (XD).
    pub const NO_EXECUTE: Entry = Entry(1 << 63);
    /// All that is no address: bits 11–0 and 63–52. In a large leaf bit 12, its PAT, is not among them.
    pub const ATTRIBUTES: Entry = Entry(!ADDRESS);

    /// The entry with these bits.
    pub const fn new(raw: u64) -> Self {
        Entry(raw)
    }

    /// An entry that points to `pa` (its bits 51–12) with the given flags.
    pub const fn pointing_to(pa: PhysAddr, flags: Entry) -> Self {
        Entry(pa.get() & ADDRESS | flags.0)
    }

    /// All 64 bits.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether every bit of `flags` is set.
    pub const fn has(self, flags: Entry) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The entry with the bits of `flags` set as well; `|` where no constant is made.
    #[must_use]
    pub const fn with(self, flags: Entry) -> Self {
        Entry(self.0 | flags.0)
    }

    /// The entry with the bits of `flags` cleared.
    #[must_use]
    pub const fn without(self, flags: Entry) -> Self {
        Entry(self.0 & !flags.0)
    }

    /// Whether no bit is set.
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// P.
    pub const fn present(self) -> bool {
        self.has(Entry::PRESENT)
    }

    /// R/W of this entry alone.
    pub const fn writable(self) -> bool {
        self.has(Entry::WRITABLE)
    }

    /// U/S of this entry alone.
    pub const fn user(self) -> bool {
        self.has(Entry::USER)
    }

    /// A.
    pub const fn accessed(self) -> bool {
        self.has(Entry::ACCESSED)
    }

    /// D; software's own bit in an entry that points to a table.
    pub const fn dirty(self) -> bool {
        self.has(Entry::DIRTY)
    }

    /// G; ignored in an entry that points to a table.
    pub const fn global(self) -> bool {
        self.has(Entry::GLOBAL)
    }

    /// NX of this entry alone.
    pub const fn no_execute(self) -> bool {
        self.has(Entry::NO_EXECUTE)
    }

    /// Whether the entry, at `level`, says that it maps a page: always in a PT, by PS in a PD and a
    /// PDPT, never above, where PS is reserved.
    pub const fn is_leaf(self, level: Level) -> bool {
        match level {
            Level::Pt => true,
            Level::Pd | Level::Pdpt => self.has(Entry::LARGE),
            Level::Pml4 | Level::Pml5 => false,
        }
    }

    /// The PAT bit of a leaf at `level`: bit 7 in a PT, bit 12 in a large leaf.
    pub const fn pat(self, level: Level) -> bool {
        match level {
            Level::Pt => self.0 & 1 << 7 != 0,
            _ => self.0 & 1 << 12 != 0,
        }
    }

    /// Bits 51–12 as they stand: where a table would be.
    pub const fn address(self) -> PhysAddr {
        PhysAddr::new(self.0 & ADDRESS)
    }

    /// The bits of [`Entry::ATTRIBUTES`]: the entry without its address.
    #[must_use]
    pub const fn attributes(self) -> Self {
        self.without(Entry(ADDRESS))
    }

    /// The same address with other attributes.
    #[must_use]
    pub const fn with_attributes(self, attributes: Entry) -> Self {
        Entry(self.0 & ADDRESS | attributes.attributes().0)
    }

    /// The protection key, bits 62–59; meaningful as [`Entry::PROTECTION_KEY`] says.
    pub const fn protection_key(self) -> u8 {
        (self.0 >> 59 & 0xf) as u8
    }

    /// Where a table would be, to a CPU in `mode`: without the bits that say that it is encrypted.
    pub const fn address_in(self, mode: &Mode) -> PhysAddr {
        self.without(mode.encryption).address()
    }

    /// The entry without A and D, which the CPU sets on its own: what software wrote.
    #[must_use]
    pub const fn as_written(self) -> Self {
        self.without(Entry(Entry::ACCESSED.0 | Entry::DIRTY.0))
    }

    /// Which bits are set that must be clear in a present entry at `level` (Intel SDM vol. 3A, 4.5,
    /// "reserved"): the CPU faults on them with the RSVD bit of the error code.
    #[must_use]
    #[inline]
    pub const fn reserved_bits(self, level: Level, mode: &Mode) -> Entry {
        let mut reserved = ADDRESS & !mode.phys_bits.address_mask() & !mode.encryption.0;
        if !mode.nxe {
            reserved |= Entry::NO_EXECUTE.0;
        }
        match level {
            Level::Pml5 | Level::Pml4 => reserved |= Entry::LARGE.0,
            Level::Pdpt if self.has(Entry::LARGE) => {
                if !mode.gigabyte_pages {
                    reserved |= Entry::LARGE.0;
                }
                reserved |= bits(13, 29) & !mode.encryption.0;
            }
            Level::Pd if self.has(Entry::LARGE) => reserved |= bits(13, 20) & !mode.encryption.0,
            Level::Pdpt | Level::Pd | Level::Pt => {}
        }
        Entry(self.0 & reserved)
    }

    /// What the entry means to the CPU at `level`. An entry without P is [`Decoded::Absent`], even
    /// if it holds a frame number: Linux's PROT_NONE and swap entries do.
    #[inline]
    pub const fn decode(self, level: Level, mode: &Mode) -> Decoded {
        if !self.present() {
            return Decoded::Absent;
        }
        let reserved = self.reserved_bits(level, mode);
        if reserved.0 != 0 {
            return Decoded::Reserved { bits: reserved };
        }
        match level.page_size() {
            Some(size) if self.is_leaf(level) => Decoded::Leaf(Leaf {
                pa: PhysAddr::new(self.address_in(mode).get() & !(size.bytes() - 1)),
                size,
            }),
            _ => Decoded::Table(self.address_in(mode).pfn()),
        }
    }

    /// The flags that are set, as people write them: `P RW US A D G NX`.
    pub const fn flags(self) -> Flags {
        Flags(self)
    }
}

/// The flags of an entry, to be shown; see [`Entry::flags`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flags(Entry);

impl Flags {
    const NAMES: [(&str, Entry); 10] = [
        ("P", Entry::PRESENT),
        ("RW", Entry::WRITABLE),
        ("US", Entry::USER),
        ("PWT", Entry::WRITE_THROUGH),
        ("PCD", Entry::CACHE_DISABLE),
        ("A", Entry::ACCESSED),
        ("D", Entry::DIRTY),
        ("PS/PAT", Entry::LARGE),
        ("G", Entry::GLOBAL),
        ("NX", Entry::NO_EXECUTE),
    ];
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Self::NAMES.iter().filter(|(_, flag)| self.0.has(*flag));
        for (number, (name, _)) in set.enumerate() {
            if number > 0 {
                f.write_str(" ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// Bits `low` to `high`, both included.
const fn bits(low: u32, high: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

impl BitOr for Entry {
    type Output = Entry;

    fn bitor(self, other: Entry) -> Entry {
        Entry(self.0 | other.0)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::text::pad::<18>(f, format_args!("{:#018x}", self.0))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({:#018x} {})", self.0, self.flags())
    }
}

impl fmt::LowerHex for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// A string `"0x…"`: JSON numbers lose bits above 2^53.
#[cfg(feature = "serde")]
impl serde::Serialize for Entry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What an entry means to the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Decoded {
    /// P is clear: nothing is mapped.
    Absent,
    /// The next table stands in this frame.
    Table(Pfn),
    /// A page is mapped.
    Leaf(Leaf),
    /// P is set, and so are bits that must be clear: the CPU faults.
    Reserved {
        /// The offending bits.
        bits: Entry,
    },
}

/// The page that a leaf maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Leaf {
    /// The page's first byte, aligned to its size.
    pub pa: PhysAddr,
    /// How much memory it maps.
    pub size: PageSize,
}

#[cfg(test)]
mod tests;
