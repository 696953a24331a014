//! Page tables of any x86-64 guest: captured out of guest-physical memory, frozen, walked, compared.
//!
//! Data goes one way. A [`Capturer`] reads the tables of every address space out of a
//! [`PhysicalMemory`] and freezes them in a [`Snapshot`]; everything else works on snapshots:
//!
//! - [`Snapshot::translate`]: one address, entry by entry;
//! - [`Snapshot::traverse`]: an address space, entry by entry, for whoever wants to know something else;
//! - [`Snapshot::leaves`] and [`Snapshot::ranges`]: what an address space maps;
//! - [`Comparer`]: where two address spaces differ, in their tables and in what they map;
//! - [`Snapshot::subtrees`] and [`Snapshot::placements`]: every table once, however many share it;
//! - [`Snapshot::changes_since`]: which entries were written between two snapshots.
//!
//! Guest memory is hostile: whatever its bytes are, nothing here panics, and every loop and every
//! allocation has a bound.
#![forbid(unsafe_code)]

pub mod capture;
pub mod changes;
pub mod check;
pub mod compare;
pub mod difference;
pub mod discover;
mod frames;
pub mod history;
pub mod index;
pub mod layout;
pub mod leaves;
pub mod memory;
mod nodes;
pub mod ranges;
pub mod report;
pub mod reverse;
pub mod rules;
pub mod sharing;
pub mod snapshot;
pub mod table;
pub mod tally;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod traverse;

pub use capture::Capturer;
pub use check::Check;
pub use compare::{Comparer, EntryDifference, EntryDifferenceKind, Mappings};
pub use discover::{DiscoverError, Discovery};
pub use heirloom_paging as paging;
pub use heirloom_paging::{
    CpuState, Cr3, Decoded, Depth, Entry, Fault, Half, Leaf, Level, Mode, ModeError, PageSize, Pfn,
    PhysAddr, Rights, Step, Translation, VirtAddr, VirtRange, Walk,
};
pub use layout::Layout;
pub use leaves::{Leaves, Mapping};
pub use memory::{MemoryError, PhysRange, PhysicalMemory, Written, translate_in_memory};
pub use ranges::{MappedRange, Ranges};
pub use sharing::{Parent, Placement, Subtree, TableFrames};
pub use snapshot::{MissingTable, Root, RootId, RootLabel, Snapshot};
pub use table::Table;
pub use target::Target;
pub use traverse::{Traversal, Visited};
