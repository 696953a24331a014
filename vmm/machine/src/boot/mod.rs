//! Everything that a guest finds when it starts: kernel, modules or initial RAM disk, command line, and
//! what tells it of them.
//!
//! A kernel comes up by `pvh` or `multiboot`, which share the mode in which it is entered, or by Linux's 64-bit
//! boot protocol (`linux`, entered in `long_mode`).

mod command_line;
mod error;
mod linux;
pub(crate) mod long_mode;
mod low_memory;
mod modules;
mod multiboot;
mod pvh;

use std::borrow::Cow;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::image::{KernelImage, Kind};
use crate::memory::{HIGH_START, Ram};

pub(crate) use command_line::without_features;
pub use error::BootError;
pub use pvh::START_INFO;

/// Bytes of command line that a guest entered by PVH or Multiboot may get, its final NUL included.
pub const COMMAND_LINE_LIMIT: usize = 64 << 10;

/// A file handed to the guest kernel; its name becomes the module's command line.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its content.
    pub bytes: Cow<'static, [u8]>,
}

/// The state in which a CPU enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// PVH and Multiboot: 32-bit protected mode without paging.
    Protected {
        /// The first instruction.
        at: GuestAddress,
        /// What EAX says: the loader's magic number under Multiboot.
        magic: u32,
        /// What EBX points at: `hvm_start_info`, or the Multiboot information.
        info: GuestAddress,
    },
    /// Linux's 64-bit boot protocol: memory mapped as it is, RSI at the boot parameters.
    Long {
        /// The first instruction.
        at: GuestAddress,
        /// The `boot_params` structure, Linux's "zero page".
        boot_params: GuestAddress,
    },
}

/// Loads everything and says how to enter the guest.
///
/// Under PVH and Multiboot the modules lie in the order in which they are given; Linux takes the first one as
/// its initial RAM disk. By Linux's own protocol there can be no other.
///
/// # Errors
/// [`BootError`] names what does not fit or is malformed.
pub fn load(
    ram: &Ram,
    image: &KernelImage,
    command_line: &str,
    modules: &[Module],
) -> Result<Entry, BootError> {
    match image.kind() {
        Kind::Pvh => pvh::load(ram, image, command_line, modules),
        Kind::Multiboot(version) => multiboot::load(ram, image, *version, command_line, modules),
        Kind::Vmlinux | Kind::BzImage(_) => linux::load(ram, image, command_line, modules),
    }
}

/// Copies an image's segments and returns where the last one ends. Memory is fresh, so what the file does not
/// have of a segment is zero.
fn load_segments(ram: &Ram, image: &KernelImage) -> Result<GuestAddress, BootError> {
    let (mut kernel_end, mut bytes) = (GuestAddress(0), 0_u64);
    for segment in image.segments() {
        let (start, end) = (segment.physical_address, segment.physical_end());
        let fits = ram
            .memory_map()
            .iter()
            .any(|range| range.holds(start.0, end.0));
        if start.0 < HIGH_START || !fits {
            return Err(BootError::SegmentOutside {
                name: image.name().into(),
                start: start.0,
                end: end.0,
                size: ram.size(),
            });
        }
        kernel_end = kernel_end.max(end);
        // Those that lie over each other could take any time.
        bytes = bytes.saturating_add(segment.memory_bytes);
        if bytes > ram.size().bytes() {
            return Err(BootError::SegmentsOverlap {
                name: image.name().into(),
                bytes,
                size: ram.size(),
            });
        }
        write(ram.memory(), "kernel", image.content(segment), start)?;
    }
    Ok(kernel_end)
}

fn not_loaded(image: &KernelImage, error: &linux_loader::loader::Error) -> BootError {
    BootError::Load {
        name: image.name().into(),
        reason: error.to_string(),
    }
}

/// Where RAM from 1 MiB on ends, below the PCI hole.
fn high_ram_end(ram: &Ram) -> u64 {
    ram.memory_map()
        .iter()
        .find(|range| range.start.0 == HIGH_START)
        .map_or(0, |range| range.end().0)
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
