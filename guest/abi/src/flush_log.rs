//! What each CPU was asked to forget: a log that the kernel keeps of its TLB flushes, and the host reads at every
//! event.
//!
//! Not every machine shows a flush that is missing: one that walks the tables at each access never uses an old
//! translation. So the kernel notes each flush where it makes it, and the host holds the notes against what
//! changed in the tables. What is not noted counts as not done, so leaving notes out makes a kernel look worse,
//! never better; what is noted and was not done shows where a CPU really remembers.
//!
//! Each note says how many entries had been written by then, as [`Counters`](crate::event::Counters) count them:
//! a flush that comes before the write does nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Notes of page flushes that a log has room for; later ones take the places of the oldest. A power of two.
pub const FLUSHES: usize = 64;

/// PCIDs that there are, 0 to `PCIDS - 1` (Intel SDM vol. 3A, 4.10.1).
pub const PCIDS: usize = 1 << 12;

/// One CPU's log.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlushLog {
    /// What the log says beside page flushes.
    pub header: FlushHeader,
    /// Note `n` stands in `n % FLUSHES`.
    pub flushes: [Flush; FLUSHES],
}

/// The first words of a log.
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, Default, PartialEq, Eq,
)]
#[repr(C)]
pub struct FlushHeader {
    /// The number of the last note of a page flush; the first is 1.
    pub last: u64,
    /// Loads of CR3 that dropped all translations but global ones: none where there are PCIDs.
    pub root_loads: u64,
    /// Entries of user halves that had been written when CR3 was last loaded so.
    pub user_writes_at_load: u64,
    /// Times that all translations were dropped, global ones, too.
    pub all: u64,
    /// Entries of kernel tables that had been written when that was last done.
    pub kernel_writes_at_all: u64,
    /// Entries of user halves that had been.
    pub user_writes_at_all: u64,
    /// Not 0 while the CPU sleeps, or waits for the lock, and is to drop everything before it goes on.
    pub owes: u64,
    /// Where what is known of each PCID stands, a [`PcidNote`] each, by number: guest-physical, on a page, and in the
    /// low 12 bits the highest PCID that the CPU has had. 0 where there are no PCIDs.
    pub pcids: u64,
}

/// What a CPU was asked of one PCID, where CR4.PCIDE is set.
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, Default, PartialEq, Eq,
)]
#[repr(C)]
pub struct PcidNote {
    /// The root that was last loaded with it; 0 if none was.
    pub root: u64,
    /// Loads of CR3 with bit 63 set, which drop nothing.
    pub kept: u64,
    /// Loads of CR3 with bit 63 clear: they drop what has this PCID and is not global.
    pub dropped: u64,
    /// Entries of user halves that had been written when it was last dropped.
    pub user_writes: u64,
}

/// Pages that were flushed, one after the other.
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, Default, PartialEq, Eq,
)]
#[repr(C)]
pub struct Flush {
    /// The first page. Of a user half, where there are PCIDs: in the low 12 bits the one whose translation was
    /// dropped.
    pub first: u64,
    /// The first address behind the last page.
    pub end: u64,
    /// Entries of kernel tables that had been written when the last of them was flushed.
    pub kernel_writes: u64,
    /// Entries of user halves that had been.
    pub user_writes: u64,
}

impl FlushLog {
    /// Where note `number` stands, in bytes from the log's start.
    #[must_use]
    pub const fn offset_of(number: u64) -> u64 {
        let place = number % FLUSHES as u64;
        (size_of::<FlushHeader>() as u64) + place * (size_of::<Flush>() as u64)
    }
}
