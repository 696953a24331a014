//! Where a Linux kernel has RAM, by its own data: the tree behind `/proc/iomem`, firmware's memory map (E820), or, where
//! these are among what is lacking, the number of its last frame.
//!
//! A file may lack memory that its machine had, and its headers do not say so: what was set aside for the kernel that
//! wrote it, the end of an image that was cut. What the kernel lists as RAM and the file has not is unknown.

use super::btf::Btf;
use crate::memory::PhysRange;
use crate::symbols::Symbols;
use heirloom_paging::addr::{PAGE_SIZE, PhysAddr};

/// Entries that are read of a list.
const MOST: u32 = 1 << 14;
/// x86-64 has no longer addresses.
const END: u64 = 1 << 52;

/// `IORESOURCE_MEM` and `IORESOURCE_SYSRAM` (include/linux/ioport.h).
const SYSTEM_RAM: u64 = 0x200 | 0x0100_0000;
/// `E820_TYPE_RAM` and `E820_TYPE_RESERVED_KERN` (arch/x86/include/asm/e820/types.h).
const E820_RAM: [u32; 2] = [1, 128];
/// `struct e820_entry` is packed: address, size, type.
const E820_ENTRY: usize = 20;

/// Kernel memory by virtual address: fills a buffer, if all of it is there.
pub(super) type Read<'a> = &'a dyn Fn(u64, &mut [u8]) -> Option<()>;

/// What the kernel says of its RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ram {
    /// Where it is: ascending.
    Ranges(Vec<PhysRange>),
    /// Where it ends.
    EndsAt(PhysAddr),
}

/// Where the kernel has RAM, and the variable that says so.
pub(super) fn listed(
    read: Read<'_>,
    symbols: &Symbols,
    btf: Option<&Btf<'_>>,
) -> Option<(&'static str, Ram)> {
    let address = |name| Some(symbols.address_of(name)?.get());
    let by_resources = || resources(read, address("iomem_resource")?, btf);
    let by_firmware = || e820(read, address("e820_table")?);
    let by_number = || {
        let end = read_u64(read, address("max_pfn")?)?.checked_mul(PAGE_SIZE)?;
        (end <= END).then(|| Ram::EndsAt(PhysAddr::new(end)))
    };
    let ranges = |name, ranges| Some((name, Ram::Ranges(ranges?)));
    ranges("iomem_resource", by_resources())
        .or_else(|| ranges("e820_table", by_firmware()))
        .or_else(|| Some(("max_pfn", by_number()?)))
}

/// The `struct resource`s below the one at `at` that are RAM.
fn resources(read: Read<'_>, at: u64, btf: Option<&Btf<'_>>) -> Option<Vec<PhysRange>> {
    let offset = |name, otherwise| {
        btf.and_then(|btf| btf.offset_of("resource", name))
            .unwrap_or(otherwise)
    };
    let (start, end, flags) = (offset("start", 0), offset("end", 8), offset("flags", 24));
    let (sibling, child) = (offset("sibling", 48), offset("child", 56));
    let field = |at: u64, offset: u64| read_u64(read, at.checked_add(offset)?);
    let mut ram = Vec::new();
    let mut next = field(at, child)?;
    let mut steps = 0;
    while next != 0 && steps < MOST {
        steps += 1;
        let (first, last) = (field(next, start)?, field(next, end)?);
        if field(next, flags)? & SYSTEM_RAM == SYSTEM_RAM {
            add(&mut ram, first, last.checked_add(1)?)?;
        }
        next = field(next, sibling)?;
    }
    (!ram.is_empty()).then_some(ram)
}

/// What the `struct e820_table` says to which the pointer at `at` leads.
fn e820(read: Read<'_>, at: u64) -> Option<Vec<PhysRange>> {
    let table = read_u64(read, at)?;
    let mut count = [0; 4];
    read(table, &mut count)?;
    let mut ram = Vec::new();
    for number in 0..u32::from_le_bytes(count).min(MOST) {
        let mut entry = [0; E820_ENTRY];
        read(
            table.checked_add(4 + E820_ENTRY as u64 * u64::from(number))?,
            &mut entry,
        )?;
        let (start, rest) = entry.split_first_chunk()?;
        let (bytes, kind) = rest.split_first_chunk()?;
        let (start, bytes) = (u64::from_le_bytes(*start), u64::from_le_bytes(*bytes));
        if E820_RAM.contains(&u32::from_le_bytes(kind.try_into().ok()?)) && bytes > 0 {
            add(&mut ram, start, start.checked_add(bytes)?)?;
        }
    }
    (!ram.is_empty()).then_some(ram)
}

/// Adds a range behind all others; a list that is not ascending is none.
fn add(ram: &mut Vec<PhysRange>, start: u64, end: u64) -> Option<()> {
    let is_behind = ram.last().is_none_or(|last| last.end().get() <= start);
    (is_behind && start < end && end <= END).then(|| {
        ram.push(PhysRange {
            start: PhysAddr::new(start),
            bytes: end - start,
        });
    })
}

fn read_u64(read: Read<'_>, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    read(at, &mut bytes)?;
    Some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernel memory from address 0x1000 on.
    fn memory(bytes: &[u8]) -> impl Fn(u64, &mut [u8]) -> Option<()> {
        move |at, buffer| {
            let from = usize::try_from(at.checked_sub(0x1000)?).ok()?;
            buffer.copy_from_slice(bytes.get(from..from.checked_add(buffer.len())?)?);
            Some(())
        }
    }

    /// `struct resource`s one behind the other: start, end, flags, sibling, child.
    fn tree(resources: &[[u64; 5]]) -> Vec<u8> {
        let words = resources
            .iter()
            .flat_map(|[start, end, flags, sibling, child]| {
                [*start, *end, 0, *flags, 0, 0, *sibling, *child]
            });
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn ranges(ram: &[PhysRange]) -> Vec<(u64, u64)> {
        let range = |range: &PhysRange| (range.start.get(), range.end().get());
        ram.iter().map(range).collect()
    }

    #[test]
    fn the_resources_that_are_ram_are_listed_and_loops_and_nonsense_are_not() {
        let root = [0, u64::MAX, 0x200, 0, 0x1040];
        let low = [0x1000, 0x9_fbff, SYSTEM_RAM, 0x1080, 0];
        let rom = [0xf_0000, 0xf_ffff, 0x200, 0x10c0, 0];
        let high = [0x10_0000, 0x3fff_ffff, SYSTEM_RAM, 0, 0x1040];
        let bytes = tree(&[root, low, rom, high]);
        let found = resources(&memory(&bytes), 0x1000, None).unwrap();
        assert_eq!(
            ranges(&found),
            [(0x1000, 0x9_fc00), (0x10_0000, 0x4000_0000)]
        );
        for (number, wrong) in [
            // To itself, backwards, beyond all addresses, to nowhere.
            (3, [0x10_0000, 0x3fff_ffff, SYSTEM_RAM, 0x10c0, 0]),
            (3, [0x8000, 0x3fff_ffff, SYSTEM_RAM, 0, 0]),
            (3, [0x10_0000, u64::MAX, SYSTEM_RAM, 0, 0]),
            (2, [0xf_0000, 0xf_ffff, 0x200, 0x5000, 0]),
        ] {
            let mut all = [root, low, rom, high];
            all[number] = wrong;
            let bytes = tree(&all);
            assert_eq!(resources(&memory(&bytes), 0x1000, None), None, "{wrong:x?}");
        }
        let mut endless = [root, low, rom, high];
        endless[3] = [0xf_0000, 0xf_ffff, 0x200, 0x10c0, 0];
        let found = resources(&memory(&tree(&endless)), 0x1000, None).unwrap();
        assert_eq!(ranges(&found), [(0x1000, 0x9_fc00)]);
    }

    #[test]
    fn the_firmwares_map_tells_ram_from_what_is_reserved() {
        let mut bytes = 0x1010_u64.to_le_bytes().to_vec();
        bytes.resize(16, 0);
        bytes.extend(3_u32.to_le_bytes());
        for (start, size, kind) in [
            (0_u64, 0x9_fc00_u64, 1_u32),
            (0x9_fc00, 0x400, 2),
            (0x10_0000, 0x1000_0000, 128),
        ] {
            bytes.extend(start.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
        }
        let found = e820(&memory(&bytes), 0x1000).unwrap();
        assert_eq!(ranges(&found), [(0, 0x9_fc00), (0x10_0000, 0x1010_0000)]);
        // Cut, and with more entries than there are.
        assert_eq!(e820(&memory(&bytes[..60]), 0x1000), None);
        bytes[16] = 4;
        assert_eq!(e820(&memory(&bytes), 0x1000), None);
    }

    #[test]
    fn where_the_lists_are_lost_the_number_of_the_last_frame_says_where_ram_ends() {
        let at = |address| heirloom_paging::addr::VirtAddr::new(address);
        let symbols = Symbols::new([
            (at(0x1000), "iomem_resource"),
            (at(0x1008), "e820_table"),
            (at(0x1010), "max_pfn"),
        ]);
        let bytes = |frames: u64| [0, 0, frames].map(u64::to_le_bytes).concat();
        let found = |frames| listed(&memory(&bytes(frames)), &symbols, None);
        let end = Ram::EndsAt(PhysAddr::new(0x2_4000_0000));
        assert_eq!(found(0x24_0000), Some(("max_pfn", end)));
        // The last frame that x86-64 has, one more, and more than any number of bytes.
        let end = Ram::EndsAt(PhysAddr::new(1 << 52));
        assert_eq!(found(1 << 40), Some(("max_pfn", end)));
        assert_eq!(found((1 << 40) + 1), None);
        assert_eq!(found(u64::MAX / 2), None);
        // Where it is not in the file either, nothing is known.
        let nowhere = |_: u64, _: &mut [u8]| None;
        assert_eq!(listed(&nowhere, &symbols, None), None);
        // Firmware's map comes before it.
        let mut bytes = [0, 0x1018, 0x24_0000].map(u64::to_le_bytes).concat();
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([0, 0x100_0000_u64].map(u64::to_le_bytes).concat());
        bytes.extend(1_u32.to_le_bytes());
        let (name, ram) = listed(&memory(&bytes), &symbols, None).unwrap();
        assert_eq!(name, "e820_table");
        assert!(matches!(ram, Ram::Ranges(found) if ranges(&found) == [(0, 0x100_0000)]));
    }
}
