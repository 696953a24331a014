//! The bytes of a dump: a file as it is, or put together from makedumpfile's flattened form.
//!
//! All reading is by `pread`: a file that is cut while it is read ends no process with SIGBUS, and
//! what it lost is known by its offset ([`Input::lost_at`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use heirloom_inspect::PhysAddr;
use nix::unistd::{Whence, lseek};

use crate::file::{self, FileError};
use crate::memory::Layout;

/// No byte was missing so far.
const NONE: u64 = u64::MAX;

/// A file that is read at any place.
#[derive(Debug)]
pub(crate) struct Input {
    file: File,
    /// Of the file.
    length: u64,
    /// Where bytes stand in the file; `None`: where they are asked for.
    pieces: Option<Layout>,
    /// The first offset that the file should have and does not.
    lost: AtomicU64,
    /// There was more, of which nothing is known.
    is_cut: bool,
    /// It is memory in use: pages may be there and not be readable.
    is_live: bool,
}

impl Input {
    /// Opens `path`, which holds a `wanted`.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn open(path: &Path, wanted: &'static str) -> Result<Input, FileError> {
        let (file, length) = file::open(path, wanted)?;
        Ok(Input::of(file, length))
    }

    /// `file`, which has `length` bytes.
    pub(crate) fn of(file: File, length: u64) -> Input {
        Input {
            file,
            length,
            pieces: None,
            lost: AtomicU64::new(NONE),
            is_cut: false,
            is_live: false,
        }
    }

    /// The same, which is memory in use.
    pub(crate) fn live(self) -> Input {
        Input {
            is_live: true,
            ..self
        }
    }

    /// Whether it is memory in use.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// The same, of which it is known that it ends too early.
    pub(crate) fn cut(self) -> Input {
        Input {
            is_cut: true,
            ..self
        }
    }

    /// Whether it is known to end too early.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Reads from `at` on.
    pub(crate) fn reader_at(&self, at: u64) -> Cursor<'_> {
        Cursor { input: self, at }
    }

    /// The same file, whose bytes stand where `pieces` say.
    pub(crate) fn rearranged(self, pieces: Layout) -> Input {
        Input {
            pieces: Some(pieces),
            ..self
        }
    }

    /// The file, if bytes stand in it where they are asked for.
    pub(crate) fn plain(&self) -> Option<&File> {
        self.pieces.is_none().then_some(&self.file)
    }

    /// First offset behind all bytes.
    pub(crate) fn length(&self) -> u64 {
        match &self.pieces {
            Some(pieces) => pieces.end(),
            None => self.length,
        }
    }

    /// Fills `buffer` from `offset` on: whether all of it is there. In a file that was put together, what
    /// nothing was written to is zero, as in a hole of a file.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length()) {
            return false;
        }
        let Some(pieces) = &self.pieces else {
            return self.read_file(offset, buffer) == buffer.len();
        };
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let piece = pieces.at_or_behind(PhysAddr::new(at));
            let (here, is_written) = match piece {
                Some(piece) if piece.start().get() <= at => (piece.end() - at, true),
                Some(piece) => (piece.start().get() - at, false),
                None => (u64::MAX, false),
            };
            let here = usize::try_from(here).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(here);
            match piece.filter(|_| is_written) {
                Some(piece) => {
                    if self.read_file(piece.offset_of(PhysAddr::new(at)), now) < now.len() {
                        return false;
                    }
                }
                None => now.fill(0),
            }
            at += here as u64;
            rest = later;
        }
        true
    }

    /// Reads from `offset` on until the buffer is full or the input ends: how many bytes.
    pub(crate) fn read_as_far_as_possible(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let there = usize::try_from(self.length().saturating_sub(offset)).unwrap_or(usize::MAX);
        let buffer = match buffer.len() {
            length if length > there => &mut buffer[..there],
            _ => buffer,
        };
        match self.pieces {
            None => self.read_file(offset, buffer),
            Some(_) if self.read(offset, buffer) => buffer.len(),
            Some(_) => 0,
        }
    }

    /// How many bytes of the file from `offset` on could be read.
    fn read_file(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let mut have = 0;
        while have < buffer.len() {
            let at = offset.saturating_add(have as u64);
            match self.file.read_at(&mut buffer[have..], at) {
                Ok(more) if more > 0 => have += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It had these bytes when it was opened, or a header says that it has.
                _ => {
                    if at < self.length && !self.is_live {
                        self.lost.fetch_min(at, Ordering::Relaxed);
                    }
                    break;
                }
            }
        }
        have
    }

    /// The first offset that the file had when it was opened, and that could not be read since.
    pub(crate) fn lost_at(&self) -> Option<u64> {
        Some(self.lost.load(Ordering::Relaxed)).filter(|at| *at != NONE)
    }

    /// As much of the beginning as it takes to tell what it is.
    pub(crate) fn start(&self) -> Vec<u8> {
        let mut start = vec![0; 4096];
        let have = self.read_as_far_as_possible(0, &mut start);
        start.truncate(have);
        start
    }

    /// How many bytes from `offset` on are a hole of a sparse file.
    pub(crate) fn hole_at(&self, offset: u64) -> u64 {
        let Some(from) = i64::try_from(offset).ok().filter(|_| self.pieces.is_none()) else {
            return 0;
        };
        match lseek(&self.file, from, Whence::SeekData) {
            Ok(data) => data.cast_unsigned().saturating_sub(offset),
            Err(nix::Error::ENXIO) => self.length.saturating_sub(offset),
            Err(_) => 0,
        }
    }

    /// `length` bytes from `offset` on; `None` if they are not there.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let end = offset.checked_add(length as u64)?;
        if end > self.length() {
            return None;
        }
        let mut bytes = vec![0; length];
        self.read(offset, &mut bytes).then_some(bytes)
    }
}

/// A part of an input, read in blocks where one part is asked for after the other.
#[derive(Debug, Default)]
pub(crate) struct Window {
    start: u64,
    bytes: Vec<u8>,
    /// Where the last part that was asked for ended.
    last: u64,
}

impl Window {
    /// `length` bytes of `input` from `offset` on. Up to `block` bytes are read at once.
    pub(crate) fn get(
        &mut self,
        input: &Input,
        offset: u64,
        length: usize,
        block: usize,
    ) -> Option<&[u8]> {
        let end = offset.checked_add(length as u64)?;
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            // Few bytes are skipped between parts that follow one another.
            let follows = self.last <= offset && offset - self.last < block as u64 / 4;
            let want = if follows { block.max(length) } else { length };
            let there = input.length().checked_sub(offset)?;
            let want = usize::try_from(there).unwrap_or(usize::MAX).min(want);
            if want < length {
                return None;
            }
            self.bytes.resize(want, 0);
            self.start = offset;
            if !input.read(offset, &mut self.bytes) {
                self.bytes.clear();
                return None;
            }
        }
        self.last = end;
        let from = usize::try_from(offset - self.start).ok()?;
        self.bytes.get(from..from + length)
    }
}

/// An input read from one place on.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    input: &'a Input,
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(input: &'a Input) -> Cursor<'a> {
        Cursor { input, at: 0 }
    }
}

impl io::Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let have = self.input.read_as_far_as_possible(self.at, buffer);
        self.at += have as u64;
        Ok(have)
    }
}

impl io::Seek for Cursor<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
            io::SeekFrom::End(by) => self.input.length().checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
