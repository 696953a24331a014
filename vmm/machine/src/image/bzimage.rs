//! A bzImage: Linux packed behind a program that unpacks it. Its setup header tells what a loader must
//! know (Linux's Documentation/arch/x86/boot.rst).

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::{ByteValued, GuestAddress};

use super::{Candidate, Contents, ImageError, Kind};

/// Where the setup header starts in the file, and in the boot parameters.
const HEADER_OFFSET: usize = 0x1f1;
/// The magic `HdrS`.
const MAGIC_OFFSET: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// The byte that says how many bytes behind [`MAGIC_OFFSET`] the header ends.
const LENGTH_OFFSET: usize = 0x201;
/// The first protocol with a 64-bit entry and a word that says so (`xloadflags`).
const PROTOCOL_2_12: u16 = 0x020c;
/// Up to and with `init_size`, the last field that is read here.
const NEEDED_BYTES: usize = 0x264 - HEADER_OFFSET;
const SECTOR: u64 = 512;
/// Sectors of setup code where the header says 0.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// The unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// The 64-bit entry, from where the protected-mode part is loaded.
const ENTRY_OFFSET: u64 = 0x200;

/// What a bzImage says of itself, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetupHeader {
    raw: setup_header,
}

/// Whether the file is some version of a bzImage or zImage.
pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes
        .get(MAGIC_OFFSET..)
        .is_some_and(|rest| rest.starts_with(MAGIC))
}

impl SetupHeader {
    /// As in the file, to be copied into the boot parameters.
    pub(crate) fn raw(&self) -> setup_header {
        self.raw
    }

    /// Where the protected-mode part is loaded: where it would move to anyway.
    pub fn load_address(&self) -> GuestAddress {
        GuestAddress(self.raw.pref_address)
    }

    /// The 64-bit entry.
    pub fn entry(&self) -> GuestAddress {
        GuestAddress(self.raw.pref_address + ENTRY_OFFSET)
    }

    /// First address behind what the kernel needs to unpack itself; the check at reading rules overflow
    /// out.
    pub fn unpacked_end(&self) -> GuestAddress {
        GuestAddress(self.raw.pref_address + u64::from(self.raw.init_size))
    }

    /// Characters of command line that the kernel reads.
    pub fn command_line_limit(&self) -> u64 {
        self.raw.cmdline_size.into()
    }

    /// The highest address that the initial RAM disk may take.
    pub fn initrd_last(&self) -> u64 {
        self.raw.initrd_addr_max.into()
    }
}

impl Candidate<'_> {
    /// What a file with the magic says, if it is whole and a 64-bit kernel.
    pub(super) fn bzimage(&self) -> Result<Contents, ImageError> {
        let header = self.checked_header()?;
        Ok(Contents {
            kind: Kind::BzImage(header),
            is_linux: true,
            segments: Vec::new(),
            entry: header.entry(),
        })
    }

    fn checked_header(&self) -> Result<SetupHeader, ImageError> {
        let name = || self.name.to_owned();
        let raw = self.setup_header()?;
        let version = raw.version;
        let [minor, major] = version.to_le_bytes();
        if version < PROTOCOL_2_12 {
            return Err(ImageError::OldProtocol {
                name: name(),
                major,
                minor,
            });
        }
        if raw.loadflags & LOADED_HIGH == 0 {
            return Err(ImageError::LoadsLow { name: name() });
        }
        if raw.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(ImageError::ThirtyTwoBit { name: name() });
        }
        let sectors = match raw.setup_sects {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        let setup_end = (u64::from(sectors) + 1) * SECTOR;
        let kernel_end = setup_end + u64::from(raw.syssize) * PARAGRAPH;
        let length = self.bytes.len() as u64;
        if kernel_end > length {
            return Err(self.truncated("the packed kernel", kernel_end));
        }
        let room = u64::from(raw.init_size);
        if raw.pref_address.checked_add(room).is_none() {
            return Err(self.damaged("it wants to be loaded beyond 2^64"));
        }
        if length - setup_end <= ENTRY_OFFSET {
            return Err(self.damaged("its packed kernel ends before its 64-bit entry"));
        }
        if room < length - setup_end {
            return Err(self.damaged("it says to need less memory than the file has bytes"));
        }
        Ok(SetupHeader { raw })
    }

    /// The header as far as the file's protocol has it; zero behind.
    fn setup_header(&self) -> Result<setup_header, ImageError> {
        // The magic lies behind the byte that tells the length.
        let length = MAGIC_OFFSET + usize::from(self.bytes[LENGTH_OFFSET]) - HEADER_OFFSET;
        let end = HEADER_OFFSET + length.max(NEEDED_BYTES);
        let Some(found) = self.bytes.get(HEADER_OFFSET..end) else {
            return Err(self.truncated("the setup header", end as u64));
        };
        let known = length.min(size_of::<setup_header>());
        let mut raw = setup_header::default();
        raw.as_mut_slice()[..known].copy_from_slice(&found[..known]);
        Ok(raw)
    }
}
