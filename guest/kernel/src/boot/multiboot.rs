//! What a Multiboot 2 loader, such as GRUB, hands over: the Multiboot2 specification 2.0, section 3.6. (By version 1 QEMU's
//! own loader would take the kernel for one of 32 bits.)

use super::memory_map::{Range, Ranges};
use super::start_info::{BadStartInfo, BootInfo, MemoryMapEntry, add_ram, read_at};
use crate::mm::PhysAddr;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What the information, and each tag in it, begins with.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Tag {
    kind: u32,
    /// With these two words; the next begins at a multiple of 8.
    bytes: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Module {
    start: u32,
    end: u32,
}

const COMMAND_LINE: u32 = 1;
const MODULE: u32 = 3;
const MEMORY_MAP: u32 = 6;
/// Of the tag of a memory map that is before its entries: the tag's two words, the size of an entry, a version.
const MAP_HEADER: u64 = 16;

/// The tags, and where what each says begins.
///
/// # Safety
/// 1. As for [`read`].
unsafe fn tags(address: PhysAddr) -> impl Iterator<Item = (Tag, u64)> {
    // SAFETY: obligation 1. The information begins with its own size.
    let information: Tag = unsafe { read_at(address) };
    let end = address.get() + u64::from(information.kind);
    let mut at = address.get() + size_of::<Tag>() as u64;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        // SAFETY: obligation 1.
        let tag: Tag = unsafe { read_at(PhysAddr::new(at)) };
        let says = at + size_of::<Tag>() as u64;
        at += u64::from(tag.bytes.max(8)).next_multiple_of(8);
        Some((tag, says))
    })
}

/// Reads the information at `address`; `image` are the kernel's own frames.
///
/// # Safety
/// 1. `address` is what a Multiboot 2 loader passed in EBX, and nothing of what it points to has been overwritten.
pub unsafe fn read(address: PhysAddr, image: Range) -> Result<BootInfo, BadStartInfo> {
    // SAFETY: obligation 1.
    let all = || unsafe { tags(address) };
    let (map, entries) = all()
        .find(|(tag, _)| tag.kind == MEMORY_MAP)
        .ok_or(BadStartInfo::NoMultibootMap)?;
    let end = entries + u64::from(map.bytes) - size_of::<Tag>() as u64;
    // SAFETY: obligation 1.
    let bytes: u32 = unsafe { read_at(PhysAddr::new(entries)) };
    let mut ram = Ranges::new();
    let mut at = entries + MAP_HEADER - size_of::<Tag>() as u64;
    while at + size_of::<MemoryMapEntry>() as u64 <= end {
        // SAFETY: obligation 1.
        let entry: MemoryMapEntry = unsafe { read_at(PhysAddr::new(at)) };
        add_ram(&mut ram, &entry)?;
        at += u64::from(bytes.max(1));
    }
    let command_line = all().find(|(tag, _)| tag.kind == COMMAND_LINE);
    let command_line = PhysAddr::new(command_line.map_or(0, |(_, text)| text));
    // SAFETY: obligation 1.
    let mut found = unsafe { BootInfo::new(&ram, image, command_line) }?;
    for (_, at) in all().filter(|(tag, _)| tag.kind == MODULE) {
        // SAFETY: obligation 1.
        let module: Module = unsafe { read_at(PhysAddr::new(at)) };
        let size = module.end.saturating_sub(module.start);
        let name = at + size_of::<Module>() as u64;
        // SAFETY: obligation 1.
        unsafe { found.add_module(module.start.into(), size.into(), name) }?;
    }
    Ok(found)
}
