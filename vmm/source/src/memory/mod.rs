//! Guest-physical memory that lies in pieces over files and processes.

mod file;
mod guard;
mod layout;
mod paged;
mod process;
mod sketch;

use std::ops::Range;

use heirloom_inspect::memory::Account;
use heirloom_inspect::paging::addr::PAGE_SIZE;
use heirloom_inspect::{Entry, MemoryError, Pfn, PhysAddr, PhysRange, PhysicalMemory};

use crate::input::Input;

pub(crate) use file::FileSource;
pub(crate) use layout::{ADDRESS_LIMIT, Layout, Piece, RAM_LIMIT};
pub(crate) use paged::{Format, Found, PAGE, Page, Paged, PagedSource};
pub(crate) use process::ProcessSource;

/// Where bytes of guest memory come from.
#[derive(Debug)]
pub(crate) enum Source {
    File(FileSource),
    /// Pages that are unpacked when they are read; offsets are guest-physical addresses.
    Paged(Box<dyn PagedSource>),
    Process(ProcessSource),
    /// RAM that was zero, or was not saved, when the guest was written to a file.
    Zeros,
}

impl Source {
    /// `file`, `length` bytes of it.
    pub(crate) fn file(file: std::fs::File, length: u64) -> Source {
        Source::File(FileSource::new(file, length))
    }

    /// All bytes of `input`.
    pub(crate) fn input(input: Input) -> Source {
        Source::File(FileSource::of(input))
    }

    /// Fills `buffer` from `offset` on: whether all of it is there.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        match self {
            Source::File(file) => file.read(offset, buffer),
            Source::Paged(pages) => pages.read(offset, buffer),
            Source::Process(process) => process.read(offset, buffer),
            Source::Zeros => {
                buffer.fill(0);
                true
            }
        }
    }

    /// Where the `bytes` bytes from `offset` on may be other than zero.
    fn data_in(&self, offset: u64, bytes: u64) -> Vec<Range<u64>> {
        let all = offset..offset.saturating_add(bytes);
        match self {
            Source::File(file) => file.data_in(all),
            Source::Paged(_) | Source::Process(_) => vec![all],
            Source::Zeros => Vec::new(),
        }
    }

    /// Reads the words at `offset`, `offset` + 4096 and so on; `links`: only those that lead to tables matter.
    fn read_column(&self, offset: u64, entries: &mut [Entry], links: bool) {
        match self {
            Source::Paged(pages) if links => pages.read_links(offset, entries),
            Source::File(file) => file.read_column(offset, entries),
            Source::Paged(pages) => pages.read_column(offset, entries),
            Source::Process(process) => process.read_column(offset, entries),
            Source::Zeros => entries.fill(Entry::ABSENT),
        }
    }

    /// Whether pages of it may be missing, which are RAM.
    fn is_partial(&self) -> bool {
        match self {
            Source::Paged(_) => true,
            Source::File(file) => file.is_live(),
            Source::Process(_) | Source::Zeros => false,
        }
    }

    /// The first offset that the file has lost since it was opened.
    fn lost_at(&self) -> Option<u64> {
        match self {
            Source::File(file) => file.lost_at(),
            Source::Paged(pages) => pages.lost_at(),
            Source::Process(_) | Source::Zeros => None,
        }
    }
}

/// The memory of a guest.
#[derive(Debug)]
pub(crate) struct Memory {
    layout: Layout,
    sources: Vec<Source>,
    /// RAM that the guest has and no source.
    left_out: Vec<PhysRange>,
    /// Nobody says whether there is more.
    is_open_ended: bool,
    /// The hypervisor that wrote it may have been asked for a part of RAM.
    may_be_a_part: bool,
}

impl Memory {
    /// Memory whose pieces name `sources` by their index.
    pub(crate) fn new(layout: Layout, sources: Vec<Source>) -> Memory {
        let mut memory = Memory {
            layout,
            sources,
            left_out: Vec::new(),
            is_open_ended: false,
            may_be_a_part: false,
        };
        memory.tell_the_end();
        memory
    }

    /// The same, of a guest that may have more RAM if `is_open_ended`.
    pub(crate) fn open_ended(self, is_open_ended: bool) -> Memory {
        Memory {
            is_open_ended,
            ..self
        }
    }

    /// The same, which a hypervisor may have written a part of if `may_be_a_part`.
    pub(crate) fn perhaps_a_part(self, may_be_a_part: bool) -> Memory {
        Memory {
            may_be_a_part,
            ..self
        }
    }

    /// The same, of a guest that has `left_out`, too.
    pub(crate) fn without(self, left_out: Vec<PhysRange>) -> Memory {
        let mut memory = Memory { left_out, ..self };
        memory.tell_the_end();
        memory
    }

    /// Tells sources where the guest's RAM ends.
    fn tell_the_end(&mut self) {
        let lost = self.left_out.iter().map(|range| range.end().get()).max();
        let end = self.layout.end().max(lost.unwrap_or(0));
        for source in &mut self.sources {
            if let Source::Paged(pages) = source {
                pages.ends_at(end);
            }
        }
    }

    /// [`PhysicalMemory::read_column`], piece by piece; `links`: only those that lead to tables matter.
    fn read_column_of(&self, mut first: Pfn, index: u16, mut entries: &mut [Entry], links: bool) {
        while !entries.is_empty() {
            let at = first.base().wrapping_add(8 * u64::from(index));
            let Some(piece) = self.layout.at_or_behind(at) else {
                return entries.fill(Entry::ABSENT);
            };
            let here = if piece.start() > at {
                // Words that begin in the hole in front of it.
                let words = (piece.start().get() - at.get()).div_ceil(PAGE_SIZE);
                let here = take(words, entries.len());
                entries[..here].fill(Entry::ABSENT);
                here
            } else {
                // Words that lie in the piece whole.
                let words = (piece.end() - at.get())
                    .saturating_sub(7)
                    .div_ceil(PAGE_SIZE);
                let here = take(words, entries.len());
                if let Some(source) = self.sources.get(piece.source())
                    && here > 0
                {
                    source.read_column(piece.offset_of(at), &mut entries[..here], links);
                    here
                } else {
                    // One that reaches over the piece's end.
                    entries[0] = self.read_entry(first, index).unwrap_or(Entry::ABSENT);
                    1
                }
            };
            entries = &mut entries[here..];
            first = Pfn::new(first.get().wrapping_add(here as u64));
        }
    }
}

/// As many as there are, at most `room`.
fn take(available: u64, room: usize) -> usize {
    usize::try_from(available).unwrap_or(usize::MAX).min(room)
}

impl PhysicalMemory for Memory {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        let failed = || MemoryError { at, length };
        let (mut from, mut rest) = (at, buffer);
        while !rest.is_empty() {
            let piece = self.layout.at_or_behind(from).ok_or_else(failed)?;
            if piece.start() > from {
                return Err(failed());
            }
            let here = take(piece.end() - from.get(), rest.len());
            let (now, later) = rest.split_at_mut(here);
            let source = self.sources.get(piece.source()).ok_or_else(failed)?;
            if !source.read(piece.offset_of(from), now) {
                return Err(failed());
            }
            from = from.checked_add(here as u64).ok_or_else(failed)?;
            rest = later;
        }
        Ok(())
    }

    fn data_in(&self, range: PhysRange) -> Vec<PhysRange> {
        let (mut from, end) = (range.start, range.end());
        let mut found = Vec::new();
        while let Some(piece) = self.layout.at_or_behind(from) {
            let start = from.max(piece.start());
            if start >= end {
                break;
            }
            let bytes = piece.end().min(end.get()) - start.get();
            let offset = piece.offset_of(start);
            let source = self.sources.get(piece.source());
            let data = source.map_or_else(Vec::new, |source| source.data_in(offset, bytes));
            found.extend(data.into_iter().map(|data| PhysRange {
                start: start.wrapping_add(data.start - offset),
                bytes: data.end - data.start,
            }));
            from = start.wrapping_add(bytes);
        }
        found
    }

    fn account(&self) -> Account {
        let lost = self.sources.iter().find_map(Source::lost_at);
        let damaged = self.sources.iter().find_map(|source| match source {
            Source::Paged(pages) => pages.damaged(),
            _ => None,
        });
        let at = |page: u64| PhysAddr::new(page.wrapping_mul(PAGE_SIZE));
        Account {
            left_out: self.left_out.clone(),
            is_partial: self.sources.iter().any(Source::is_partial),
            is_open_ended: self.is_open_ended,
            may_be_a_part: self.may_be_a_part,
            problem: lost.map(|offset| {
                format!(
                    "the file became shorter while it was read, and has nothing at byte {offset} any more; \
                     wait until nobody writes to it, or copy it again"
                )
            }),
            remarks: damaged
                .map(|page| {
                    format!(
                        "the page at {} cannot be unpacked, and perhaps others: the file is damaged there; \
                         they are taken to be left out",
                        at(page)
                    )
                })
                .into_iter()
                .collect(),
        }
    }

    fn read_column(&self, first: Pfn, index: u16, entries: &mut [Entry]) {
        self.read_column_of(first, index, entries, false);
    }

    fn read_links(&self, first: Pfn, index: u16, entries: &mut [Entry]) {
        self.read_column_of(first, index, entries, true);
    }
}

#[cfg(test)]
mod tests;
