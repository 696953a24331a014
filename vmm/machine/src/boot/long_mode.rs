//! The surroundings in which Linux's 64-bit boot protocol has a kernel entered: page tables that map
//! memory as it is, and flat segments (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{BootError, write};
use crate::PAGE_SIZE;

/// The segment selectors that the protocol names, and the one of the task segment that a CPU must have.
pub(crate) const CODE_SELECTOR: u16 = 0x10;
pub(crate) const DATA_SELECTOR: u16 = 0x18;
pub(crate) const TASK_SELECTOR: u16 = 0x20;

/// Where the descriptor table lies.
pub(crate) const DESCRIPTORS: GuestAddress = GuestAddress(0x500);
/// Its limit: the offset of its last byte.
pub(crate) const DESCRIPTORS_LIMIT: u16 = 6 * 8 - 1;
/// The root table; the others follow, a page each: a PDPT, and one PD for each GiB.
pub(crate) const ROOT: GuestAddress = GuestAddress(0x9000);

/// The protocol wants the kernel with its room, the boot parameters and the command line mapped; all of
/// these lie below the PCI hole's end.
const MAPPED_GIB: u64 = 4;
const ENTRIES: u64 = 512;
const LARGE_PAGE: u64 = 2 << 20;
/// P, RW, and PS for a leaf (Intel SDM vol. 3A, 4.5).
const TABLE: u64 = 0b11;
const LARGE_LEAF: u64 = 0b11 | 1 << 7;

/// Null, unused, 64-bit code, data, and a 64-bit task segment of two words (Intel SDM vol. 3A, 3.4.5 and
/// 7.2.3). Accessed and busy bits are set, as a CPU that has loaded them leaves them.
const TABLE_OF_DESCRIPTORS: [u64; 6] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0000_8b00_0000_0067,
    0,
];

/// Writes descriptors and page tables.
pub(super) fn write_tables(memory: &GuestMemoryMmap) -> Result<(), BootError> {
    put(
        memory,
        "descriptor table",
        DESCRIPTORS,
        TABLE_OF_DESCRIPTORS,
    )?;
    let page = |number: u64| ROOT.0 + number * PAGE_SIZE;
    put(memory, "page tables", ROOT, [page(1) | TABLE])?;
    let directories = (0..MAPPED_GIB).map(|gib| page(2 + gib) | TABLE);
    put(memory, "page tables", GuestAddress(page(1)), directories)?;
    let leaves = (0..MAPPED_GIB * ENTRIES).map(|number| (number * LARGE_PAGE) | LARGE_LEAF);
    put(memory, "page tables", GuestAddress(page(2)), leaves)
}

fn put(
    memory: &GuestMemoryMmap,
    what: &'static str,
    at: GuestAddress,
    words: impl IntoIterator<Item = u64>,
) -> Result<(), BootError> {
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    write(memory, what, &bytes, at)
}
