//! Why a machine was not made.

use crate::image::ImageError;
use crate::kvm::KvmError;
use crate::memory::{MemoryError, MemorySize};
use crate::qemu::QemuError;

/// Why a machine was not made.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant's message says what it is and what its fields are"
)]
pub enum BootError {
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Qemu(#[from] QemuError),
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
    #[error(
        "the segments of {name} take {bytes} bytes, more than all of the guest's memory ({size}), so they lie \
         over each other: link them apart"
    )]
    SegmentsOverlap {
        name: String,
        bytes: u64,
        size: MemorySize,
    },
    #[error(
        "{name} needs the memory {start:#x}–{end:#x} to unpack itself, but the guest has RAM from 1 MiB up \
         to {limit:#x}; give more memory"
    )]
    NoRoomToUnpack {
        name: String,
        start: u64,
        end: u64,
        limit: u64,
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
    #[error(
        "the initial RAM disk {name} does not fit: it has {bytes} bytes, but between the kernel's end at \
         {kernel_end:#x} and {limit:#x}, below which this kernel wants it, there are {room}; give more \
         memory, or a smaller one"
    )]
    InitrdTooBig {
        name: String,
        bytes: u64,
        kernel_end: u64,
        limit: u64,
        room: u64,
    },
    #[error(
        "{name} is entered by Linux's boot protocol, which hands over one initial RAM disk and no other \
         file, but {count} were given: pack all into one archive, or boot a kernel with a PVH note"
    )]
    ModulesUnknown { name: String, count: usize },
    #[error("the name of a boot module, `{name}`, holds a NUL or is empty: give it another")]
    ModuleName { name: String },
    #[error(
        "{count} boot modules, their names and the command line need more than the 616 KiB of low memory \
         kept for them: give fewer or shorter ones"
    )]
    NoRoomForStartInfo { count: usize },
    #[error(
        "the kernel command line is no good: {reason}; use printable ASCII, less than {} of it",
        bytes(*limit)
    )]
    CommandLine { reason: String, limit: usize },
    #[error("could not write the guest's {what}: {reason}")]
    Write { what: &'static str, reason: String },
    #[error(
        "could not start the threads of the guest's CPUs: {0}; is there a limit on threads (`ulimit -u`)?"
    )]
    Cpus(std::io::Error),
    #[error("could not start the watchdog thread: {0}; is there a limit on threads (`ulimit -u`)?")]
    Watchdog(std::io::Error),
}

/// A size for people: whole KiB where it is.
fn bytes(number: usize) -> String {
    if number >= 1 << 10 && number.is_multiple_of(1 << 10) {
        format!("{} KiB", number >> 10)
    } else {
        format!("{number} bytes")
    }
}
