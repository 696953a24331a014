//! AVML's compressed image (version 2): ranges of RAM, each behind a header as LiME has it, as a Snappy frame.
//!
//! ```text
//! 0   "AVML", version 2 (4 bytes), the range, as in LiME
//! 32  chunks of a Snappy frame until the range is full; each unpacks to at most 64 KiB
//!     how many bytes these took (8 bytes); then the next header
//! ```
//!
//! Only the chunks' heads are looked at when the image is opened. A chunk is unpacked when a page of it
//! is read.

use heirloom_inspect::{PhysAddr, PhysRange};

use super::lime::{HEADER, cut, range_of};
use super::{Contents, DumpError};
use crate::input::{Input, Window};
use crate::memory::{Format, Found, Layout, PAGE, Page, Paged, Piece, Source};

/// What a chunk unpacks to at most (Snappy's framing format).
const CHUNK: usize = 64 << 10;
/// As many chunks take 48 MiB of memory: they are of 128 GiB of RAM.
const CHUNKS: usize = 1 << 21;
/// Bytes of the file that are read at once.
const BLOCK: usize = 256 << 10;

/// Bytes of RAM that are unpacked together.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Where in guest-physical memory they begin.
    start: u64,
    /// Where in the file they are, behind their checksum.
    offset: u64,
    packed: u32,
    /// What they unpack to; the same as `packed` if `is_packed` is not set.
    bytes: u32,
    is_packed: bool,
}

/// The image.
#[derive(Debug)]
struct Chunks {
    input: Input,
    /// Ascending by their starts.
    chunks: Vec<Chunk>,
}

/// What reading page after page goes by.
#[derive(Debug, Default)]
struct Reader {
    window: Window,
    /// The chunk that is unpacked.
    chunk: Option<usize>,
    bytes: Vec<u8>,
}

/// Opens an AVML image.
///
/// # Errors
/// [`DumpError`].
pub(crate) fn open(name: &str, input: Input) -> Result<Contents, DumpError> {
    const MARK: &[u8] = b"AVML\x02\0\0\0";
    let damaged = |what: String| DumpError::Damaged {
        name: name.into(),
        kind: "AVML image",
        what,
    };
    let mut notes = vec!["by its content this is an AVML image, compressed".to_string()];
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut window = Window::default();
    let (mut pieces, mut left_out) = (Vec::new(), Vec::new());
    let mut at = 0;
    'ranges: while at < input.length() {
        let Some(header) = window.get(&input, at, HEADER, BLOCK) else {
            notes.push(cut(name, input.length(), at + HEADER as u64));
            break;
        };
        if !header.starts_with(MARK) {
            return Err(damaged(format!(
                "at byte {at}, where a range of RAM should begin, is no header of version 2"
            )));
        }
        let range = range_of(header)
            .ok_or_else(|| damaged(format!("the range at byte {at} has no addresses")))?;
        at += HEADER as u64;
        let mut have = 0;
        while have < range.bytes {
            let found = chunk_at(&input, &mut window, at).map_err(damaged)?;
            let Some((next, found)) = found else {
                notes.push(cut(name, input.length(), at));
                left_out.push(PhysRange {
                    start: range.start.wrapping_add(have),
                    bytes: range.bytes - have,
                });
                add(&mut pieces, range.start, have);
                break 'ranges;
            };
            at = next;
            let Some(mut chunk) = found else {
                continue;
            };
            if u64::from(chunk.bytes) > range.bytes - have {
                return Err(damaged(format!("the chunk before byte {at} is too long")));
            }
            if chunks.len() == CHUNKS {
                return Err(DumpError::Unread {
                    name: name.into(),
                    what: "a compressed AVML image of more than 128 GiB".into(),
                    remedy: "unpack it with `avml-convert FILE image.lime`, and give that",
                });
            }
            chunk.start = range.start.get() + have;
            have += u64::from(chunk.bytes);
            chunks.push(chunk);
        }
        add(&mut pieces, range.start, range.bytes);
        // How long it was.
        at += 8;
    }
    chunks.sort_by_key(|chunk| chunk.start);
    if chunks
        .windows(2)
        .any(|pair| pair[0].start + u64::from(pair[0].bytes) > pair[1].start)
    {
        return Err(damaged("two ranges of RAM overlap".into()));
    }
    Ok(Contents {
        layout: Layout::of(pieces),
        sources: vec![Source::Paged(Box::new(Paged::new(Chunks {
            input,
            chunks,
        })))],
        cpus: Vec::new(),
        roots: Vec::new(),
        left_out,
        is_pc: false,
        notes,
    })
}

fn add(pieces: &mut Vec<Piece>, start: PhysAddr, bytes: u64) {
    pieces.push(Piece::new(PhysRange { start, bytes }, 0, start.get()));
}

/// The chunk at `at`, if it holds data, and where the next one is; `None` if the file ends.
fn chunk_at(
    input: &Input,
    window: &mut Window,
    at: u64,
) -> Result<Option<(u64, Option<Chunk>)>, String> {
    const PACKED: u8 = 0;
    const PLAIN: u8 = 1;
    let Some(head) = window.get(input, at, 4, BLOCK) else {
        return Ok(None);
    };
    let [kind, low, middle, high] = *head else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([low, middle, high, 0]);
    let next = at + 4 + u64::from(length);
    if next > input.length() {
        return Ok(None);
    }
    let (packed, offset) = (length.saturating_sub(4), at + 8);
    let bytes = match kind {
        PACKED => {
            // How long it is unpacked stands in front of it, in at most five bytes.
            let head = packed.min(5) as usize;
            let Some(head) = window.get(input, offset, head, BLOCK) else {
                return Ok(None);
            };
            snap::raw::decompress_len(head).unwrap_or(0)
        }
        PLAIN => packed as usize,
        // Padding, and what may be skipped; 0xff begins a stream.
        0x80..=0xff => return Ok(Some((next, None))),
        kind => return Err(format!("at byte {at} is a chunk of kind {kind:#x}")),
    };
    if bytes == 0 || bytes > CHUNK {
        return Err(format!("the chunk at byte {at} claims {bytes} bytes"));
    }
    let chunk = Chunk {
        start: 0,
        offset,
        packed,
        bytes: u32::try_from(bytes).unwrap_or_default(),
        is_packed: kind == PACKED,
    };
    Ok(Some((next, Some(chunk))))
}

impl Format for Chunks {
    type Reader = Reader;

    fn unpack(&self, reader: &mut Reader, number: u64, page: &mut Page) -> Found {
        let (mut at, end) = (number * PAGE as u64, (number + 1) * PAGE as u64);
        let mut found = Found::LeftOut;
        page.fill(0);
        while at < end {
            let index = self
                .chunks
                .partition_point(|chunk| chunk.start + u64::from(chunk.bytes) <= at);
            let Some(chunk) = self.chunks.get(index).filter(|chunk| chunk.start < end) else {
                break;
            };
            if !self.unpack_chunk(reader, index) {
                return Found::Damaged;
            }
            found = Found::Here;
            at = at.max(chunk.start);
            let stop = end.min(chunk.start + u64::from(chunk.bytes));
            let place = |at: u64, from: u64| usize::try_from(at - from).unwrap_or(usize::MAX);
            let from = &reader.bytes[place(at, chunk.start)..place(stop, chunk.start)];
            let start = number * PAGE as u64;
            page[place(at, start)..place(stop, start)].copy_from_slice(from);
            at = stop;
        }
        found
    }

    fn lost_at(&self) -> Option<u64> {
        self.input.lost_at()
    }
}

impl Chunks {
    fn unpack_chunk(&self, reader: &mut Reader, index: usize) -> bool {
        if reader.chunk == Some(index) {
            return true;
        }
        reader.chunk = None;
        let chunk = &self.chunks[index];
        let packed = reader
            .window
            .get(&self.input, chunk.offset, chunk.packed as usize, BLOCK);
        let Some(packed) = packed else {
            return false;
        };
        reader.bytes.resize(chunk.bytes as usize, 0);
        if chunk.is_packed {
            let unpacked = snap::raw::Decoder::new().decompress(packed, &mut reader.bytes);
            if unpacked.ok() != Some(reader.bytes.len()) {
                return false;
            }
        } else {
            reader.bytes.copy_from_slice(packed);
        }
        reader.chunk = Some(index);
        true
    }
}
