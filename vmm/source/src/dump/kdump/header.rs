//! The headers of a kdump-compressed dump (makedumpfile's `IMPLEMENTATION` and diskdump_mod.h).
//!
//! ```text
//! block 0              struct disk_dump_header
//! block 1              struct kdump_sub_header; VMCOREINFO and the notes behind it
//! 1 + sub_hdr_size     bitmaps: which pages are RAM, which of them are in the dump
//! + bitmap_blocks      a descriptor for each page in the dump, and the pages
//! ```
//!
//! The structures are those of a 64-bit machine: numbers of C's `long` take eight bytes.

use zerocopy::{FromBytes, Immutable, KnownLayout, LE, U32, U64};

use super::super::DumpError;
use crate::input::Input;
use crate::memory::RAM_LIMIT;

/// What x86-64 has.
pub(super) const PAGE: u64 = 4096;
/// The newest version that is known.
const VERSION: u32 = 6;
/// `DUMP_DH_COMPRESSED_INCOMPLETE` in the header's status.
const INCOMPLETE: u32 = 8;

/// `struct disk_dump_header`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Main {
    signature: [u8; 8],
    version: U32<LE>,
    /// sysname, nodename, release, version, machine, domainname.
    utsname: [[u8; 65]; 6],
    pad: [u8; 6],
    time: [U64<LE>; 2],
    status: U32<LE>,
    block_size: U32<LE>,
    sub_hdr_size: U32<LE>,
    bitmap_blocks: U32<LE>,
    max_mapnr: U32<LE>,
    rest: [U32<LE>; 5],
}

/// `struct kdump_sub_header`; what a version does not have yet is zero.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Sub {
    phys_base: U64<LE>,
    dump_level: U32<LE>,
    split: U32<LE>,
    start_pfn: U64<LE>,
    end_pfn: U64<LE>,
    offset_vmcoreinfo: U64<LE>,
    size_vmcoreinfo: U64<LE>,
    offset_note: U64<LE>,
    size_note: U64<LE>,
    eraseinfo: [U64<LE>; 2],
    start_pfn_64: U64<LE>,
    end_pfn_64: U64<LE>,
    max_mapnr_64: U64<LE>,
}

/// How many bytes of [`Sub`] each version has.
const SUB_BYTES: [usize; 7] = [8, 12, 32, 48, 64, 80, 104];

/// What the headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    /// Its writer ran out of space.
    pub(super) incomplete: bool,
    /// Which pages makedumpfile left out (-d).
    pub(super) dump_level: u32,
    /// utsname's release.
    pub(super) release: String,
    /// Frames are below this number.
    pub(super) frames: u64,
    /// Where the bitmap is that says which pages are RAM.
    pub(super) ram_bitmap: u64,
    /// Where the bitmap is that says which pages are in the dump; it may be the same.
    pub(super) bitmap: u64,
    /// Where the descriptors begin.
    pub(super) descriptors: u64,
    /// The frames whose pages are in this file, if it is one of several.
    pub(super) split: Option<std::ops::Range<u64>>,
    /// Offset and bytes of each; 0 bytes if there is none.
    pub(super) vmcoreinfo: (u64, u64),
    pub(super) notes: (u64, u64),
}

impl Header {
    /// Reads the headers of `input`.
    pub(super) fn read(name: &str, input: &Input) -> Result<Header, DumpError> {
        let length = input.length();
        let damaged = |what: String| DumpError::Damaged {
            name: name.into(),
            kind: "kdump-compressed dump",
            what,
        };
        let truncated = |what, end| DumpError::Truncated {
            name: name.into(),
            what,
            end,
            length,
        };
        let bytes = input
            .bytes(0, size_of::<Main>())
            .ok_or_else(|| truncated("its header", size_of::<Main>() as u64))?;
        let main = Main::ref_from_bytes(&bytes)
            .map_err(|_| damaged("its header cannot be read".into()))?;
        let word = |index: usize| {
            let text = main.utsname.get(index).map_or(&[][..], |text| text);
            let end = text.iter().position(|byte| *byte == 0);
            printable(&text[..end.unwrap_or(text.len())])
        };
        let machine = word(4);
        if !machine.is_empty() && machine != "x86_64" {
            return Err(DumpError::Unread {
                name: name.into(),
                what: format!("a kdump-compressed dump of a machine of kind {machine}"),
                remedy: "only x86-64 guests can be inspected",
            });
        }
        let block = u64::from(main.block_size.get());
        if block != PAGE {
            return Err(damaged(format!(
                "its blocks have {block} bytes, but a page of x86-64 has {PAGE}"
            )));
        }
        let version = main.version.get();
        let known = usize::try_from(version.min(VERSION)).unwrap_or_default();
        let mut sub = [0; size_of::<Sub>()];
        let part = input
            .bytes(PAGE, SUB_BYTES[known])
            .ok_or_else(|| truncated("its second header", PAGE + SUB_BYTES[known] as u64))?;
        sub[..part.len()].copy_from_slice(&part);
        let sub = Sub::ref_from_bytes(&sub)
            .map_err(|_| damaged("its second header cannot be read".into()))?;
        let is_newest = version >= VERSION;
        let frames = if is_newest && sub.max_mapnr_64.get() > 0 {
            sub.max_mapnr_64.get()
        } else {
            u64::from(main.max_mapnr.get())
        };
        if frames > RAM_LIMIT / PAGE {
            return Err(damaged(format!(
                "it claims {frames} pages, more than any machine has"
            )));
        }
        let blocks = u64::from(main.bitmap_blocks.get());
        let ram_bitmap = (1 + u64::from(main.sub_hdr_size.get())) * PAGE;
        let descriptors = ram_bitmap + blocks * PAGE;
        let needed = frames.div_ceil(8);
        let bitmap = match blocks * PAGE {
            all if all / 2 >= needed => ram_bitmap + all / 2,
            // The first diskdumps have one bitmap for both.
            all if all >= needed => ram_bitmap,
            all => {
                return Err(damaged(format!(
                    "its bitmaps have {all} bytes, too few for {frames} pages"
                )));
            }
        };
        if descriptors > length {
            return Err(truncated("its bitmap of pages", descriptors));
        }
        let (start, end) = if is_newest {
            (sub.start_pfn_64.get(), sub.end_pfn_64.get())
        } else {
            (sub.start_pfn.get(), sub.end_pfn.get())
        };
        let split = sub.split.get() != 0;
        if split && start > end {
            return Err(damaged(format!(
                "it is a part of a split dump from page {start} to page {end}"
            )));
        }
        Ok(Header {
            version,
            incomplete: main.status.get() & INCOMPLETE != 0,
            dump_level: sub.dump_level.get(),
            release: word(2),
            frames,
            ram_bitmap,
            bitmap,
            descriptors,
            split: split.then_some(start..end),
            vmcoreinfo: (sub.offset_vmcoreinfo.get(), sub.size_vmcoreinfo.get()),
            notes: (sub.offset_note.get(), sub.size_note.get()),
        })
    }

    /// Whether `other` is of the same dump.
    pub(super) fn is_like(&self, other: &Header) -> bool {
        (
            self.frames,
            self.dump_level,
            &self.release,
            self.split.is_some(),
        ) == (
            other.frames,
            other.dump_level,
            &other.release,
            other.split.is_some(),
        )
    }
}

/// It goes to a terminal.
fn printable(text: &[u8]) -> String {
    let letters = text.iter().map(|byte| char::from(*byte));
    letters.filter(char::is_ascii_graphic).collect()
}
