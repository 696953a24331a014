//! The vocabulary of x86-64 page tables: addresses, levels, entries, rights, paging modes, the walk.
//!
//! Guest kernel, inspector, boot code and explorer all speak it. No standard library, no dependency, no
//! unsafe code (Intel SDM vol. 3A, chapter 4; AMD APM vol. 2, chapter 5).
//!
//! ```
//! use heirloom_paging::{Depth, Entry, Level, Mode, Pfn, PhysAddr, VirtAddr, translate};
//!
//! // A PML4 in frame 1 whose last entry leads through frames 2 and 3 to a 2 MiB page at 0x600000.
//! let read = |table: Pfn, _: Level, index: u16| {
//!     Ok(match (table.get(), index) {
//!         (1, 511) => Entry::new(0x2003),
//!         (2, 510) => Entry::new(0x3003),
//!         (3, 0) => Entry::new(0x60_0083),
//!         _ => Entry::ABSENT,
//!     })
//! };
//! let va = VirtAddr::new(0xffff_ffff_8000_1234);
//! let walk = translate(&Mode::typical(Depth::Four), PhysAddr::new(0x1000), va, read);
//! assert_eq!(walk.translation().unwrap().pa, PhysAddr::new(0x60_1234));
//! ```

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod bits;
pub mod entry;
pub mod level;
pub mod mode;
pub mod rights;
mod text;
pub mod walk;

pub use addr::{PAGE_SIZE, Pfn, PhysAddr, VirtAddr, VirtRange};
pub use bits::EntrySet;
pub use entry::{Decoded, Entry, Leaf};
pub use level::{Depth, Half, Level, PageSize};
pub use mode::{CpuState, Cr3, Mode, ModeError, PhysBits};
pub use rights::Rights;
pub use walk::{Fault, ReadTables, Step, Translation, Unreadable, Walk, translate};
