//! Guest memory in a file.
//!
//! Someone may cut a file while it is read. Single tables are read by `pread`, which returns less then. For
//! looking through all of memory (`read_column`), which takes one word of each page, the file is mapped:
//! copying whole blocks took four times as long (of 512 MiB in the page cache, the search for roots took
//! 80 ms with a mapping and 340 ms by blocks of 256 KiB). What is mapped by then needs no `pread`. A mapped page
//! that is gone is read as zero ([`super::guard`]). Either way it is known where something was missing.
//!
//! - Holes of a sparse file, a memfd among them, are found first (`SEEK_DATA`), and read as zero without
//!   being touched: reading a hole through a mapping fills it with pages, and a live guest would grow by
//!   all the RAM it never used.
//! - A page that is touched for the first time costs a fault, which maps its neighbours, too. Asking for 4 MiB at a
//!   time (`MADV_POPULATE_READ`) took longer: a tenth of the time of `check` of 512 MiB.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use heirloom_inspect::Entry;
use heirloom_inspect::paging::addr::PAGE_SIZE;
use nix::unistd::{Whence, lseek};

use super::guard::Guarded;
use crate::input::Input;

/// A file with more pieces between holes is taken to have no more holes behind them.
const EXTENTS: usize = 1 << 16;
/// Of so much at a time it is asked whether the file still has it.
const WINDOW: u64 = 4 << 20;
/// Of a file that cannot be mapped, a column is read in blocks of this size.
const BLOCK: usize = 256 << 10;

/// A file whose bytes are guest memory.
#[derive(Debug)]
pub(crate) struct FileSource {
    input: Input,
    /// Where the file has data, ascending; all the rest are holes.
    data: Vec<Range<u64>>,
    /// `None` if it cannot be mapped.
    map: Option<Guarded>,
    /// Which windows of [`WINDOW`] bytes, data as a whole, have been looked through by the mapping.
    touched: Box<[AtomicBool]>,
}

impl FileSource {
    /// The first `length` bytes of `file`; it must have them.
    pub(crate) fn new(file: File, length: u64) -> FileSource {
        FileSource::of(Input::of(file, length))
    }

    /// All bytes of `input`.
    pub(crate) fn of(input: Input) -> FileSource {
        let length = input.length();
        let (data, map) = match input.plain() {
            Some(file) => (data_of(file, length), Guarded::new(file, length)),
            None => (std::iter::once(0..length).collect(), None),
        };
        let windows = map.as_ref().map_or(0, |map| map.len().div_ceil(4 << 20));
        FileSource {
            input,
            data,
            map,
            touched: (0..windows).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Fills `buffer` from `offset` on: whether the file has all of it.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.copy_mapped(offset, buffer) || self.input.read(offset, buffer)
    }

    /// Fills `buffer` out of a window that is mapped already, and is data whole: `false` if it is not, or the file
    /// is shorter by now.
    fn copy_mapped(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let end = offset.saturating_add(buffer.len() as u64);
        let inside = |map: &&Guarded| end <= map.len() as u64;
        let Some(map) = self.map.as_ref().filter(inside) else {
            return false;
        };
        let window = offset / WINDOW;
        let is_one = end.saturating_sub(1) / WINDOW == window;
        let is_touched = || {
            let done = usize::try_from(window).ok();
            let done = done.and_then(|window| self.touched.get(window));
            done.is_some_and(|done| done.load(Ordering::Relaxed))
        };
        match usize::try_from(offset) {
            Ok(from) if is_one && is_touched() => map.copy(from, buffer),
            _ => return false,
        }
        map.lost_at().is_none()
    }

    /// Whether pages of it may be there and not be readable.
    pub(super) fn is_live(&self) -> bool {
        self.input.is_live()
    }

    /// The first offset that the file has lost since it was opened.
    pub(super) fn lost_at(&self) -> Option<u64> {
        let mapped = self.map.as_ref().and_then(Guarded::lost_at);
        mapped.into_iter().chain(self.input.lost_at()).min()
    }

    /// Reads the words at `offset`, `offset` + 4096 and so on; what the file does not have is zero.
    pub(crate) fn read_column(&self, mut offset: u64, mut entries: &mut [Entry]) {
        while !entries.is_empty() {
            let (is_data, extent) = self.extent_at(offset);
            // Window by window, as far as each is data.
            let window = offset / WINDOW * WINDOW;
            let part = extent.start.max(window)..extent.end.min(window.saturating_add(WINDOW));
            // Words behind the end of the file are absent as those in a hole.
            let words = part.end.saturating_sub(offset).div_ceil(PAGE_SIZE).max(1);
            let here = usize::try_from(words)
                .unwrap_or(usize::MAX)
                .min(entries.len());
            let (now, later) = entries.split_at_mut(here);
            if is_data {
                self.read_window(offset, part, now);
            } else {
                now.fill(Entry::ABSENT);
            }
            offset = offset.saturating_add(here as u64 * PAGE_SIZE);
            entries = later;
        }
    }

    /// [`FileSource::read_column`] for words that begin at `offset` and behind it in `part`, which lies in one
    /// window and is data.
    fn read_window(&self, offset: u64, part: Range<u64>, entries: &mut [Entry]) {
        let end = part.end;
        let Some(map) = self.map.as_ref().filter(|_| self.has(part)) else {
            return self.read_blocks(offset, entries);
        };
        for (at, entry) in (offset..).step_by(4096).zip(entries) {
            let mut word = [0; 8];
            // A word that reaches over the end of data or of the file is put together by `read`.
            match usize::try_from(at) {
                Ok(place) if at + 8 <= end => map.copy(place, &mut word),
                _ if self.read(at, &mut word) => {}
                _ => word = [0; 8],
            }
            *entry = Entry::new(u64::from_le_bytes(word));
        }
    }

    /// Words 4096 bytes apart by system calls: large ones, since these are bound by their number.
    fn read_blocks(&self, offset: u64, entries: &mut [Entry]) {
        let mut block = vec![0; BLOCK.min(entries.len().saturating_mul(4096))];
        let mut at = offset;
        for part in entries.chunks_mut(BLOCK / 4096) {
            let want = (part.len() - 1) * 4096 + 8;
            let have = self.input.read_as_far_as_possible(at, &mut block[..want]);
            for (number, entry) in part.iter_mut().enumerate() {
                // What is behind the part that could be read is absent, not what the block held before.
                *entry = match block[..have].get(number * 4096..number * 4096 + 8) {
                    Some(word) => {
                        let word = word.first_chunk().copied().unwrap_or_default();
                        Entry::new(u64::from_le_bytes(word))
                    }
                    None => Entry::ABSENT,
                };
            }
            at += part.len() as u64 * PAGE_SIZE;
        }
    }

    /// Whether the file still has a part of a window, or it was touched before. Each page that a file has lost since it
    /// was mapped costs a signal.
    fn has(&self, part: Range<u64>) -> bool {
        let window = part.start / WINDOW;
        let done = usize::try_from(window).ok();
        let Some(done) = done.and_then(|window| self.touched.get(window)) else {
            return false;
        };
        if done.load(Ordering::Relaxed) {
            return true;
        }
        let now = self.input.plain().and_then(|file| file.metadata().ok());
        if now.is_none_or(|now| now.is_file() && now.len() < part.end) {
            return false;
        }
        let last = ((window + 1) * WINDOW).min(self.input.length());
        let is_all = part.start <= window * WINDOW && part.end == last;
        done.store(is_all, Ordering::Relaxed);
        true
    }

    /// The parts of `range` in which the file has data, ascending.
    pub(super) fn data_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let first = self
            .data
            .partition_point(|extent| extent.end <= range.start);
        let behind = self.data.iter().skip(first);
        let within = behind.take_while(|extent| extent.start < range.end);
        within
            .map(|extent| extent.start.max(range.start)..extent.end.min(range.end))
            .collect()
    }

    /// Whether `offset` is in data, and from where to where that is so; of a hole from `offset` on.
    fn extent_at(&self, offset: u64) -> (bool, Range<u64>) {
        let next = self.data.partition_point(|extent| extent.end <= offset);
        match self.data.get(next) {
            Some(extent) if extent.start <= offset => (true, extent.clone()),
            Some(extent) => (false, offset..extent.start),
            None => (false, offset..u64::MAX),
        }
    }
}

/// The parts of the file that are no holes. Of a file system that cannot tell, the whole file.
fn data_of(file: &File, length: u64) -> Vec<Range<u64>> {
    let seek = |from: u64, whence| -> nix::Result<u64> {
        let from = i64::try_from(from).map_err(|_| nix::Error::EINVAL)?;
        lseek(file, from, whence).map(i64::cast_unsigned)
    };
    let mut data: Vec<Range<u64>> = Vec::new();
    let mut from = 0;
    while from < length {
        if data.len() == EXTENTS {
            data.push(from..length);
            break;
        }
        match seek(from, Whence::SeekData) {
            Ok(start) if start < length => {
                let end = match seek(start, Whence::SeekHole) {
                    Ok(end) if end > start => end.min(length),
                    _ => length,
                };
                data.push(start..end);
                from = end;
            }
            // Nothing but a hole up to the end.
            Ok(_) | Err(nix::Error::ENXIO) => break,
            Err(_) => {
                data.push(from..length);
                break;
            }
        }
    }
    data
}
