//! The pages of a kdump-compressed dump, found by their descriptors and unpacked.

use std::sync::atomic::{AtomicU64, Ordering};

use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::FrameDecoder;
use zerocopy::{FromBytes, Immutable, KnownLayout, LE, U32, U64};

use super::bitmap::{Bitmap, Place};
use crate::input::{Input, Window};
use crate::memory::{Format, Found, PAGE, Page};

/// Descriptors that are read at once.
const DESCRIPTORS: usize = 24 << 10;
/// Bytes of pages that are read at once.
const PAGES: usize = 64 << 10;
/// A page that claims a larger window is not unpacked.
const WINDOW: u64 = 1 << 20;

/// `page_desc`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Descriptor {
    offset: U64<LE>,
    size: U32<LE>,
    flags: U32<LE>,
    page_flags: U64<LE>,
}

/// DUMP_DH_COMPRESSED_ZLIB, _LZO, _SNAPPY and _ZSTD; none of them: the page as it is.
const ZLIB: u32 = 1;
const LZO: u32 = 2;
const SNAPPY: u32 = 4;
const ZSTD: u32 = 0x20;
/// DUMP_DH_COMPRESSED_INCOMPLETE and DUMP_DH_EXCLUDED_VMEMMAP: there is no page after all.
const LEFT_OUT: u32 = 8 | 0x10;

/// One file of a dump.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) input: Input,
    pub(super) bitmap: Bitmap,
    /// Where its descriptors begin.
    pub(super) descriptors: u64,
    /// The frames whose pages are in it.
    pub(super) frames: std::ops::Range<u64>,
    /// Pages of the dump below these.
    pub(super) before: u64,
    /// The offset of a page that is known to be zero: all such share one.
    zeros: AtomicU64,
}

impl Part {
    pub(super) fn new(
        input: Input,
        bitmap: Bitmap,
        descriptors: u64,
        frames: std::ops::Range<u64>,
        before: u64,
    ) -> Part {
        Part {
            input,
            bitmap,
            descriptors,
            frames,
            before,
            zeros: AtomicU64::new(u64::MAX),
        }
    }
}

/// All files of a dump, ascending by their frames.
#[derive(Debug)]
pub(super) struct Pages(pub(super) Vec<Part>);

/// What reading page after page goes by.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Which part its windows are of.
    part: usize,
    bitmap: Place,
    descriptors: Window,
    pages: Window,
    unpacker: Unpacker,
}

impl Format for Pages {
    type Reader = Reader;

    fn unpack(&self, reader: &mut Reader, number: u64, page: &mut Page) -> Found {
        let index = self.0.partition_point(|part| part.frames.end <= number);
        let Some(part) = self.0.get(index).filter(|part| part.frames.start <= number) else {
            return Found::LeftOut;
        };
        if reader.part != index {
            *reader = Reader {
                part: index,
                ..Reader::default()
            };
        }
        part.unpack(reader, number, page).unwrap_or(Found::Damaged)
    }

    fn lost_at(&self) -> Option<u64> {
        self.0.iter().find_map(|part| part.input.lost_at())
    }
}

impl Part {
    /// `None` if the page cannot be unpacked.
    fn unpack(&self, reader: &mut Reader, number: u64, page: &mut Page) -> Option<Found> {
        let input = &self.input;
        let Some(rank) = self.bitmap.rank(input, &mut reader.bitmap, number).ok()? else {
            return Some(Found::LeftOut);
        };
        let at = rank.checked_sub(self.before)?.checked_mul(24)?;
        let at = self.descriptors.checked_add(at)?;
        // Of a file that is cut off, the last descriptors and pages are not there.
        let Some(descriptor) = reader.descriptors.get(input, at, 24, DESCRIPTORS) else {
            return Some(Found::LeftOut);
        };
        let descriptor = Descriptor::ref_from_bytes(descriptor).ok()?;
        let (offset, flags) = (descriptor.offset.get(), descriptor.flags.get());
        if flags & LEFT_OUT != 0 {
            return Some(Found::LeftOut);
        }
        if offset == self.zeros.load(Ordering::Relaxed) {
            return Some(Found::Zero);
        }
        // A page that would not become smaller is stored as it is.
        let size = usize::try_from(descriptor.size.get()).ok()?;
        if size == 0 || size > PAGE {
            return None;
        }
        let Some(packed) = reader.pages.get(input, offset, size, PAGES) else {
            return Some(Found::LeftOut);
        };
        reader.unpacker.unpack(flags, packed, page)?;
        if page.iter().all(|byte| *byte == 0) {
            self.zeros.store(offset, Ordering::Relaxed);
            return Some(Found::Zero);
        }
        Some(Found::Here)
    }
}

/// What unpacking needs, kept from page to page.
#[derive(Default)]
struct Unpacker {
    inflater: Option<Decompress>,
    snappy: snap::raw::Decoder,
    zstd: Option<Box<FrameDecoder>>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

impl Unpacker {
    /// Fills `page` with what is `packed` in the way that `flags` say.
    fn unpack(&mut self, flags: u32, packed: &[u8], page: &mut Page) -> Option<()> {
        let bytes = match flags & (ZLIB | LZO | SNAPPY | ZSTD) {
            0 => {
                *page = packed.try_into().ok()?;
                PAGE
            }
            ZLIB => {
                let inflater = self.inflater.get_or_insert_with(|| Decompress::new(true));
                inflater.reset(true);
                let status = inflater.decompress(packed, page, FlushDecompress::Finish);
                if status.ok()? != Status::StreamEnd {
                    return None;
                }
                usize::try_from(inflater.total_out()).ok()?
            }
            LZO => lzokay::decompress::decompress(packed, page).ok()?,
            SNAPPY => {
                // It would make room for as much as it claims.
                if snap::raw::decompress_len(packed).ok()? != PAGE {
                    return None;
                }
                self.snappy.decompress(packed, page).ok()?
            }
            ZSTD => {
                let decoder = self.zstd.get_or_insert_with(|| {
                    let mut decoder = FrameDecoder::new();
                    decoder.set_max_window_size(WINDOW);
                    Box::new(decoder)
                });
                decoder.decode_all(packed, page).ok()?
            }
            _ => return None,
        };
        (bytes == PAGE).then_some(())
    }
}
