//! Page-table entries and levels (Intel SDM vol. 3A, 4.5; AMD APM vol. 2, 5.3).

use super::{Frame, PhysAddr, VirtAddr};
use heirloom_abi::syscall::{PROT_EXEC, PROT_WRITE};

/// A level of a 4-level page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Pt = 0,
    Pd = 1,
    Pdpt = 2,
    Pgd = 3,
}

impl Level {
    const fn shift(self) -> u32 {
        12 + 9 * self as u32
    }

    /// Virtual bytes that one entry covers.
    pub const fn span(self) -> u64 {
        1 << self.shift()
    }

    /// Which entry of a table of this level `address` uses.
    pub const fn index(self, address: VirtAddr) -> usize {
        // Nine bits always fit.
        #[allow(clippy::cast_possible_truncation)]
        {
            (address.0 >> self.shift()) as usize & 0x1ff
        }
    }

    /// The level that a table entry points to; `None` below a page table.
    pub const fn below(self) -> Option<Level> {
        match self {
            Level::Pgd => Some(Level::Pdpt),
            Level::Pdpt => Some(Level::Pd),
            Level::Pd => Some(Level::Pt),
            Level::Pt => None,
        }
    }

    /// The name of its tables.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Pgd => "PGD",
            Level::Pdpt => "PDPT",
            Level::Pd => "PD",
            Level::Pt => "PT",
        }
    }
}

/// Permission and attribute bits of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u64);

impl Flags {
    pub const PRESENT: Flags = Flags(1 << 0);
    pub const WRITABLE: Flags = Flags(1 << 1);
    pub const USER: Flags = Flags(1 << 2);
    /// Page-level write-through and cache disable together: uncached by the default PAT.
    pub const UNCACHED: Flags = Flags(1 << 3 | 1 << 4);
    /// The entry is a leaf above the PT.
    pub const LARGE: Flags = Flags(1 << 7);
    pub const GLOBAL: Flags = Flags(1 << 8);
    /// Software bit: writable once it is copied.
    pub const COPY_ON_WRITE: Flags = Flags(1 << 9);
    pub const NO_EXECUTE: Flags = Flags(1 << 63);

    /// A table of kernel mappings; permissions are the leaves' business.
    pub const KERNEL_TABLE: Flags = Flags::PRESENT.with(Flags::WRITABLE);
    /// A table of user mappings.
    pub const USER_TABLE: Flags = Flags::KERNEL_TABLE.with(Flags::USER);
    /// Kernel code.
    pub const KERNEL_TEXT: Flags = Flags::PRESENT.with(Flags::GLOBAL);
    /// Kernel constants.
    pub const KERNEL_READ_ONLY: Flags = Flags::KERNEL_TEXT.with(Flags::NO_EXECUTE);
    /// Kernel data.
    pub const KERNEL_DATA: Flags = Flags::KERNEL_READ_ONLY.with(Flags::WRITABLE);

    /// Both sets of bits.
    pub const fn with(self, more: Flags) -> Flags {
        Flags(self.0 | more.0)
    }

    /// These bits without the others.
    pub const fn without(self, fewer: Flags) -> Flags {
        Flags(self.0 & !fewer.0)
    }

    /// Whether all of `other` is set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// A kernel page with `PROT_*` permissions.
    pub const fn kernel(protection: u64) -> Flags {
        let mut flags = Flags::KERNEL_TEXT;
        if protection & PROT_WRITE != 0 {
            flags = flags.with(Flags::WRITABLE);
        }
        if protection & PROT_EXEC == 0 {
            flags = flags.with(Flags::NO_EXECUTE);
        }
        flags
    }

    /// A user page with `PROT_*` permissions, owned by one process alone.
    pub const fn user(protection: u64) -> Flags {
        let mut flags = Flags::PRESENT.with(Flags::USER);
        if protection & PROT_WRITE != 0 {
            flags = flags.with(Flags::WRITABLE);
        }
        if protection & PROT_EXEC == 0 {
            flags = flags.with(Flags::NO_EXECUTE);
        }
        flags
    }
}

/// One entry of a page table.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry(u64);

impl Entry {
    /// Maps nothing.
    pub const ABSENT: Entry = Entry(0);

    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Points to a table or page.
    pub const fn new(frame: Frame, flags: Flags) -> Entry {
        Entry(frame.start().0 | flags.0)
    }

    pub const fn is_present(self) -> bool {
        self.flags().contains(Flags::PRESENT)
    }

    /// Whether it maps memory itself, above the PT.
    pub const fn is_large(self) -> bool {
        self.flags().contains(Flags::LARGE)
    }

    pub const fn frame(self) -> Frame {
        Frame::containing(PhysAddr(self.0 & Entry::ADDRESS))
    }

    pub const fn flags(self) -> Flags {
        Flags(self.0 & !Entry::ADDRESS)
    }

    /// The same place with other bits.
    pub const fn with_flags(self, flags: Flags) -> Entry {
        Entry(self.0 & Entry::ADDRESS | flags.0)
    }

    /// All 64 bits, for people.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

const _: () = {
    assert!(Level::Pgd.span() == heirloom_abi::layout::PGD_ENTRY_SPAN);
    assert!(Level::Pt.span() == heirloom_abi::PAGE_SIZE);
};
