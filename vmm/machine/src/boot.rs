//! PVH boot: kernel, modules, command line and start info put where the guest finds them.
//!
//! ```text
//! 0x6000    hvm_start_info, then module list, memory map, command line, module names
//! 640 KiB   end of the room for these
//! 1 MiB …   the kernel, where its program headers want it
//!           modules, each page aligned, from the first page behind the kernel
//! ```
//!
//! The structures are Xen's (xen/include/public/arch-x86/hvm/start_info.h).

use std::borrow::Cow;
use std::io::Cursor;

use linux_loader::cmdline::Cmdline;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::Elf;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry,
    hvm_start_info,
};
use linux_loader::loader::{KernelLoader, load_cmdline};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::PAGE_SIZE;
use crate::image::{ImageError, KernelImage};
use crate::kvm::KvmError;
use crate::memory::{HIGH_START, LOW_END, MemoryError, MemorySize, Ram};

/// Where `hvm_start_info` lies.
pub const START_INFO: GuestAddress = GuestAddress(0x6000);
/// Bytes of command line that a guest may get, its final NUL included.
pub const COMMAND_LINE_LIMIT: usize = 64 << 10;

/// Why a machine was not made.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(
        "segment {start:#x}–{end:#x} of {name} lies outside guest memory, which has RAM from 1 MiB up to \
         {size}: link it inside, or give more memory"
    )]
    SegmentOutside {
        name: String,
        start: u64,
        end: u64,
        size: MemorySize,
    },
    #[error("could not load {name} into guest memory: {reason}")]
    Load { name: String, reason: String },
    #[error(
        "the boot modules do not fit: `{module}` would end at {end:#x}, but RAM behind the kernel ends at \
         {limit:#x}; give more memory"
    )]
    ModulesTooBig {
        module: String,
        end: u64,
        limit: u64,
    },
    #[error("the name of a boot module, `{name}`, holds a NUL or is empty: give it another")]
    ModuleName { name: String },
    #[error(
        "{count} boot modules, their names and the command line need more than the 616 KiB of low memory \
         kept for them: give fewer or shorter ones"
    )]
    NoRoomForStartInfo { count: usize },
    #[error(
        "the kernel command line is no good: {reason}; use printable ASCII, less than 64 KiB of it"
    )]
    CommandLine { reason: String },
    #[error("could not write the guest's {what}: {reason}")]
    Write { what: &'static str, reason: String },
    #[error("could not start the watchdog thread: {0}; is there a limit on threads (`ulimit -u`)?")]
    Watchdog(std::io::Error),
}

/// A file handed to the guest kernel; its name becomes the module's command line.
#[derive(Clone, Debug)]
pub struct Module {
    pub name: String,
    pub bytes: Cow<'static, [u8]>,
}

/// Loads everything. The guest is to be entered at the image's entry with EBX = [`START_INFO`].
///
/// # Errors
/// [`BootError`] names what does not fit or is malformed.
pub fn load(
    ram: &Ram,
    image: &KernelImage,
    command_line: &str,
    modules: &[Module],
) -> Result<(), BootError> {
    let kernel_end = load_kernel(ram, image)?;
    let placed = load_modules(ram, kernel_end, modules)?;
    write_start_info(ram, command_line, modules, &placed)
}

/// Copies the kernel's segments and returns where the last one ends.
fn load_kernel(ram: &Ram, image: &KernelImage) -> Result<GuestAddress, BootError> {
    let mut kernel_end = GuestAddress(0);
    for segment in image.segments() {
        let (start, end) = (segment.physical_address, segment.physical_end());
        let fits = ram.told().iter().any(|range| range.holds(start.0, end.0));
        if start.0 < HIGH_START || !fits {
            return Err(BootError::SegmentOutside {
                name: image.name().into(),
                start: start.0,
                end: end.0,
                size: ram.size(),
            });
        }
        kernel_end = kernel_end.max(end);
    }
    // The loader copies what the file has; memory is fresh, so the rest of each segment is zero.
    Elf::load(ram.memory(), None, &mut Cursor::new(image.bytes()), None).map_err(|error| {
        BootError::Load {
            name: image.name().into(),
            reason: error.to_string(),
        }
    })?;
    Ok(kernel_end)
}

/// Copies the modules behind the kernel, below 4 GiB, and returns where each went.
fn load_modules(
    ram: &Ram,
    kernel_end: GuestAddress,
    modules: &[Module],
) -> Result<Vec<GuestAddress>, BootError> {
    let limit = ram
        .told()
        .iter()
        .find(|range| range.start.0 == HIGH_START)
        .map_or(0, |range| range.end().0);
    let mut next = kernel_end.0.next_multiple_of(PAGE_SIZE);
    let mut placed = Vec::with_capacity(modules.len());
    for module in modules {
        if module.name.is_empty() || module.name.contains('\0') {
            return Err(BootError::ModuleName {
                name: module.name.clone(),
            });
        }
        let end = next.saturating_add(module.bytes.len() as u64);
        if end > limit {
            return Err(BootError::ModulesTooBig {
                module: module.name.clone(),
                end,
                limit,
            });
        }
        write(
            ram.memory(),
            "boot module",
            &module.bytes,
            GuestAddress(next),
        )?;
        placed.push(GuestAddress(next));
        next = end.next_multiple_of(PAGE_SIZE);
    }
    Ok(placed)
}

/// Gives out the low memory that start info and its companions share.
struct LowMemory {
    next: u64,
    modules: usize,
}

impl LowMemory {
    fn take(&mut self, bytes: usize) -> Result<GuestAddress, BootError> {
        let start = self.next.next_multiple_of(8);
        let end = start.saturating_add(bytes as u64);
        if end > LOW_END {
            return Err(BootError::NoRoomForStartInfo {
                count: self.modules,
            });
        }
        self.next = end;
        Ok(GuestAddress(start))
    }
}

fn write_start_info(
    ram: &Ram,
    command_line: &str,
    modules: &[Module],
    placed: &[GuestAddress],
) -> Result<(), BootError> {
    let memory = ram.memory();
    let mut low = LowMemory {
        next: START_INFO.0,
        modules: modules.len(),
    };
    let header_address = low.take(size_of::<hvm_start_info>())?;
    let map_address = low.take(size_of::<hvm_memmap_table_entry>() * ram.told().len())?;
    let list_address = low.take(size_of::<hvm_modlist_entry>() * modules.len())?;

    let refused = |reason: String| BootError::CommandLine { reason };
    let mut cmdline =
        Cmdline::new(COMMAND_LINE_LIMIT).map_err(|error| refused(error.to_string()))?;
    cmdline
        .insert_str(command_line)
        .map_err(|error| refused(error.to_string()))?;
    let text = cmdline
        .as_cstring()
        .map_err(|error| refused(error.to_string()))?;
    let cmdline_address = low.take(text.as_bytes_with_nul().len())?;
    load_cmdline(memory, cmdline_address, &cmdline).map_err(|error| refused(error.to_string()))?;

    let mut list = Vec::with_capacity(modules.len());
    for (module, at) in modules.iter().zip(placed) {
        let name_address = low.take(module.name.len() + 1)?;
        write(memory, "module name", module.name.as_bytes(), name_address)?;
        list.push(hvm_modlist_entry {
            paddr: at.0,
            size: module.bytes.len() as u64,
            cmdline_paddr: name_address.0,
            reserved: 0,
        });
    }
    let map: Vec<hvm_memmap_table_entry> = ram
        .told()
        .iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start.0,
            size: range.bytes,
            type_: XEN_HVM_MEMMAP_TYPE_RAM,
            reserved: 0,
        })
        .collect();
    let no_room = |_| BootError::NoRoomForStartInfo {
        count: modules.len(),
    };
    let header = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        flags: 0,
        nr_modules: u32::try_from(list.len()).map_err(no_room)?,
        modlist_paddr: if list.is_empty() { 0 } else { list_address.0 },
        cmdline_paddr: cmdline_address.0,
        rsdp_paddr: 0,
        memmap_paddr: map_address.0,
        memmap_entries: u32::try_from(map.len()).map_err(no_room)?,
        reserved: 0,
    };
    let mut params = BootParams::new(&header, header_address);
    params.set_sections(&map, map_address);
    if !list.is_empty() {
        params.set_modules(&list, list_address);
    }
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(|error| BootError::Write {
        what: "start info",
        reason: error.to_string(),
    })
}

fn write(
    memory: &GuestMemoryMmap,
    what: &'static str,
    bytes: &[u8],
    at: GuestAddress,
) -> Result<(), BootError> {
    memory
        .write_slice(bytes, at)
        .map_err(|error| BootError::Write {
            what,
            reason: error.to_string(),
        })
}
