//! What a Multiboot loader, such as GRUB, hands over: the GNU Multiboot specification 0.6.96, section 3.3.

use super::memory_map::{Range, Ranges};
use super::start_info::{BadStartInfo, BootInfo, add_ram, read_at};
use crate::mm::PhysAddr;
use zerocopy::{FromBytes, Immutable, KnownLayout};

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Information {
    flags: u32,
    lower_kib: u32,
    upper_kib: u32,
    boot_device: u32,
    command_line: u32,
    modules: u32,
    module_list: u32,
    symbols: [u32; 4],
    memory_map_bytes: u32,
    memory_map: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ModuleEntry {
    start: u32,
    end: u32,
    command_line: u32,
    reserved: u32,
}

/// Addresses and sizes are of 64 bits, at a multiple of 4.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MemoryMapEntry {
    /// Of what follows.
    bytes: u32,
    address: [u32; 2],
    size: [u32; 2],
    kind: u32,
}

const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;

/// Reads the information at `address`; `image` are the kernel's own frames.
///
/// # Safety
/// 1. `address` is what a Multiboot loader passed in EBX, and nothing of what it points to has been overwritten.
pub unsafe fn read(address: PhysAddr, image: Range) -> Result<BootInfo, BadStartInfo> {
    // SAFETY: obligation 1.
    let info: Information = unsafe { read_at(address) };
    let flags = info.flags;
    if flags & HAS_MEMORY_MAP == 0 {
        return Err(BadStartInfo::NoMultibootMap { flags });
    }
    let mut ram = Ranges::new();
    let mut at = u64::from(info.memory_map);
    let end = at + u64::from(info.memory_map_bytes);
    while at + size_of::<MemoryMapEntry>() as u64 <= end {
        // SAFETY: obligation 1.
        let entry: MemoryMapEntry = unsafe { read_at(PhysAddr::new(at)) };
        add_ram(
            &mut ram,
            (entry.kind, word(entry.address), word(entry.size)),
        )?;
        at += u64::from(entry.bytes) + size_of::<u32>() as u64;
    }
    let given = |flag, value: u32| if flags & flag != 0 { value } else { 0 };
    let command_line = given(HAS_COMMAND_LINE, info.command_line);
    // SAFETY: obligation 1.
    let mut found = unsafe { BootInfo::new(&ram, image, PhysAddr::new(command_line.into())) }?;
    for index in 0..given(HAS_MODULES, info.modules) {
        let at = u64::from(info.module_list) + u64::from(index) * size_of::<ModuleEntry>() as u64;
        // SAFETY: obligation 1.
        let entry: ModuleEntry = unsafe { read_at(PhysAddr::new(at)) };
        let size = entry.end.saturating_sub(entry.start);
        // SAFETY: obligation 1.
        unsafe { found.add_module(entry.start.into(), size.into(), entry.command_line.into()) }?;
    }
    Ok(found)
}

fn word([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
