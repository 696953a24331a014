//! Why a file is no kernel for this machine.

use std::io;

/// Why a file is no kernel for this machine.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant's message says what it is and what its fields are"
)]
pub enum ImageError {
    #[error("there is no kernel file {name}: check the path")]
    Missing { name: String },
    #[error("could not read the kernel file {name}: {source}")]
    Read { name: String, source: io::Error },
    #[error("{name} is not a regular file: a kernel is one ELF or bzImage file")]
    NotAFile { name: String },
    #[error("{name} is larger than 4 GiB, which no kernel is")]
    TooLarge { name: String },
    #[error(
        "{name} is neither an ELF file nor a bzImage, and has no Multiboot header: give the kernel as a Linux \
         build's `vmlinux` or `bzImage` (a distribution's /boot/vmlinuz-… is one), as an ELF with a PVH note, \
         or as GRUB would boot it; unpack it first if it is compressed as a whole"
    )]
    NoKernel { name: String },
    #[error(
        "{name} is an ELF, but not a 64-bit x86-64 executable, nor a 32-bit one that is entered by PVH or \
         Multiboot: build the kernel for x86-64"
    )]
    WrongMachine { name: String },
    #[error(
        "{name} is cut off: {what} ends at byte {end}, but the file has only {length}; build or copy it again"
    )]
    Truncated {
        name: String,
        what: String,
        end: u64,
        length: u64,
    },
    #[error("{name} is damaged: {what}; build or copy it again")]
    Damaged { name: String, what: String },
    #[error(
        "{name} has no PVH note, which this command needs: link an ELF note of owner \"Xen\", type 18 with \
         the 32-bit entry (Linux: CONFIG_PVH=y); `heirloom boot` takes kernels without one"
    )]
    NoPvhNote { name: String },
    #[error(
        "{name} says to enter it at {entry:#x}, where none of its segments is loaded: give its PVH note, or \
         its ELF header where it has none, the entry's physical address"
    )]
    EntryOutside { name: String, entry: u64 },
    #[error("{name} is a 32-bit kernel: give one that is built for x86-64 (Linux: CONFIG_64BIT=y)")]
    ThirtyTwoBit { name: String },
    #[error(
        "{name} speaks version {major}.{minor:02} of Linux's boot protocol, but entering it in 64-bit mode \
         takes 2.12: give Linux 3.8 or newer"
    )]
    OldProtocol { name: String, major: u8, minor: u8 },
    #[error(
        "{name} is a zImage, loaded below 640 KiB, which no 64-bit Linux is: give its `bzImage`"
    )]
    LoadsLow { name: String },
}
