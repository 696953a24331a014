//! Writers of dumps, from the formats' documentation: independent of the readers.

use std::io::Write;
use std::ops::Range;

const PAGE: usize = 4096;

/// How the pages of a kdump-compressed dump are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Zlib,
    Lzo,
    Snappy,
    Zstd,
}

/// A kdump-compressed dump.
#[derive(Clone, Debug)]
pub(crate) struct Kdump {
    pub(crate) signature: &'static [u8; 8],
    pub(crate) version: u32,
    pub(crate) machine: &'static str,
    pub(crate) packing: Packing,
    pub(crate) dump_level: u32,
    pub(crate) split: Option<Range<u64>>,
    pub(crate) vmcoreinfo: Vec<u8>,
    pub(crate) notes: Vec<u8>,
    /// By number; `None` for one that is RAM and was left out. Pages that are not here are no RAM.
    pub(crate) pages: Vec<(u64, Option<Vec<u8>>)>,
}

impl Default for Kdump {
    fn default() -> Kdump {
        Kdump {
            signature: b"KDUMP   ",
            version: 6,
            machine: "x86_64",
            packing: Packing::Zlib,
            dump_level: 0,
            split: None,
            vmcoreinfo: Vec::new(),
            notes: Vec::new(),
            pages: Vec::new(),
        }
    }
}

impl Kdump {
    /// Adds RAM from page `first` on.
    pub(crate) fn ram(mut self, first: u64, bytes: &[u8]) -> Kdump {
        let pages = bytes.chunks(PAGE).map(|page| Some(page.to_vec()));
        self.pages.extend((first..).zip(pages));
        self
    }

    /// Adds pages of RAM that are not in the dump.
    pub(crate) fn left_out(mut self, pages: Range<u64>) -> Kdump {
        self.pages.extend(pages.map(|page| (page, None)));
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut pages = self.pages.clone();
        pages.sort_by_key(|(number, _)| *number);
        let frames = pages.last().map_or(0, |(number, _)| number + 1);
        let bitmap_bytes = usize::try_from(frames.div_ceil(8)).unwrap();
        let bitmap_bytes = bitmap_bytes.next_multiple_of(PAGE);
        let mut bitmaps = vec![0; 2 * bitmap_bytes];
        for (number, page) in &pages {
            let (byte, bit) = ((number / 8) as usize, number % 8);
            bitmaps[byte] |= 1 << bit;
            if page.is_some() {
                bitmaps[bitmap_bytes + byte] |= 1 << bit;
            }
        }
        let behind_sub = PAGE + 104;
        let notes_at = behind_sub + self.vmcoreinfo.len();
        let sub_blocks = (notes_at + self.notes.len() - PAGE).div_ceil(PAGE);

        let mut file = Vec::new();
        file.extend(self.signature);
        file.extend(self.version.to_le_bytes());
        for word in ["Linux", "guest", "6.1.0-test", "#1", self.machine, ""] {
            let mut field = word.as_bytes().to_vec();
            field.resize(65, 0);
            file.extend(field);
        }
        file.resize(408 + 16, 0);
        let short = |number: usize| u32::try_from(number).unwrap();
        let blocks = short(bitmaps.len() / PAGE);
        // status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr, then five more.
        let narrow = u32::try_from(frames).unwrap_or(u32::MAX);
        for word in [0, 4096, short(sub_blocks), blocks, narrow, 0, 0, 0, 0, 1] {
            file.extend(u32::to_le_bytes(word));
        }
        file.resize(PAGE, 0);
        file.extend(0_u64.to_le_bytes());
        file.extend(self.dump_level.to_le_bytes());
        file.extend(u32::from(self.split.is_some()).to_le_bytes());
        let split = self.split.clone().unwrap_or(0..0);
        let offset = |at: usize, bytes: usize| if bytes == 0 { 0 } else { at as u64 };
        for word in [
            split.start,
            split.end,
            offset(behind_sub, self.vmcoreinfo.len()),
            self.vmcoreinfo.len() as u64,
            offset(notes_at, self.notes.len()),
            self.notes.len() as u64,
            0,
            0,
            split.start,
            split.end,
            frames,
        ] {
            file.extend(word.to_le_bytes());
        }
        file.extend(&self.vmcoreinfo);
        file.extend(&self.notes);
        file.resize((1 + sub_blocks) * PAGE, 0);
        file.extend(bitmaps);

        let here = |number: u64| {
            self.split
                .as_ref()
                .is_none_or(|part| part.contains(&number))
        };
        let present: Vec<&Vec<u8>> = pages
            .iter()
            .filter(|(number, _)| here(*number))
            .filter_map(|(_, page)| page.as_ref())
            .collect();
        let data_at = file.len() + 24 * present.len();
        let (mut descriptors, mut data) = (Vec::new(), Vec::new());
        // All pages of zeros are one.
        let mut zeros: Option<[u8; 24]> = None;
        for page in present {
            let is_zero = page.iter().all(|byte| *byte == 0);
            if let (true, Some(descriptor)) = (is_zero, zeros) {
                descriptors.extend(descriptor);
                continue;
            }
            let (flags, packed) = self.packing.pack(page);
            let mut descriptor = Vec::new();
            descriptor.extend(((data_at + data.len()) as u64).to_le_bytes());
            descriptor.extend(short(packed.len()).to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend(0_u64.to_le_bytes());
            data.extend(packed);
            if is_zero {
                zeros = Some(descriptor.clone().try_into().unwrap());
            }
            descriptors.extend(descriptor);
        }
        file.extend(descriptors);
        file.extend(data);
        file
    }
}

impl Packing {
    /// The descriptor's flags, and the bytes.
    fn pack(self, page: &[u8]) -> (u32, Vec<u8>) {
        let (flags, packed) = match self {
            Packing::None => (0, page.to_vec()),
            Packing::Zlib => (1, miniz_oxide::deflate::compress_to_vec_zlib(page, 6)),
            Packing::Lzo => (2, lzokay::compress::compress(page).unwrap()),
            Packing::Snappy => (4, snap::raw::Encoder::new().compress_vec(page).unwrap()),
            Packing::Zstd => (
                0x20,
                ruzstd::encoding::compress_to_vec(
                    page,
                    ruzstd::encoding::CompressionLevel::Fastest,
                ),
            ),
        };
        if packed.len() < page.len() {
            (flags, packed)
        } else {
            (0, page.to_vec())
        }
    }
}

/// A file in makedumpfile's flattened form, in parts of `part` bytes, the last ones first; what it begins with
/// is written twice, as by those who fill in a header when they are done.
pub(crate) fn flattened(file: &[u8], part: usize) -> Vec<u8> {
    let mut out = b"makedumpfile\0\0\0\0".to_vec();
    out.extend(1_u64.to_be_bytes());
    out.extend(1_u64.to_be_bytes());
    out.resize(PAGE, 0);
    let mut put = |offset: usize, bytes: &[u8]| {
        out.extend((offset as u64).to_be_bytes());
        out.extend((bytes.len() as u64).to_be_bytes());
        out.extend(bytes);
    };
    put(0, &[0xee; 100]);
    let parts: Vec<(usize, &[u8])> = file
        .chunks(part)
        .enumerate()
        .map(|(number, bytes)| (number * part, bytes))
        .collect();
    for (offset, bytes) in parts.into_iter().rev() {
        put(offset, bytes);
    }
    out.extend([0xff; 16]);
    out
}

/// A LiME image of some ranges: where each begins, and its bytes.
pub(crate) fn lime(ranges: &[(u64, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    for (start, bytes) in ranges {
        file.extend(range_header(0x4c69_4d45, 1, *start, bytes.len()));
        file.extend(*bytes);
    }
    file
}

/// An AVML image of version 2.
pub(crate) fn avml(ranges: &[(u64, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    for (start, bytes) in ranges {
        file.extend(range_header(0x4c4d_5641, 2, *start, bytes.len()));
        let mut frame = snap::write::FrameEncoder::new(Vec::new());
        frame.write_all(bytes).unwrap();
        let frame = frame.into_inner().unwrap();
        file.extend(&frame);
        file.extend((frame.len() as u64).to_le_bytes());
    }
    file
}

fn range_header(magic: u32, version: u32, start: u64, length: usize) -> Vec<u8> {
    let mut header = magic.to_le_bytes().to_vec();
    header.extend(version.to_le_bytes());
    header.extend(start.to_le_bytes());
    header.extend((start + length as u64 - 1).to_le_bytes());
    header.extend([0; 8]);
    header
}
