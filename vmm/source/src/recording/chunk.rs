//! Chunks: what a recording is made of. Each says how long it is, and carries a checksum of that and
//! one of its contents, so that a file that was cut and a file that was damaged are told apart.

use crate::codec::Malformed;

/// Bytes of a chunk's head.
pub(super) const HEAD_BYTES: usize = 20;
/// Most bytes of contents, as they are stored and as they are.
pub const MAX_BYTES: usize = 1 << 22;
/// Contents are compressed.
const COMPRESSED: u8 = 1 << 0;
/// What the reader knows of pages, registers and roots is forgotten before the chunk is read.
const KEY: u8 = 1 << 1;

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What was recorded.
    Header,
    /// Pages of the moment that comes next.
    Pages,
    /// A moment.
    Moment,
    /// How the run ended.
    End,
    /// Of a later version that this one can do without.
    Other(u8),
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Kind::Header => b'H',
            Kind::Pages => b'P',
            Kind::Moment => b'M',
            Kind::End => b'E',
            Kind::Other(byte) => byte,
        }
    }

    const fn of(byte: u8) -> Kind {
        match byte {
            b'H' => Kind::Header,
            b'P' => Kind::Pages,
            b'M' => Kind::Moment,
            b'E' => Kind::End,
            byte => Kind::Other(byte),
        }
    }
}

/// A chunk's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) key: bool,
    compressed: bool,
    /// Bytes that follow.
    pub(super) stored: usize,
    /// Bytes that they are.
    plain: usize,
    checksum: u32,
}

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum Damage {
    #[error("the chunk's head is damaged (its checksum is {is:#010x}, not {expected:#010x})")]
    Head { expected: u32, is: u32 },
    #[error(
        "the chunk's contents are damaged (their checksum is {is:#010x}, not {expected:#010x})"
    )]
    Contents { expected: u32, is: u32 },
    #[error("the chunk says that it has {0} bytes; none has more than {MAX_BYTES}")]
    Length(usize),
    #[error("the chunk's contents cannot be decompressed")]
    Compression,
    #[error("a chunk of kind `{0}` cannot stand there")]
    Place(char),
    #[error("the chunk makes no sense: {0}")]
    Contradiction(#[from] Malformed),
}

impl Head {
    /// Reads a head; its checksum must be right.
    pub(super) fn read(bytes: &[u8; HEAD_BYTES]) -> Result<Head, Damage> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (expected, is) = (word(16), crc32fast::hash(&bytes[..16]));
        if expected != is {
            return Err(Damage::Head { expected, is });
        }
        let length = |at| {
            let length = usize::try_from(word(at)).unwrap_or(usize::MAX);
            if length > MAX_BYTES {
                return Err(Damage::Length(length));
            }
            Ok(length)
        };
        Ok(Head {
            kind: Kind::of(bytes[0]),
            key: bytes[1] & KEY != 0,
            compressed: bytes[1] & COMPRESSED != 0,
            stored: length(4)?,
            plain: length(8)?,
            checksum: word(12),
        })
    }

    /// Whether `stored`, what follows the head, is what was written.
    pub(super) fn verify(&self, stored: &[u8]) -> Result<(), Damage> {
        let (expected, is) = (self.checksum, crc32fast::hash(stored));
        if expected != is {
            return Err(Damage::Contents { expected, is });
        }
        Ok(())
    }

    /// The contents, of which `stored` is what follows the head.
    pub(super) fn contents(&self, stored: Vec<u8>) -> Result<Vec<u8>, Damage> {
        self.verify(&stored)?;
        if !self.compressed {
            return Ok(stored);
        }
        let mut plain = vec![0; self.plain];
        match lz4_flex::block::decompress_into(&stored, &mut plain) {
            Ok(length) if length == self.plain => Ok(plain),
            _ => Err(Damage::Compression),
        }
    }

    /// The error for a chunk that stands where none of its kind can.
    pub(super) fn misplaced(&self) -> Damage {
        Damage::Place(char::from(self.kind.byte()))
    }
}

/// Appends a chunk to `file`, compressed if that makes it shorter. Contents of more than
/// [`MAX_BYTES`] are refused.
pub(super) fn append(
    file: &mut Vec<u8>,
    kind: Kind,
    key: bool,
    contents: &[u8],
) -> Result<(), Damage> {
    if contents.len() > MAX_BYTES {
        return Err(Damage::Length(contents.len()));
    }
    let start = file.len();
    let body = start + HEAD_BYTES;
    let most = lz4_flex::block::get_maximum_output_size(contents.len());
    file.resize(body + most, 0);
    let shorter = lz4_flex::block::compress_into(contents, &mut file[body..])
        .ok()
        .filter(|length| *length < contents.len());
    file.truncate(body + shorter.unwrap_or(0));
    if shorter.is_none() {
        file.extend(contents);
    }
    let compressed = if shorter.is_some() { COMPRESSED } else { 0 };
    let flags = compressed | if key { KEY } else { 0 };
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    let mut head = [0; HEAD_BYTES];
    head[0] = kind.byte();
    head[1] = flags;
    head[4..8].copy_from_slice(&length(file.len() - body));
    head[8..12].copy_from_slice(&length(contents.len()));
    head[12..16].copy_from_slice(&crc32fast::hash(&file[body..]).to_le_bytes());
    let checksum = crc32fast::hash(&head[..16]).to_le_bytes();
    head[16..].copy_from_slice(&checksum);
    file[start..body].copy_from_slice(&head);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &[u8]) -> Result<(Head, Vec<u8>), Damage> {
        let (head, stored) = file.split_first_chunk().unwrap();
        let head = Head::read(head)?;
        let contents = head.contents(stored.to_vec())?;
        Ok((head, contents))
    }

    #[test]
    fn what_is_appended_is_read_compressed_or_not() {
        for contents in [&b""[..], b"short", &[7; 4096]] {
            let mut file = Vec::new();
            append(&mut file, Kind::Pages, true, contents).unwrap();
            let (head, read) = read(&file).unwrap();
            assert_eq!((head.kind, head.key), (Kind::Pages, true));
            assert_eq!(read, contents);
            assert!(file.len() <= HEAD_BYTES + contents.len());
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut file = Vec::new();
        append(&mut file, Kind::Moment, false, &[1, 2, 3, 4, 5]).unwrap();
        for bit in 0..8 * file.len() {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = read(&damaged).unwrap_err();
            if bit < 8 * HEAD_BYTES {
                assert!(matches!(error, Damage::Head { .. }), "{error}");
            } else {
                assert!(matches!(error, Damage::Contents { .. }), "{error}");
            }
        }
    }

    #[test]
    fn contents_larger_than_any_chunk_are_refused_on_both_sides() {
        let large = vec![0; MAX_BYTES + 1];
        let mut file = Vec::new();
        let refused = append(&mut file, Kind::Pages, false, &large);
        assert_eq!(refused, Err(Damage::Length(MAX_BYTES + 1)));

        append(&mut file, Kind::Pages, false, &large[1..]).unwrap();
        let (_, contents) = read(&file).unwrap();
        assert_eq!(contents.len(), MAX_BYTES);
        file[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let checksum = crc32fast::hash(&file[..16]).to_le_bytes();
        file[16..20].copy_from_slice(&checksum);
        assert_eq!(read(&file), Err(Damage::Length(u32::MAX as usize)));
    }

    #[test]
    fn contents_are_as_long_as_the_head_says_stored_and_decompressed() {
        let contents = [7; 4096];
        for (at, length, expected) in [
            (8, 4096, Ok(())),
            (8, 4095, Err(Damage::Compression)),
            (8, 4097, Err(Damage::Compression)),
            (8, 0, Err(Damage::Compression)),
            (8, MAX_BYTES, Err(Damage::Compression)),
            (8, MAX_BYTES + 1, Err(Damage::Length(MAX_BYTES + 1))),
            (4, MAX_BYTES + 1, Err(Damage::Length(MAX_BYTES + 1))),
        ] {
            let mut file = Vec::new();
            append(&mut file, Kind::Pages, false, &contents).unwrap();
            assert!(file.len() < 100, "it is compressed");
            file[at..at + 4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            let checksum = crc32fast::hash(&file[..16]).to_le_bytes();
            file[16..20].copy_from_slice(&checksum);
            assert_eq!(read(&file).map(|_| ()), expected, "{length} at {at}");
        }
    }
}
