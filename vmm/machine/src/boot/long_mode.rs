//! The surroundings in which Linux's 64-bit boot protocol has a kernel entered: page tables that map
//! memory as it is, and flat segments (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use heirloom_paging::{Entry, Level, PhysAddr};
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
const MAPPED: u64 = 4 << 30;
/// How a table is pointed to, and how a 2 MiB page is mapped: writable, for the kernel alone.
const WRITABLE: Entry = Entry::new(Entry::PRESENT.get() | Entry::WRITABLE.get());
const LARGE: Entry = Entry::new(WRITABLE.get() | Entry::LARGE.get());

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
    // All memory from 0 on as it is, so that virtual addresses are physical ones.
    let table = |number: u64| PhysAddr::new(ROOT.0 + number * PAGE_SIZE);
    let put_entries = |number, entries: &[Entry]| {
        let words = entries.iter().map(|entry| entry.get());
        put(
            memory,
            "page tables",
            GuestAddress(table(number).get()),
            words,
        )
    };
    let directories = MAPPED / Level::Pdpt.entry_span();
    let pages = (0..MAPPED / Level::Pd.entry_span()).map(|number| number * Level::Pd.entry_span());
    let root = Entry::pointing_to(table(1), WRITABLE);
    put_entries(0, &[root])?;
    let below: Vec<Entry> = (0..directories)
        .map(|number| Entry::pointing_to(table(2 + number), WRITABLE))
        .collect();
    put_entries(1, &below)?;
    let leaves: Vec<Entry> = pages
        .map(|page| Entry::pointing_to(PhysAddr::new(page), LARGE))
        .collect();
    put_entries(2, &leaves)
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

#[cfg(test)]
mod tests {
    use super::*;
    use heirloom_paging::{Depth, Mode, PageSize, Pfn, Unreadable, VirtAddr, translate};
    use vm_memory::Bytes;

    #[test]
    fn the_first_four_gibibytes_are_mapped_as_they_are_and_nothing_behind() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&memory).unwrap();
        let walk = |va: u64| {
            let root = PhysAddr::new(ROOT.0);
            let va = VirtAddr::new(va);
            let entry = |table: Pfn, _, index: u16| {
                let at = GuestAddress(table.base().get() + 8 * u64::from(index));
                let word = memory.read_obj(at).map_err(|_| Unreadable::OutsideMemory)?;
                Ok(Entry::new(word))
            };
            translate(&Mode::typical(Depth::Four), root, va, entry)
        };
        for va in [0, 0x9123, 0x10_0000, 0x4000_0000, 0xbfff_ffff, 0xffff_ffff] {
            let walk = walk(va);
            let page = walk.translation().unwrap();
            assert_eq!(
                (page.pa.get(), page.size),
                (va, PageSize::Size2MiB),
                "{walk}"
            );
            assert_eq!(page.rights.to_string(), "rwx-");
            assert!(!page.global && !page.accessed && !page.dirty);
        }
        assert!(walk(1 << 32).result.is_err());
        assert!(walk(1 << 39).result.is_err());
    }
}
