//! Guest memory in a file: mapped into our address space, so that reading a table is one copy.
//!
//! Three things about mappings of files:
//!
//! - Someone may cut the file while it is mapped; touching a page behind its new end would then end
//!   this process with SIGBUS. Lengths are taken once, when the file is opened, and nothing behind
//!   them is touched; looking through all of memory (`read_column`) asks the kernel for the pages first,
//!   which fails instead. What remains is a file that shrinks while single tables of it are read.
//!   QEMU's own memory files are sealed against shrinking; do not shorten a core that is being read.
//! - A hole in a file in memory (tmpfs, memfd) would be filled with pages by reading it through a
//!   mapping, and a live guest would grow by all the RAM it never touched. Holes are found first
//!   (`SEEK_DATA`), and read as zero without being touched.
//! - A page that is touched for the first time costs a fault, and most of the time of looking through
//!   all of memory. They are asked for 4 MiB at a time (`MADV_POPULATE_READ`), by several threads:
//!   of 512 MiB in the page cache the first column took 52 ms by single faults, 40 ms by
//!   `MAP_POPULATE`, 21 ms by two threads that populate, and each further one 1.6 ms, on a host
//!   whose page faults are slow. `pread` of large blocks took 13 ms, every time.
#![expect(unsafe_code, reason = "mapped memory is read through pointers")]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use heirloom_inspect::Entry;
use heirloom_inspect::paging::addr::PAGE_SIZE;
use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::unistd::{Whence, lseek};

/// How much is populated at once.
const WINDOW: u64 = 4 << 20;
/// A file with more pieces between holes is taken to have no more holes behind them.
const EXTENTS: usize = 1 << 16;
/// Of a file that cannot be mapped, a column is read in blocks of this size.
const BLOCK: usize = 256 << 10;

/// A file whose bytes are guest memory.
#[derive(Debug)]
pub(crate) struct FileSource {
    file: File,
    length: u64,
    /// `None` if it cannot be mapped; then it is read call by call.
    map: Option<MmapRaw>,
    /// Where the file has data, ascending; all the rest are holes.
    data: Vec<Range<u64>>,
    /// Which windows of [`WINDOW`] bytes have been populated.
    populated: Box<[AtomicBool]>,
}

impl FileSource {
    /// The first `length` bytes of `file`; it must have them.
    pub(crate) fn new(file: File, length: u64) -> FileSource {
        let map = map(&file, length);
        let windows = match &map {
            Some(map) => map.len().div_ceil(4 << 20),
            None => 0,
        };
        FileSource {
            data: data_of(&file, length),
            populated: (0..windows).map(|_| AtomicBool::new(false)).collect(),
            file,
            length,
            map,
        }
    }

    /// Fills `buffer` from `offset` on: whether the file has all of it.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return false;
        }
        let (mut from, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (is_data, end) = self.extent_at(from);
            let here = usize::try_from(end - from)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (now, later) = rest.split_at_mut(here);
            if !is_data {
                now.fill(0);
            } else if let Some(map) = &self.map {
                copy(map, from, now);
            } else if self.file.read_exact_at(now, from).is_err() {
                return false;
            }
            from += here as u64;
            rest = later;
        }
        true
    }

    /// Reads the words at `offset`, `offset` + 4096 and so on; what the file does not have is zero.
    pub(crate) fn read_column(&self, mut offset: u64, mut entries: &mut [Entry]) {
        while !entries.is_empty() {
            if offset >= self.length {
                return entries.fill(Entry::ABSENT);
            }
            let (is_data, end) = self.extent_at(offset);
            // Up to the window's end, too: it is populated first.
            let end = end.min((offset / WINDOW + 1) * WINDOW);
            let words = (end - offset).div_ceil(PAGE_SIZE);
            let here = usize::try_from(words)
                .unwrap_or(usize::MAX)
                .min(entries.len());
            let (now, later) = entries.split_at_mut(here);
            if is_data {
                self.read_window(offset, end, now);
            } else {
                now.fill(Entry::ABSENT);
            }
            offset += here as u64 * PAGE_SIZE;
            entries = later;
        }
    }

    /// [`FileSource::read_column`] for words that begin between `offset` and `end`, in one window and
    /// in data.
    fn read_window(&self, offset: u64, end: u64, entries: &mut [Entry]) {
        let Some(map) = &self.map else {
            return self.read_blocks(offset, entries);
        };
        if !self.populate(map, offset, end) {
            return self.read_blocks(offset, entries);
        }
        for (at, entry) in (offset..).step_by(4096).zip(entries) {
            let mut word = [0; 8];
            // A word that reaches over the end of data or of the file is put together by `read`.
            if at + 8 <= end {
                copy(map, at, &mut word);
            } else {
                self.read(at, &mut word);
            }
            *entry = Entry::new(u64::from_le_bytes(word));
        }
    }

    /// Words 4096 bytes apart by system calls: large ones, since these are bound by their number.
    fn read_blocks(&self, offset: u64, entries: &mut [Entry]) {
        let mut block = vec![0; BLOCK.min(entries.len().saturating_mul(4096))];
        let mut at = offset;
        for part in entries.chunks_mut(BLOCK / 4096) {
            let want = ((part.len() - 1) * 4096 + 8).min(block.len());
            let have = read_as_far_as_possible(&self.file, at, &mut block[..want]);
            for (word, entry) in block[..want].chunks(4096).zip(part.iter_mut()) {
                *entry = match word.first_chunk() {
                    Some(bytes) => Entry::new(u64::from_le_bytes(*bytes)),
                    None => Entry::ABSENT,
                };
            }
            // What is behind the part that could be read is absent, not what the block held before.
            let read = have.saturating_sub(7).div_ceil(4096).min(part.len());
            part[read..].fill(Entry::ABSENT);
            at += part.len() as u64 * PAGE_SIZE;
        }
    }

    /// Makes the kernel map the window around `offset..end`, once: `false` if it cannot, because the
    /// file is shorter by now.
    fn populate(&self, map: &MmapRaw, offset: u64, end: u64) -> bool {
        let window = offset / WINDOW;
        let Some(done) = usize::try_from(window)
            .ok()
            .and_then(|window| self.populated.get(window))
        else {
            return false;
        };
        if done.load(Ordering::Relaxed) {
            return true;
        }
        // Not the whole window: a hole in it must stay a hole.
        let start = offset & !(PAGE_SIZE - 1);
        let (Ok(from), Ok(length)) = (usize::try_from(start), usize::try_from(end - start)) else {
            return false;
        };
        match map.advise_range(Advice::PopulateRead, from, length) {
            Ok(()) => {
                // Only if that was all of the window is there nothing left to do.
                let whole =
                    start <= window * WINDOW && end == ((window + 1) * WINDOW).min(self.length);
                done.store(whole, Ordering::Relaxed);
                true
            }
            // Linux before 5.14 does not know the advice; pages then come by faults.
            Err(error) => error.raw_os_error() == Some(nix::libc::EINVAL),
        }
    }

    /// Whether `offset` is in data, and where that ends or data begins.
    fn extent_at(&self, offset: u64) -> (bool, u64) {
        let next = self.data.partition_point(|extent| extent.end <= offset);
        match self.data.get(next) {
            Some(extent) if extent.start <= offset => (true, extent.end),
            Some(extent) => (false, extent.start),
            None => (false, self.length),
        }
    }
}

/// Maps the file, read only. Shared: a private mapping of huge pages would reserve them again.
fn map(file: &File, length: u64) -> Option<MmapRaw> {
    let length = usize::try_from(length).ok()?;
    MmapOptions::new()
        .len(length)
        .map_raw_read_only(file)
        .inspect_err(|error| log::debug!("a file of guest memory is read, not mapped: {error}"))
        .ok()
}

/// Copies mapped bytes from `offset` on; the caller has checked that they lie in the file.
fn copy(map: &MmapRaw, offset: u64, buffer: &mut [u8]) {
    let Ok(offset) = usize::try_from(offset) else {
        return;
    };
    assert!(
        offset
            .checked_add(buffer.len())
            .is_some_and(|end| end <= map.len()),
        "callers stay inside the file"
    );
    // SAFETY: `offset..offset + buffer.len()` lies inside the mapping, as was just asserted, and the
    // mapping lives as long as `map`. `buffer` is ours alone, so the two do not overlap. No reference
    // to the mapped bytes is made, since others may write them.
    unsafe {
        std::ptr::copy_nonoverlapping(map.as_ptr().add(offset), buffer.as_mut_ptr(), buffer.len());
    }
}

/// Reads until the buffer is full, the file ends, or reading fails: how many bytes.
fn read_as_far_as_possible(file: &File, offset: u64, buffer: &mut [u8]) -> usize {
    let mut have = 0;
    while have < buffer.len() {
        match file.read_at(&mut buffer[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    have
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
