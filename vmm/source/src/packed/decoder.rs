//! One reader for every packing, whose errors tell an end that comes too early from damage.

use std::io::{self, BufRead, BufReader, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder as Lz4;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::Packing;

/// How much is read at once.
const BLOCK: usize = 256 << 10;
/// The largest windows that are kept, which is what the tools take without being told: zstd has 128 MiB for
/// `--long`, xz 64 MiB for `-9`.
const ZSTD_WINDOW: u64 = 128 << 20;
const XZ_KIB: u32 = 66 << 10;

/// What is unpacked.
pub(super) struct Decoder<R: Read>(Form<R>);

enum Form<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Source<R>>>>),
    Xz(Box<XzReader<BufReader<Source<R>>>>),
    Zstd(Box<Zstd<R>>),
    Lz4(Box<Lz4<BufReader<Source<R>>>>),
    Bzip2(MultiBzDecoder<BufReader<Source<R>>>),
}

/// What the decoders read: it remembers how it went.
pub(super) struct Source<R> {
    inner: R,
    read: u64,
    /// The last bytes.
    tail: [u8; 8],
    is_at_end: bool,
    failed: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.inner.read(buffer) {
            Ok(count) => count,
            Err(error) => {
                self.failed = error.kind() != io::ErrorKind::Interrupted;
                return Err(error);
            }
        };
        self.is_at_end |= count == 0 && !buffer.is_empty();
        self.read += count as u64;
        for byte in &buffer[count.saturating_sub(8)..count] {
            self.tail.rotate_left(1);
            self.tail[7] = *byte;
        }
        Ok(count)
    }
}

struct Zstd<R: Read> {
    source: BufReader<Source<R>>,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: Read> Decoder<R> {
    pub(super) fn plain(inner: R) -> Decoder<R> {
        Decoder(Form::Plain(Source::new(inner)))
    }

    pub(super) fn new(packing: Packing, inner: R) -> Decoder<R> {
        let source = BufReader::with_capacity(BLOCK, Source::new(inner));
        Decoder(match packing {
            Packing::Gzip => Form::Gzip(Box::new(MultiGzDecoder::new(source))),
            Packing::Xz => Form::Xz(Box::new(XzReader::new_mem_limit(source, true, XZ_KIB))),
            Packing::Zstd => {
                let mut decoder = FrameDecoder::new();
                decoder.set_max_window_size(ZSTD_WINDOW);
                Form::Zstd(Box::new(Zstd {
                    source,
                    decoder,
                    in_frame: false,
                }))
            }
            Packing::Lz4 => Form::Lz4(Box::new(Lz4::new(source))),
            Packing::Bzip2 => Form::Bzip2(MultiBzDecoder::new(source)),
        })
    }

    fn source(&self) -> &Source<R> {
        match &self.0 {
            Form::Plain(source) => source,
            Form::Gzip(decoder) => decoder.get_ref().get_ref(),
            Form::Xz(decoder) => decoder.inner().get_ref(),
            Form::Zstd(decoder) => decoder.source.get_ref(),
            Form::Lz4(decoder) => decoder.get_ref().get_ref(),
            Form::Bzip2(decoder) => decoder.get_ref().get_ref(),
        }
    }

    /// How many packed bytes were read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.source().read
    }

    /// Whether an error means no more than that there is nothing behind this.
    pub(super) fn ended_early(&self) -> bool {
        self.source().is_at_end && !self.source().failed
    }

    /// Whether what was packed could not be read at all.
    pub(super) fn source_failed(&self) -> bool {
        self.source().failed
    }

    /// Whether the packed bytes end where they should, now that the last one was read without an error.
    pub(super) fn is_whole(&self) -> bool {
        const LEGACY: u64 = 8;
        match &self.0 {
            // Its decoder takes an end between two blocks for the end; a frame has a mark there, and perhaps a
            // checksum. Frames of the first version have neither.
            Form::Lz4(_) => {
                let tail = &self.source().tail;
                self.source().read < LEGACY || tail[4..] == [0; 4] || tail[..4] == [0; 4]
            }
            _ => true,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Form::Plain(source) => source.read(buffer),
            Form::Gzip(decoder) => decoder.read(buffer),
            Form::Xz(decoder) => decoder.read(buffer),
            Form::Zstd(decoder) => decoder.read(buffer),
            Form::Bzip2(decoder) => decoder.read(buffer),
            // It ends with each frame.
            Form::Lz4(decoder) => loop {
                let count = decoder.read(buffer)?;
                if count > 0 || buffer.is_empty() || decoder.get_ref().get_ref().is_at_end {
                    return Ok(count);
                }
            },
        }
    }
}

impl<R> Source<R> {
    fn new(inner: R) -> Source<R> {
        Source {
            inner,
            read: 0,
            tail: [1; 8],
            is_at_end: false,
            failed: false,
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.decoder.can_collect() > 0 && self.in_frame {
                return self.decoder.read(buffer);
            }
            if !self.in_frame {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                match self.decoder.reset(&mut self.source) {
                    Ok(()) => self.in_frame = true,
                    Err(FrameDecoderError::ReadFrameHeaderError(
                        ReadFrameHeaderError::SkipFrame { length, .. },
                    )) => {
                        let length = u64::from(length);
                        let skipped =
                            io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                        if skipped < length {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
                continue;
            }
            if self.decoder.is_finished() {
                let told = self.decoder.get_checksum_from_data();
                if told.is_some() && told != self.decoder.get_calculated_checksum() {
                    return Err(io::Error::other("its checksum is another"));
                }
                self.in_frame = false;
                continue;
            }
            let strategy = BlockDecodingStrategy::UptoBlocks(1);
            let decoded = self.decoder.decode_blocks(&mut self.source, strategy);
            decoded.map_err(io::Error::other)?;
        }
    }
}
