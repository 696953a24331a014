//! The chunks of a recording, taken apart and put together as the format has it.

/// One chunk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chunk {
    /// Where it starts in the file.
    pub(crate) start: usize,
    /// Its bytes in the file.
    pub(crate) bytes: usize,
    pub(crate) kind: u8,
    /// It stands for itself.
    pub(crate) key: bool,
    /// Decompressed.
    pub(crate) contents: Vec<u8>,
}

impl Chunk {
    pub(crate) fn new(kind: u8, key: bool, contents: Vec<u8>) -> Chunk {
        Chunk {
            start: 0,
            bytes: 20 + contents.len(),
            kind,
            key,
            contents,
        }
    }
}

/// The chunks of a file.
pub(crate) fn split(file: &[u8]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut start = 12;
    while start < file.len() {
        let word = |at: usize| {
            let bytes = file[start + at..start + at + 4].try_into().unwrap();
            u32::from_le_bytes(bytes) as usize
        };
        let (stored, plain) = (word(4), word(8));
        let body = &file[start + 20..start + 20 + stored];
        let flags = file[start + 1];
        chunks.push(Chunk {
            start,
            bytes: 20 + stored,
            kind: file[start],
            key: flags & 2 != 0,
            contents: match flags & 1 {
                0 => body.to_vec(),
                _ => lz4_flex::block::decompress(body, plain).unwrap(),
            },
        });
        start += 20 + stored;
    }
    chunks
}

/// A file of these chunks, not compressed, with the right checksums.
pub(crate) fn join(chunks: &[Chunk]) -> Vec<u8> {
    let mut file = b"\x89hlrec\r\n\x01\0\0\0".to_vec();
    for chunk in chunks {
        let mut head = vec![chunk.kind, u8::from(chunk.key) << 1, 0, 0];
        let length = u32::try_from(chunk.contents.len()).unwrap().to_le_bytes();
        head.extend(length);
        head.extend(length);
        head.extend(crc32fast::hash(&chunk.contents).to_le_bytes());
        head.extend(crc32fast::hash(&head).to_le_bytes());
        file.extend(head);
        file.extend(&chunk.contents);
    }
    file
}
