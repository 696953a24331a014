//! Memory management: frames, page tables, the kernel half and the user halves.
//!
//! Page tables are only ever changed through the direct map ([`table`]): every frame has a kernel
//! virtual address there, so a table can be written whoever's address space is loaded.

pub mod boot_map;
pub mod direct_map;
pub mod frame;
pub mod half;
pub mod kernel_space;
pub mod propagation;
pub mod protection;
pub mod root;
pub mod table;
pub mod user_access;
pub mod user_space;
pub mod vma;
pub mod vmalloc;

pub use frame::Frame;
pub use half::UserHalf;
pub use heirloom_paging::{Depth, Entry, Level, Pfn, PhysAddr, VirtAddr};
pub use root::Root;

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use heirloom_abi::PAGE_SIZE;

/// Whether the page tables have five levels.
static FIVE_LEVELS: AtomicBool = AtomicBool::new(false);

/// How many levels the page tables have; the one place from which all that depends on it follows.
#[inline]
pub fn depth() -> Depth {
    if FIVE_LEVELS.load(Relaxed) {
        Depth::Five
    } else {
        Depth::Four
    }
}

/// Takes over what the boot's assembly has chosen, before anybody asks.
pub fn set_depth(depth: Depth) {
    FIVE_LEVELS.store(depth == Depth::Five, Relaxed);
    direct_map::set_base(depth);
}

/// There is no free frame left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

/// Rounds down to a page boundary.
pub const fn page_down(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

/// Rounds up to a page boundary; `None` past the end of the address space.
pub const fn page_up(address: u64) -> Option<u64> {
    match address.checked_add(PAGE_SIZE - 1) {
        Some(end) => Some(page_down(end)),
        None => None,
    }
}
