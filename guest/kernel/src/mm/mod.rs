//! Memory management: frames, page tables, the kernel half and the user halves.
//!
//! Page tables are only ever changed through the direct map ([`table`]): every frame has a kernel
//! virtual address there, so a table can be written whoever's address space is loaded.

pub mod boot_map;
pub mod boot_value;
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

use boot_value::BootValue;
use heirloom_abi::PAGE_SIZE;

/// How many levels the page tables have.
static DEPTH: BootValue<Depth> = BootValue::new(Depth::Four);

/// How many levels the page tables have; the one place from which all that depends on it follows.
#[inline]
pub fn depth() -> Depth {
    DEPTH.get()
}

/// Takes over what the boot's assembly has chosen.
///
/// # Safety
/// 1. Called by the boot, once, before anybody asks for the depth or for an address of the layout.
pub unsafe fn set_depth(depth: Depth) {
    // SAFETY: obligation 1.
    unsafe {
        DEPTH.set(depth);
        direct_map::set_base(depth);
        frame::set_vmemmap(depth);
    }
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
