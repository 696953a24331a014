//! Addresses that never mix: guest-physical, guest-virtual, and frame numbers.

use core::fmt;

use crate::level::{Depth, Half, Level};

/// Bytes in a frame and in a page table.
pub const PAGE_SIZE: u64 = 1 << 12;

macro_rules! hexadecimal {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                crate::text::pad::<18>(f, format_args!("{:#x}", self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
        /// A string `"0x…"`: JSON numbers lose bits above 2^53.
        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!("{:#x}", self.0))
            }
        }
    };
}

/// A byte address in the guest's physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PhysAddr(u64);

/// A byte address in one of the guest's virtual address spaces; not necessarily canonical.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct VirtAddr(u64);

/// The number of a 4 KiB frame of guest-physical memory: its address divided by 4096.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Pfn(u64);

hexadecimal!(PhysAddr);
hexadecimal!(VirtAddr);
hexadecimal!(Pfn);

impl PhysAddr {
    /// The guest-physical address `raw`, in bytes.
    pub const fn new(raw: u64) -> Self {
        PhysAddr(raw)
    }

    /// The address in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame that the address lies in.
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 / PAGE_SIZE)
    }

    /// The address `bytes` further on; `None` behind the end of 64 bits.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Some(PhysAddr(raw)),
            None => None,
        }
    }

    /// The address `bytes` further on, modulo 2^64.
    #[must_use]
    pub const fn wrapping_add(self, bytes: u64) -> Self {
        PhysAddr(self.0.wrapping_add(bytes))
    }
}

impl Pfn {
    /// Frame number `raw`.
    pub const fn new(raw: u64) -> Self {
        Pfn(raw)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame's first byte. Frame numbers have at most 52 bits, so nothing is lost.
    pub const fn base(self) -> PhysAddr {
        PhysAddr(self.0.wrapping_mul(PAGE_SIZE))
    }
}

impl VirtAddr {
    /// The virtual address `raw`, taken as it is.
    pub const fn new(raw: u64) -> Self {
        VirtAddr(raw)
    }

    /// The canonical address with the low bits of `raw`: the bits above repeat the highest
    /// translated one.
    pub const fn sign_extended(raw: u64, depth: Depth) -> Self {
        let unused = 64 - depth.virtual_bits();
        VirtAddr((((raw << unused).cast_signed()) >> unused).cast_unsigned())
    }

    /// The address in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether bits 63–47 (63–56 with five levels) are all equal; the CPU faults on any other
    /// address before it looks at a table (Intel SDM vol. 1, 3.3.7.1).
    pub const fn is_canonical(self, depth: Depth) -> bool {
        Self::sign_extended(self.0, depth).0 == self.0
    }

    /// Which entry of a table at `level` translates the address.
    pub const fn index(self, level: Level) -> u16 {
        ((self.0 >> level.shift()) & 0x1ff) as u16
    }

    /// The address's place in what one entry at `level` spans, in bytes.
    pub const fn offset_in(self, level: Level) -> u64 {
        self.0 & (level.entry_span() - 1)
    }

    /// Which half of an address space it lies in; meaningful for canonical addresses.
    pub const fn half(self) -> Half {
        if self.0 >> 63 == 0 {
            Half::User
        } else {
            Half::Kernel
        }
    }

    /// The address `bytes` further on; `None` behind the end of 64 bits.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Some(VirtAddr(raw)),
            None => None,
        }
    }

    /// The address `bytes` further on, modulo 2^64.
    #[must_use]
    pub const fn wrapping_add(self, bytes: u64) -> Self {
        VirtAddr(self.0.wrapping_add(bytes))
    }
}

/// Virtual addresses from `first` to `last`, both included: so that the last page of the address
/// space, whose end is 2^64, needs no exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct VirtRange {
    /// The lowest address.
    pub first: VirtAddr,
    /// The highest address, itself inside.
    pub last: VirtAddr,
}

impl VirtRange {
    /// Every address, canonical or not.
    pub const ALL: VirtRange = VirtRange {
        first: VirtAddr(0),
        last: VirtAddr(u64::MAX),
    };

    /// `bytes` bytes from `first`, cut at the end of 64 bits; `None` if `bytes` is 0.
    pub const fn new(first: VirtAddr, bytes: u64) -> Option<Self> {
        match bytes.checked_sub(1) {
            Some(more) => Some(VirtRange {
                first,
                last: VirtAddr(first.0.saturating_add(more)),
            }),
            None => None,
        }
    }

    /// One half of every address space; the same for 4 and 5 levels, whose canonical addresses
    /// both lie inside.
    pub const fn half(half: Half) -> Self {
        match half {
            Half::User => VirtRange {
                first: VirtAddr(0),
                last: VirtAddr(u64::MAX >> 1),
            },
            Half::Kernel => VirtRange {
                first: VirtAddr(1 << 63),
                last: VirtAddr(u64::MAX),
            },
        }
    }

    /// What entry `index` of a root translates.
    pub const fn of_top_entry(index: u16, depth: Depth) -> VirtRange {
        let top = depth.top();
        let first = VirtAddr::sign_extended((index as u64) << top.shift(), depth);
        VirtRange {
            first,
            last: VirtAddr::new(first.get() + (top.entry_span() - 1)),
        }
    }

    /// Whether the address lies inside.
    pub fn contains(&self, va: VirtAddr) -> bool {
        self.first <= va && va <= self.last
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &VirtRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Bytes inside, at most `u64::MAX`: the whole address space is one byte more.
    pub const fn bytes(&self) -> u64 {
        match self.last.0.checked_sub(self.first.0) {
            Some(more) => more.saturating_add(1),
            None => 0,
        }
    }
}

impl fmt::Display for VirtRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}–{:#018x}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_hole_begins_and_ends_where_the_lecture_says() {
        let canonical = |raw| VirtAddr::new(raw).is_canonical(Depth::Four);
        assert!(canonical(0x0000_7fff_ffff_ffff));
        assert!(!canonical(0x0000_8000_0000_0000));
        assert!(!canonical(0xffff_7fff_ffff_ffff));
        assert!(canonical(0xffff_8000_0000_0000));
        assert!(canonical(u64::MAX));
    }

    #[test]
    fn five_levels_have_a_smaller_hole() {
        let canonical = |raw| VirtAddr::new(raw).is_canonical(Depth::Five);
        assert!(canonical(0x00ff_ffff_ffff_ffff));
        assert!(!canonical(0x0100_0000_0000_0000));
        assert!(!canonical(0xfeff_ffff_ffff_ffff));
        assert!(canonical(0xff00_0000_0000_0000));
        assert!(canonical(0x0000_8000_0000_0000));
    }

    #[test]
    fn an_address_is_cut_into_nine_bits_per_level() {
        let va = VirtAddr::new(0xffff_c900_4060_5123);
        assert_eq!(va.index(Level::Pml4), 402);
        assert_eq!(va.index(Level::Pdpt), 1);
        assert_eq!(va.index(Level::Pd), 3);
        assert_eq!(va.index(Level::Pt), 5);
        assert_eq!(va.offset_in(Level::Pt), 0x123);
        assert_eq!(va.index(Level::Pml5), 511);
    }

    #[test]
    fn addresses_serialize_as_hexadecimal_text() {
        let text = serde_json::to_string(&VirtAddr::new(u64::MAX)).unwrap();
        assert_eq!(text, "\"0xffffffffffffffff\"");
        assert_eq!(serde_json::to_string(&Pfn::new(16)).unwrap(), "\"0x10\"");
    }

    #[test]
    fn the_last_byte_of_the_address_space_is_in_range() {
        let range = VirtRange::new(VirtAddr::new(0xffff_ffff_ffff_f000), 4096).unwrap();
        assert!(range.contains(VirtAddr::new(u64::MAX)));
        assert_eq!(range.bytes(), 4096);
        assert!(VirtRange::half(Half::Kernel).overlaps(&range));
        assert!(!VirtRange::half(Half::User).overlaps(&range));
        assert_eq!(VirtRange::new(VirtAddr::new(0), 0), None);
    }
}
