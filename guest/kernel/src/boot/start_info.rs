//! What the PVH boot loader hands over: `hvm_start_info` (Xen, public/arch-x86/hvm/start_info.h). What others hand
//! over is read by the same means ([`super::multiboot`]).

use super::memory_map::{Range, Ranges, TooManyRanges};
use super::modules::{Modules, TooManyModules};
use crate::mm::{PhysAddr, direct_map};
use core::fmt;
use heirloom_abi::PAGE_SIZE;
use zerocopy::{FromBytes, Immutable, KnownLayout};

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ModuleEntry {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

/// A range of the memory map, which PVH and Multiboot 2 tell alike.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;
const KIND_RAM: u32 = 1;
const MAX_COMMAND_LINE: usize = 4096;
/// Below this lie the loader's own tables, and firmware's; the allocator leaves it alone.
const LOW_MEMORY_FRAMES: u64 = (1 << 20) / PAGE_SIZE;

/// Everything the loader said, checked for shape.
pub struct BootInfo {
    /// RAM, whole frames.
    pub ram: Ranges,
    /// RAM that nobody uses yet.
    pub free: Ranges,
    pub command_line: &'static str,
    pub modules: Modules,
}

/// Why the kernel cannot boot from what the loader said.
#[derive(Clone, Copy)]
pub enum BadStartInfo {
    Magic(u32),
    NoMemoryMap { version: u32 },
    NoMultibootMap,
    CommandLine,
    TooManyRanges,
    TooManyModules,
}

impl fmt::Display for BadStartInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadStartInfo::Magic(magic) => {
                write!(
                    f,
                    "it starts with {magic:#x}, not {MAGIC:#x}: boot with a PVH or Multiboot 2 loader"
                )
            }
            BadStartInfo::NoMemoryMap { version } => {
                write!(
                    f,
                    "version {version} without a memory map: version 1 is needed"
                )
            }
            BadStartInfo::NoMultibootMap => write!(f, "there is no memory map (tag 6)"),
            BadStartInfo::CommandLine => {
                write!(
                    f,
                    "a command line is longer than {MAX_COMMAND_LINE} bytes or not UTF-8"
                )
            }
            BadStartInfo::TooManyRanges => write!(f, "the memory map has too many ranges"),
            BadStartInfo::TooManyModules => write!(f, "there are too many boot modules"),
        }
    }
}

impl From<TooManyRanges> for BadStartInfo {
    fn from(_: TooManyRanges) -> Self {
        BadStartInfo::TooManyRanges
    }
}

impl From<TooManyModules> for BadStartInfo {
    fn from(_: TooManyModules) -> Self {
        BadStartInfo::TooManyModules
    }
}

/// Reads the start info at `address`; `image` are the kernel's own frames.
///
/// # Safety
/// 1. `address` is what a PVH loader passed in EBX, and nothing of what it points to has been
///    overwritten.
pub unsafe fn read(address: PhysAddr, image: Range) -> Result<BootInfo, BadStartInfo> {
    // SAFETY: obligation 1.
    let info: StartInfo = unsafe { read_at(address) };
    if info.magic != MAGIC {
        return Err(BadStartInfo::Magic(info.magic));
    }
    if info.version == 0 || info.memory_map_entries == 0 {
        return Err(BadStartInfo::NoMemoryMap {
            version: info.version,
        });
    }
    let mut ram = Ranges::new();
    for index in 0..u64::from(info.memory_map_entries) {
        let at = info.memory_map + index * size_of::<MemoryMapEntry>() as u64;
        // SAFETY: obligation 1.
        let entry: MemoryMapEntry = unsafe { read_at(PhysAddr::new(at)) };
        add_ram(&mut ram, &entry)?;
    }
    // SAFETY: obligation 1.
    let mut found = unsafe { BootInfo::new(&ram, image, PhysAddr::new(info.command_line)) }?;
    for index in 0..u64::from(info.modules) {
        let at = info.module_list + index * size_of::<ModuleEntry>() as u64;
        // SAFETY: obligation 1.
        let entry: ModuleEntry = unsafe { read_at(PhysAddr::new(at)) };
        // SAFETY: obligation 1.
        unsafe { found.add_module(entry.address, entry.size, entry.command_line) }?;
    }
    Ok(found)
}

/// Takes in an entry of the memory map.
pub(super) fn add_ram(ram: &mut Ranges, entry: &MemoryMapEntry) -> Result<(), TooManyRanges> {
    if entry.kind != KIND_RAM {
        return Ok(());
    }
    let start = entry.address.div_ceil(PAGE_SIZE);
    let end = (entry.address + entry.size) / PAGE_SIZE;
    ram.insert(Range {
        start,
        end: end.max(start),
    })
}

impl BootInfo {
    /// What is known without modules.
    ///
    /// # Safety
    /// 1. `command_line` is 0, or what a loader gave as such, and nothing of it has been overwritten.
    pub(super) unsafe fn new(
        ram: &Ranges,
        image: Range,
        command_line: PhysAddr,
    ) -> Result<BootInfo, BadStartInfo> {
        let mut free = *ram;
        free.remove(Range {
            start: 0,
            end: LOW_MEMORY_FRAMES,
        })?;
        free.remove(image)?;
        // SAFETY: obligation 1.
        let text = unsafe { text(command_line) }?;
        free.remove(frames(command_line.get(), text.len() as u64))?;
        Ok(BootInfo {
            ram: *ram,
            free,
            command_line: text,
            modules: Modules::new(),
        })
    }

    /// Takes in a boot module.
    ///
    /// # Safety
    /// 1. A loader gave it, with the address of its command line, and nothing of both has been overwritten.
    pub(super) unsafe fn add_module(
        &mut self,
        address: u64,
        size: u64,
        command_line: u64,
    ) -> Result<(), BadStartInfo> {
        // SAFETY: obligation 1.
        let name = unsafe { text(PhysAddr::new(command_line)) }?;
        self.free.remove(frames(address, size))?;
        self.free.remove(frames(command_line, name.len() as u64))?;
        let size = usize::try_from(size).unwrap_or(0);
        // SAFETY: obligation 1; the module's frames were taken out of the free ones.
        let bytes = unsafe { direct_map::bytes(PhysAddr::new(address), size) };
        Ok(self.modules.add(name, bytes)?)
    }
}

fn frames(start: u64, length: u64) -> Range {
    Range {
        start: start / PAGE_SIZE,
        end: (start + length).div_ceil(PAGE_SIZE),
    }
}

/// # Safety
/// 1. `address` is in the first 4 GiB, which the boot tables map.
pub(super) unsafe fn read_at<T: FromBytes>(address: PhysAddr) -> T {
    // SAFETY: obligation 1; any bytes are a T.
    unsafe { (direct_map::address_of(address).get() as *const T).read_unaligned() }
}

/// A zero-terminated string, empty at address 0.
///
/// # Safety
/// 1. `address` is in the first 4 GiB, and what lies there stays.
unsafe fn text(address: PhysAddr) -> Result<&'static str, BadStartInfo> {
    if address.get() == 0 {
        return Ok("");
    }
    // SAFETY: obligation 1.
    let bytes = unsafe { direct_map::bytes(address, MAX_COMMAND_LINE) };
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(BadStartInfo::CommandLine)?;
    core::str::from_utf8(&bytes[..end]).map_err(|_| BadStartInfo::CommandLine)
}
