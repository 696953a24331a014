//! A kernel with a Multiboot header: what hobby kernels for GRUB are (the GNU Multiboot specification 0.6.96, and
//! Multiboot2 2.0).
//!
//! The header says that the kernel is entered in 32-bit protected mode without paging, as by PVH, but with other
//! tables in other registers. An ELF of 32 or of 64 bits is loaded by its program headers; a file of any other
//! form by the addresses that its header has.

use vm_memory::GuestAddress;

use super::elf::Segment;
use super::{Candidate, Contents, ImageError, Kind};
use crate::address::GuestVirtual;

/// Which of the two specifications a kernel follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Multiboot.
    One,
    /// Multiboot2.
    Two,
}

const MAGIC_1: u32 = 0x1bad_b002;
/// The header is within this much of the file, at a multiple of 4.
const WITHIN_1: usize = 8192;
const MAGIC_2: u32 = 0xe852_50d6;
/// The same of Multiboot2, at a multiple of 8.
const WITHIN_2: usize = 32768;
/// Flags of Multiboot: what must be understood, and of that what is: page-aligned modules, the size of memory,
/// and a video mode, which a machine without a screen never has.
const MUST_1: u32 = 0xffff;
const KNOWN_1: u32 = 0b111;
/// The header has addresses.
const HAS_ADDRESSES: u32 = 1 << 16;
/// Tags of Multiboot2.
const TAG_END: u16 = 0;
const TAG_ADDRESS: u16 = 2;
const TAG_ENTRY: u16 = 3;

/// A header that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: Version,
    /// In the file.
    at: usize,
    addresses: Option<Addresses>,
    /// Where the kernel wants to be entered, if it says so.
    pub(super) entry: Option<u32>,
}

/// Where a file that is no ELF wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    header: u32,
    load: u32,
    /// Behind what comes from the file; 0 for all of it.
    load_end: u32,
    /// Behind the zeros that follow; 0 for none.
    zero_end: u32,
}

impl Candidate<'_> {
    /// The file's Multiboot header, if it has one; of both kinds the second.
    pub(super) fn multiboot(&self) -> Result<Option<Header>, ImageError> {
        match self.multiboot_2()? {
            Some(header) => Ok(Some(header)),
            None => self.multiboot_1(),
        }
    }

    fn multiboot_1(&self) -> Result<Option<Header>, ImageError> {
        let is_header = |at: &usize| {
            let sum = (0..3).try_fold(0u32, |sum, number| {
                Some(sum.wrapping_add(self.word(at + 4 * number)?))
            });
            self.word(*at) == Some(MAGIC_1) && sum == Some(0)
        };
        let Some(at) = (0..WITHIN_1.min(self.bytes.len()))
            .step_by(4)
            .find(is_header)
        else {
            return Ok(None);
        };
        let flags = self.word(at + 4).unwrap_or_default();
        let unknown = flags & MUST_1 & !KNOWN_1;
        if unknown != 0 {
            return Err(self.damaged(&format!(
                "its Multiboot header demands what is not known here: flags {unknown:#x}"
            )));
        }
        let mut header = Header {
            version: Version::One,
            at,
            addresses: None,
            entry: None,
        };
        if flags & HAS_ADDRESSES != 0 {
            let field = |number: usize| {
                let at = at + 12 + 4 * number;
                self.word(at)
                    .ok_or_else(|| self.truncated("its Multiboot header", at as u64 + 4))
            };
            header.addresses = Some(Addresses {
                header: field(0)?,
                load: field(1)?,
                load_end: field(2)?,
                zero_end: field(3)?,
            });
            header.entry = Some(field(4)?);
        }
        Ok(Some(header))
    }

    fn multiboot_2(&self) -> Result<Option<Header>, ImageError> {
        let is_header = |at: &usize| {
            let sum = (0..4).try_fold(0u32, |sum, number| {
                Some(sum.wrapping_add(self.word(at + 4 * number)?))
            });
            self.word(*at) == Some(MAGIC_2) && sum == Some(0)
        };
        let Some(at) = (0..WITHIN_2.min(self.bytes.len()))
            .step_by(8)
            .find(is_header)
        else {
            return Ok(None);
        };
        let mut header = Header {
            version: Version::Two,
            at,
            addresses: None,
            entry: None,
        };
        let cut = || self.damaged("its Multiboot2 header is cut off");
        let architecture = self.word(at + 4).ok_or_else(cut)?;
        if architecture != 0 {
            return Err(ImageError::WrongMachine {
                name: self.name.into(),
            });
        }
        let length = self.word(at + 8).ok_or_else(cut)? as usize;
        let end = at.saturating_add(length);
        let mut tag = at + 16;
        while tag < end {
            let word = self.word(tag).ok_or_else(cut)?;
            let size = self.word(tag + 4).ok_or_else(cut)? as usize;
            // The low half is the type; the high one says whether it may be ignored.
            let field = |number: usize| self.word(tag + 8 + 4 * number).ok_or_else(cut);
            match (word & 0xffff) as u16 {
                TAG_END => break,
                TAG_ADDRESS => {
                    header.addresses = Some(Addresses {
                        header: field(0)?,
                        load: field(1)?,
                        load_end: field(2)?,
                        zero_end: field(3)?,
                    });
                }
                TAG_ENTRY => header.entry = Some(field(0)?),
                _ => {}
            }
            tag = tag.saturating_add(size.max(8).next_multiple_of(8));
        }
        Ok(Some(header))
    }

    /// A file that is no ELF, by the addresses of its header.
    pub(super) fn by_addresses(&self, header: &Header) -> Result<Contents, ImageError> {
        let (Some(addresses), Some(entry)) = (header.addresses, header.entry) else {
            return Err(self.damaged(
                "it is no ELF, and its Multiboot header does not say where it is loaded and entered",
            ));
        };
        let impossible =
            || self.damaged("the addresses in its Multiboot header contradict each other");
        let before = addresses
            .header
            .checked_sub(addresses.load)
            .ok_or_else(impossible)?;
        let offset = header
            .at
            .checked_sub(before as usize)
            .ok_or_else(impossible)? as u64;
        let in_file = self.bytes.len() as u64 - offset;
        let file_bytes = match addresses.load_end {
            0 => in_file,
            end => u64::from(end.checked_sub(addresses.load).ok_or_else(impossible)?),
        };
        if file_bytes > in_file {
            return Err(self.truncated("what its Multiboot header has loaded", offset + file_bytes));
        }
        let memory_bytes = match addresses.zero_end {
            0 => file_bytes,
            end => u64::from(end.checked_sub(addresses.load).ok_or_else(impossible)?),
        };
        if memory_bytes < file_bytes || memory_bytes == 0 {
            return Err(impossible());
        }
        let load = u64::from(addresses.load);
        if !(load..load + memory_bytes).contains(&u64::from(entry)) {
            return Err(ImageError::EntryOutside {
                name: self.name.into(),
                entry: entry.into(),
            });
        }
        Ok(Contents {
            kind: Kind::Multiboot(header.version),
            is_linux: false,
            segments: vec![Segment {
                virtual_address: GuestVirtual(load),
                physical_address: GuestAddress(load),
                file_offset: offset,
                file_bytes,
                memory_bytes,
                readable: true,
                writable: true,
                executable: true,
            }],
            entry: GuestAddress(entry.into()),
        })
    }

    /// The little-endian 32-bit word at `at`.
    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }
}
