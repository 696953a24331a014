//! Linux's 64-bit boot protocol: kernel, initial RAM disk, command line and boot parameters put where
//! Linux finds them (Documentation/arch/x86/boot.rst and zero-page.rst).
//!
//! ```text
//! 0x500     descriptors, and from 0x9000 on the page tables, with which the kernel is entered
//! 0x7000    boot parameters, the "zero page"
//! 0x20000   command line
//! 640 KiB   end of low RAM
//! 1 MiB …   the kernel: an ELF where its program headers want it, a bzImage at its preferred address,
//!           with room behind it to unpack itself
//!           initial RAM disk, page aligned, as high as the kernel lets it, below the PCI hole
//! ```

use std::io::Cursor;

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::{
    E820_MAX_ENTRIES_ZEROPAGE, LOADED_HIGH, boot_e820_entry, boot_params, setup_header,
};
use linux_loader::loader::bzimage::BzImage;
use vm_memory::GuestAddress;

use super::{
    BootError, Entry, Module, command_line::CommandLine, high_ram_end, load_segments, long_mode,
    not_loaded, write,
};
use crate::PAGE_SIZE;
use crate::image::{KernelImage, Kind, SetupHeader};
use crate::memory::{Ram, RamRange};

/// Where `struct boot_params` lies: one page.
pub(crate) const BOOT_PARAMS: GuestAddress = GuestAddress(0x7000);
/// Where the command line lies; RAM behind it goes on for 512 KiB.
const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// The most of a command line that any Linux has read so far is 2 KiB; this is only the room for it.
const COMMAND_LINE_ROOM: u64 = 64 << 10;

/// What an ELF, which has no setup header, is told and held to: the values that Linux's own header has had
/// since 64-bit kernels exist (arch/x86/boot/header.S, `COMMAND_LINE_SIZE`).
const ELF_COMMAND_LINE_LIMIT: u64 = 2047;
const ELF_INITRD_LAST: u64 = 0x7fff_ffff;

/// `boot_flag` and `header` of a setup header: the marks by which Linux knows one.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The protocol that an ELF is told of: the one with the 64-bit entry.
const PROTOCOL: u16 = 0x020c;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// `E820_TYPE_RAM`.
const E820_RAM: u32 = 1;

/// What this kernel demands of its surroundings.
struct Demands {
    header: setup_header,
    /// First address behind all that it needs when it starts.
    end: GuestAddress,
    command_line_limit: u64,
    initrd_last: u64,
}

/// Loads everything.
pub(super) fn load(
    ram: &Ram,
    image: &KernelImage,
    command_line: &str,
    modules: &[Module],
) -> Result<Entry, BootError> {
    let initrd = match modules {
        [] => None,
        [initrd] => Some(initrd),
        more => {
            return Err(BootError::ModulesUnknown {
                name: image.name().into(),
                count: more.len(),
            });
        }
    };
    let demands = load_kernel(ram, image)?;
    let limit = demands.command_line_limit.min(COMMAND_LINE_ROOM - 1) + 1;
    let line = CommandLine::new(command_line, usize::try_from(limit).unwrap_or(usize::MAX))?;
    line.write(ram.memory(), COMMAND_LINE)?;
    let initrd = initrd
        .map(|initrd| load_initrd(ram, &demands, initrd))
        .transpose()?;
    let page = zero_page(demands.header, initrd, ram.memory_map());
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&page, BOOT_PARAMS), ram.memory())
        .map_err(|error| BootError::Write {
            what: "boot parameters",
            reason: error.to_string(),
        })?;
    long_mode::write_tables(ram.memory())?;
    Ok(Entry::Long {
        at: image.entry(),
        boot_params: BOOT_PARAMS,
    })
}

fn load_kernel(ram: &Ram, image: &KernelImage) -> Result<Demands, BootError> {
    if let Kind::BzImage(header) = image.kind() {
        load_packed(ram, image, header)?;
        return Ok(Demands {
            header: header.raw(),
            end: header.unpacked_end(),
            command_line_limit: header.command_line_limit(),
            initrd_last: header.initrd_last(),
        });
    }
    let end = load_segments(ram, image)?;
    Ok(Demands {
        header: setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: PROTOCOL,
            loadflags: LOADED_HIGH,
            ..setup_header::default()
        },
        end,
        command_line_limit: ELF_COMMAND_LINE_LIMIT,
        initrd_last: ELF_INITRD_LAST,
    })
}

/// Copies what is behind a bzImage's setup code.
fn load_packed(ram: &Ram, image: &KernelImage, header: &SetupHeader) -> Result<(), BootError> {
    let (start, end) = (header.load_address(), header.unpacked_end());
    let limit = high_ram_end(ram);
    if !ram
        .memory_map()
        .iter()
        .any(|range| range.holds(start.0, end.0))
    {
        return Err(BootError::NoRoomToUnpack {
            name: image.name().into(),
            start: start.0,
            end: end.0,
            limit,
        });
    }
    let mut file = Cursor::new(image.bytes());
    BzImage::load(ram.memory(), Some(start), &mut file, None)
        .map_err(|error| not_loaded(image, &error))?;
    Ok(())
}

/// Copies the initial RAM disk to the highest place that RAM and kernel leave it: what the kernel takes
/// for itself early then does not meet it.
fn load_initrd(ram: &Ram, demands: &Demands, initrd: &Module) -> Result<RamRange, BootError> {
    let place = place_initrd(
        initrd.bytes.len() as u64,
        demands.end,
        high_ram_end(ram),
        demands.initrd_last,
    );
    let (limit, room) = (place.limit, place.room);
    let Some(start) = place.start else {
        return Err(BootError::InitrdTooBig {
            name: initrd.name.clone(),
            bytes: initrd.bytes.len() as u64,
            kernel_end: demands.end.0,
            limit,
            room,
        });
    };
    write(ram.memory(), "initial RAM disk", &initrd.bytes, start)?;
    Ok(RamRange {
        start,
        bytes: initrd.bytes.len() as u64,
    })
}

/// Where an initial RAM disk goes.
struct InitrdPlace {
    /// `None` if it does not fit.
    start: Option<GuestAddress>,
    /// First address that it may not reach.
    limit: u64,
    /// Bytes that it may have.
    room: u64,
}

/// `last` is the highest address that the kernel allows, `ram_end` where RAM below the PCI hole ends.
fn place_initrd(bytes: u64, kernel_end: GuestAddress, ram_end: u64, last: u64) -> InitrdPlace {
    let limit = ram_end.min(last.saturating_add(1));
    let first = kernel_end.0.next_multiple_of(PAGE_SIZE);
    let start = limit
        .checked_sub(bytes)
        .map(|start| start - start % PAGE_SIZE)
        .filter(|start| *start >= first)
        .map(GuestAddress);
    InitrdPlace {
        start,
        limit,
        room: limit.saturating_sub(first),
    }
}

/// The boot parameters: the kernel's own setup header, completed by what a loader must fill in, and a
/// memory map. Without ACPI tables, video and disks all else is zero, which says so.
fn zero_page(header: setup_header, initrd: Option<RamRange>, ram: &[RamRange]) -> boot_params {
    let mut page = boot_params {
        hdr: header,
        ..boot_params::default()
    };
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    (page.hdr.cmd_line_ptr, page.ext_cmd_line_ptr) = halves(COMMAND_LINE.0);
    if let Some(RamRange { start, bytes }) = initrd {
        (page.hdr.ramdisk_image, page.ext_ramdisk_image) = halves(start.0);
        (page.hdr.ramdisk_size, page.ext_ramdisk_size) = halves(bytes);
    }
    for (entry, range) in page.e820_table.iter_mut().zip(ram) {
        *entry = boot_e820_entry {
            addr: range.start.0,
            size: range.bytes,
            r#type: E820_RAM,
        };
    }
    const { assert!(E820_MAX_ENTRIES_ZEROPAGE <= u8::MAX as usize) };
    page.e820_entries = u8::try_from(ram.len().min(E820_MAX_ENTRIES_ZEROPAGE)).unwrap_or(u8::MAX);
    page
}

/// The low and the high 32 bits: the protocol keeps them apart.
fn halves(value: u64) -> (u32, u32) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are what is wanted"
    )]
    (value as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const KERNEL_END: GuestAddress = GuestAddress(16 * MIB + 1);

    fn start(bytes: u64, ram_end: u64, last: u64) -> Option<u64> {
        place_initrd(bytes, KERNEL_END, ram_end, last)
            .start
            .map(|start| start.0)
    }

    #[test]
    fn an_initial_ram_disk_goes_below_the_lower_of_rams_end_and_the_kernels_limit() {
        let unlimited = u64::MAX;
        assert_eq!(start(4096, 64 * MIB, unlimited), Some(64 * MIB - 4096));
        assert_eq!(start(4097, 64 * MIB, unlimited), Some(64 * MIB - 8192));
        assert_eq!(start(1, 64 * MIB, 32 * MIB - 1), Some(32 * MIB - 4096));
        assert_eq!(start(0, 64 * MIB, unlimited), Some(64 * MIB));
    }

    #[test]
    fn an_initial_ram_disk_never_meets_the_kernels_last_page() {
        let room = 48 * MIB - 4096;
        assert_eq!(
            start(room, 64 * MIB, u64::MAX),
            Some(16 * MIB + 4096),
            "the first page behind the kernel"
        );
        assert_eq!(start(room + 1, 64 * MIB, u64::MAX), None);
        assert_eq!(start(u64::MAX, 64 * MIB, u64::MAX), None);
        assert_eq!(start(1, 8 * MIB, u64::MAX), None);
        let place = place_initrd(room + 1, KERNEL_END, 64 * MIB, u64::MAX);
        assert_eq!((place.limit, place.room), (64 * MIB, room));
    }

    #[test]
    fn the_zero_page_names_command_line_ram_disk_and_ram_and_leaves_the_rest_zero() {
        let ram = [
            RamRange {
                start: GuestAddress(0),
                bytes: 640 << 10,
            },
            RamRange {
                start: GuestAddress(4 << 30),
                bytes: 5 << 30,
            },
        ];
        let initrd = RamRange {
            start: GuestAddress(0x1_2345_6000),
            bytes: 0x2_0000_0001,
        };
        let page = zero_page(setup_header::default(), Some(initrd), &ram);
        let expected = boot_params {
            hdr: setup_header {
                type_of_loader: 0xff,
                cmd_line_ptr: 0x2_0000,
                ramdisk_image: 0x2345_6000,
                ramdisk_size: 1,
                ..setup_header::default()
            },
            ext_ramdisk_image: 1,
            ext_ramdisk_size: 2,
            e820_entries: 2,
            ..boot_params::default()
        };
        let mut map = expected.e820_table;
        map[0] = boot_e820_entry {
            addr: 0,
            size: 640 << 10,
            r#type: 1,
        };
        map[1] = boot_e820_entry {
            addr: 4 << 30,
            size: 5 << 30,
            r#type: 1,
        };
        let expected = boot_params {
            e820_table: map,
            ..expected
        };
        assert!(page == expected);
    }
}
