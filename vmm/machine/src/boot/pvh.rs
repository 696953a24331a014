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

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry,
    hvm_start_info,
};
use vm_memory::GuestAddress;

use super::command_line::CommandLine;
use super::low_memory::LowMemory;
use super::{BootError, COMMAND_LINE_LIMIT, Entry, Module, load_segments, modules, write};
use crate::image::KernelImage;
use crate::memory::Ram;

/// Where `hvm_start_info` lies.
pub const START_INFO: GuestAddress = GuestAddress(0x6000);

/// Loads everything.
pub(super) fn load(
    ram: &Ram,
    image: &KernelImage,
    command_line: &str,
    files: &[Module],
) -> Result<Entry, BootError> {
    let kernel_end = load_segments(ram, image)?;
    let placed = modules::load(ram, kernel_end, files)?;
    write_start_info(ram, command_line, files, &placed)?;
    Ok(Entry::Protected {
        at: image.entry(),
        magic: 0,
        info: START_INFO,
    })
}

fn write_start_info(
    ram: &Ram,
    command_line: &str,
    modules: &[Module],
    placed: &[GuestAddress],
) -> Result<(), BootError> {
    let memory = ram.memory();
    let mut low = LowMemory::new(START_INFO, modules.len());
    let header_address = low.take(size_of::<hvm_start_info>())?;
    let map_address = low.take(size_of::<hvm_memmap_table_entry>() * ram.memory_map().len())?;
    let list_address = low.take(size_of::<hvm_modlist_entry>() * modules.len())?;

    let line = CommandLine::new(command_line, COMMAND_LINE_LIMIT)?;
    let cmdline_address = low.take(line.bytes())?;
    line.write(memory, cmdline_address)?;

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
        .memory_map()
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
