//! The two halves of an address space as types, so that the compiler keeps them apart.
//!
//! "Every process owns its own pgd entries but inherits the kernel pgd entries" (the lecture): a table
//! below a root belongs to one half, and a half of a root is seen through a type of its own
//! ([`super::table`]), whose indices cannot leave it.

use super::Entry;
use super::protection;
use crate::counters::Counter;
use heirloom_paging::{Depth, Half};

mod sealed {
    pub trait Sealed {}
}

/// [`KernelHalf`] or [`UserHalf`].
pub trait AddressHalf: sealed::Sealed + Copy {
    /// The same as a value.
    const HALF: Half;
    /// The attributes of an entry that points to a table of this half.
    const TABLE: Entry;
    /// What counts the writes to a root's entries of this half.
    const ROOT_WRITES: Counter;
    /// What counts the writes to entries of the tables below.
    const TABLE_WRITES: Counter;
    /// A root's first entry of this half.
    const FIRST: u16 = Self::HALF.indices().start;
}

/// Entries of a root that belong to each half.
pub const ENTRIES: u16 = Half::KERNEL_FIRST;

/// Entries 256–511 of every root: inherited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHalf;

/// Entries 0–255 of every root: each process its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserHalf;

impl sealed::Sealed for KernelHalf {}
impl sealed::Sealed for UserHalf {}

impl AddressHalf for KernelHalf {
    const HALF: Half = Half::Kernel;
    const TABLE: Entry = protection::KERNEL_TABLE;
    const ROOT_WRITES: Counter = Counter::KernelPgdWrites;
    const TABLE_WRITES: Counter = Counter::KernelEntryWrites;
}

impl AddressHalf for UserHalf {
    const HALF: Half = Half::User;
    const TABLE: Entry = protection::USER_TABLE;
    const ROOT_WRITES: Counter = Counter::UserEntryWrites;
    const TABLE_WRITES: Counter = Counter::UserEntryWrites;
}

const _: () = {
    assert!(KernelHalf::FIRST == ENTRIES && UserHalf::FIRST == 0);
    assert!(2 * ENTRIES == super::table::ENTRIES);
    assert!(
        Depth::Four.top().page_size().is_none(),
        "a root has no leaves"
    );
    assert!(
        Depth::Five.top().page_size().is_none(),
        "a root has no leaves"
    );
};
