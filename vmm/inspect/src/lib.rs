//! Page tables of any x86-64 guest: captured out of guest-physical memory, frozen, walked, compared, judged.
//!
//! # An inspector of one's own
//!
//! All that is asked of a guest is its memory, [`PhysicalMemory`], and what is known of its CPUs. A
//! [`Target`] holds both; [`Discovery::of`] finds every address space; what follows works on the frozen
//! tables of that moment, so that the guest may run on.
//!
//! ```
//! use heirloom_inspect::check::{Check, Strictness};
//! use heirloom_inspect::{
//!     CpuState, Cr3, Discovery, Entry, MemoryError, PhysAddr, PhysRange, PhysicalMemory, Target, VirtAddr,
//!     VirtRange,
//! };
//!
//! /// RAM from address 0 on. A hypervisor's memory or a dump is as few lines.
//! struct Ram(Vec<u8>);
//!
//! impl PhysicalMemory for Ram {
//!     fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
//!         let length = buffer.len();
//!         let outside = MemoryError { at, length };
//!         let start = usize::try_from(at.get()).map_err(|_| outside)?;
//!         let bytes = start.checked_add(length).and_then(|end| self.0.get(start..end));
//!         buffer.copy_from_slice(bytes.ok_or(outside)?);
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A guest of 64 KiB: PGD, PDPT, PD and PT in frames 1 to 4 map one page at -2 GiB, frame 5, writable and
//! // executable.
//! let mut ram = vec![0; 0x10000];
//! for (entry, value) in [(0x1ff8, 0x2003_u64), (0x2ff0, 0x3003), (0x3000, 0x4003), (0x4000, 0x5003)] {
//!     ram[entry..entry + 8].copy_from_slice(&value.to_le_bytes());
//! }
//! let target = Target {
//!     name: "a guest".into(),
//!     ram: vec![PhysRange { start: PhysAddr::new(0), bytes: 0x10000 }],
//!     memory: Box::new(Ram(ram)),
//!     // PG, WP and PE of CR0; PAE of CR4; NXE, LMA and LME of EFER.
//!     cpus: vec![CpuState {
//!         cr0: 0x8001_0001,
//!         cr3: Cr3::new(0x1000),
//!         cr4: 0x20,
//!         efer: 0xd00,
//!         ..CpuState::default()
//!     }],
//!     phys_bits: None,
//!     gigabyte_pages: None,
//!     depth: None,
//!     encryption: Entry::ABSENT,
//!     roots: Vec::new(),
//!     is_recorded: false,
//!     notes: Vec::new(),
//! };
//!
//! // Every address space; here, the CPU's own.
//! let discovery = Discovery::of(&target)?;
//! let [space] = discovery.spaces.as_slice() else { panic!("one root") };
//!
//! // Where an address leads, entry by entry.
//! let walk = discovery.snapshot.translate(space.root, VirtAddr::new(0xffff_ffff_8000_0123));
//! assert_eq!(walk.result?.pa, PhysAddr::new(0x5123));
//!
//! // All pages that are writable and executable.
//! let writable_code: Vec<_> = discovery
//!     .snapshot
//!     .leaves(space.root, VirtRange::ALL)
//!     .filter(|page| page.rights.write && page.rights.execute)
//!     .collect();
//! assert_eq!(writable_code.len(), 1);
//!
//! // The rules.
//! let check = Check::of(&discovery, Strictness::default());
//! assert!(check.rules.iter().any(|verdict| !verdict.findings.is_empty()));
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` has whole programs: all pages that are writable and executable, a rule of one's own, what
//! differs between two images.
//!
//! # What there is
//!
//! Data goes one way. A [`Capturer`] reads the tables of every address space out of a
//! [`PhysicalMemory`] and freezes them in a [`Snapshot`]; everything else works on snapshots:
//!
//! - [`Snapshot::translate`]: one address, entry by entry;
//! - [`Snapshot::traverse`]: an address space, entry by entry, for whoever wants to know something else;
//! - [`Snapshot::leaves`] and [`Snapshot::ranges`]: what an address space maps;
//! - [`Comparer`]: where two address spaces differ, in their tables and in what they map;
//! - [`Snapshot::subtrees`] and [`Snapshot::placements`]: every table once, however many share it;
//! - [`Snapshot::changes_since`]: which entries were written between two snapshots;
//! - [`discover`]: every address space of a guest, and what each is; [`layout`]: what lies where in it;
//! - [`rules`]: what must be true, over an [`index`] of the tables and, where there is one, the [`history`]
//!   of a run; [`check`]: the rules held against any guest.
//!
//! Guest memory is hostile: whatever its bytes are, nothing here panics, and every loop and every
//! allocation has a bound.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod boots;
pub mod budget;
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
pub mod linux;
pub mod memory;
pub mod names;
mod nodes;
pub mod profile;
pub mod ranges;
pub mod report;
pub mod reverse;
pub mod rules;
mod shadow;
pub mod sharing;
mod size;
pub mod snapshot;
pub mod symbols;
pub mod table;
pub mod tally;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod traverse;

pub use budget::Budget;
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
pub use profile::Profile;
pub use ranges::{MappedRange, Ranges};
pub use sharing::{Parent, Placement, Subtree, TableFrames};
pub use size::Size;
pub use snapshot::{MissingTable, Root, RootId, RootLabel, Snapshot};
pub use table::Table;
pub use target::Target;
pub use traverse::{Traversal, Visited};
