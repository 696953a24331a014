//! Multiboot: kernel, modules and information put where the guest finds them (the GNU Multiboot specification
//! 0.6.96, section 3.3, and Multiboot2 2.0, section 3.6).
//!
//! The information lies where the start info of PVH would, in low memory; the modules lie behind the kernel.

use vm_memory::GuestAddress;

use super::command_line::CommandLine;
use super::low_memory::LowMemory;
use super::pvh::START_INFO;
use super::{BootError, COMMAND_LINE_LIMIT, Entry, Module, load_segments, modules, write};
use crate::image::{KernelImage, MultibootVersion};
use crate::memory::{HIGH_START, LOW_END, Ram};

/// What EAX holds at the entry.
const LOADED_1: u32 = 0x2bad_b002;
const LOADED_2: u32 = 0x36d7_6289;

const NAME: &str = "heirloom";

/// Where a PC's BIOS tells how many KiB there are below 1 MiB, as 16 bits. Kernels for GRUB look there for a
/// place for the code on which other CPUs start.
const BIOS_BASE_MEMORY: GuestAddress = GuestAddress(0x413);

/// Available RAM, in both maps.
const RAM: u32 = 1;

/// Flags of the information: which of its parts are there.
const MEMORY: u32 = 1 << 0;
const COMMAND_LINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MAP: u32 = 1 << 6;
const LOADER_NAME: u32 = 1 << 9;
/// Bytes of the information up to what a screen would add.
const INFO_BYTES: usize = 88;

/// Tags of Multiboot2.
const TAG_END: u32 = 0;
const TAG_COMMAND_LINE: u32 = 1;
const TAG_LOADER_NAME: u32 = 2;
const TAG_MODULE: u32 = 3;
const TAG_MEMORY: u32 = 4;
const TAG_MAP: u32 = 6;

/// Loads everything.
pub(super) fn load(
    ram: &Ram,
    image: &KernelImage,
    version: MultibootVersion,
    command_line: &str,
    files: &[Module],
) -> Result<Entry, BootError> {
    CommandLine::new(command_line, COMMAND_LINE_LIMIT)?;
    let kernel_end = load_segments(ram, image)?;
    let placed = modules::load(ram, kernel_end, files)?;
    let low_kib = u16::try_from(LOW_END >> 10).unwrap_or(u16::MAX);
    write(
        ram.memory(),
        "BIOS data",
        &low_kib.to_le_bytes(),
        BIOS_BASE_MEMORY,
    )?;
    let information = BootInformation {
        ram,
        command_line,
        modules: files.iter().zip(placed).collect(),
    };
    let (magic, info) = match version {
        MultibootVersion::One => (LOADED_1, information.write_1()?),
        MultibootVersion::Two => (LOADED_2, information.write_2()?),
    };
    Ok(Entry::Protected {
        at: image.entry(),
        magic,
        info,
    })
}

/// What the guest is told.
struct BootInformation<'a> {
    ram: &'a Ram,
    command_line: &'a str,
    modules: Vec<(&'a Module, GuestAddress)>,
}

impl BootInformation<'_> {
    /// KiB below 640 KiB, and from 1 MiB to the first hole.
    fn memory(&self) -> [u32; 2] {
        let high = super::high_ram_end(self.ram).saturating_sub(HIGH_START);
        [LOW_END, high].map(|bytes| u32::try_from(bytes >> 10).unwrap_or(u32::MAX))
    }

    fn low_memory(&self) -> LowMemory {
        LowMemory::new(START_INFO, self.modules.len())
    }

    /// Writes the information of Multiboot; where it is.
    fn write_1(&self) -> Result<GuestAddress, BootError> {
        let memory = self.ram.memory();
        let mut low = self.low_memory();
        let info = low.take(INFO_BYTES)?;
        let mut put = |what, bytes: &[u8]| -> Result<u32, BootError> {
            let at = low.take(bytes.len())?;
            write(memory, what, bytes, at)?;
            Ok(word(at.0))
        };
        let command_line = put("command line", &terminated(self.command_line))?;
        let name = put("loader name", &terminated(NAME))?;
        let mut list = Vec::new();
        for (module, at) in &self.modules {
            let name = put("module name", &terminated(&module.name))?;
            let end = at.0 + module.bytes.len() as u64;
            for word in [word(at.0), word(end), name, 0] {
                list.extend(word.to_le_bytes());
            }
        }
        let modules = put("module list", &list)?;
        let mut map = Vec::new();
        for range in self.ram.memory_map() {
            // How many bytes of the entry follow.
            map.extend(20u32.to_le_bytes());
            map.extend(range.start.0.to_le_bytes());
            map.extend(range.bytes.to_le_bytes());
            map.extend(RAM.to_le_bytes());
        }
        let map_at = put("memory map", &map)?;
        let mut words = [0u32; INFO_BYTES / 4];
        let [lower, upper] = self.memory();
        words[0] = MEMORY | COMMAND_LINE | MODULES | MAP | LOADER_NAME;
        (words[1], words[2]) = (lower, upper);
        words[4] = command_line;
        (words[5], words[6]) = (word(self.modules.len() as u64), modules);
        (words[11], words[12]) = (word(map.len() as u64), map_at);
        words[16] = name;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        write(memory, "Multiboot information", &bytes, info)?;
        Ok(info)
    }

    /// Writes the information of Multiboot2; where it is.
    fn write_2(&self) -> Result<GuestAddress, BootError> {
        let mut tags = Vec::new();
        let mut tag = |kind: u32, parts: &[&[u8]]| {
            let bytes: usize = parts.iter().map(|part| part.len()).sum();
            tags.extend(kind.to_le_bytes());
            tags.extend(word(8 + bytes as u64).to_le_bytes());
            for part in parts {
                tags.extend_from_slice(part);
            }
            tags.resize(tags.len().next_multiple_of(8), 0);
        };
        tag(TAG_COMMAND_LINE, &[&terminated(self.command_line)]);
        tag(TAG_LOADER_NAME, &[&terminated(NAME)]);
        for (module, at) in &self.modules {
            let end = at.0 + module.bytes.len() as u64;
            tag(
                TAG_MODULE,
                &[
                    &word(at.0).to_le_bytes(),
                    &word(end).to_le_bytes(),
                    &terminated(&module.name),
                ],
            );
        }
        let [lower, upper] = self.memory().map(u32::to_le_bytes);
        tag(TAG_MEMORY, &[&lower, &upper]);
        // Bytes of an entry, and the version of the map.
        let mut map: Vec<u8> = [24u32, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        for range in self.ram.memory_map() {
            map.extend(range.start.0.to_le_bytes());
            map.extend(range.bytes.to_le_bytes());
            map.extend(RAM.to_le_bytes());
            map.extend(0u32.to_le_bytes());
        }
        tag(TAG_MAP, &[&map]);
        tag(TAG_END, &[]);
        let mut bytes = word(8 + tags.len() as u64).to_le_bytes().to_vec();
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(tags);
        let info = self.low_memory().take(bytes.len())?;
        write(self.ram.memory(), "Multiboot2 information", &bytes, info)?;
        Ok(info)
    }
}

fn terminated(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// A number that fits in 32 bits: all of it is below the PCI hole.
fn word(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
