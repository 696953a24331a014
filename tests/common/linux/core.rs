//! A guest's memory in an ELF core, as QEMU's dump-guest-memory writes it: read, and, in a copy, changed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use heirloom_inspect::{MemoryError, PhysAddr, PhysRange, PhysicalMemory};

/// Program header types: a segment of memory, and notes, which hold the CPUs' registers.
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;

/// An open core.
pub(crate) struct Core {
    file: File,
    segments: Vec<Segment>,
    /// Where in the file notes are: offset and bytes.
    notes: Vec<(u64, usize)>,
}

/// Guest-physical memory that stands in one piece in the file.
struct Segment {
    range: PhysRange,
    /// Where in the file.
    offset: u64,
}

impl Core {
    /// Opens a core that was dumped without paging.
    pub(crate) fn open(path: &Path) -> Core {
        Core::of(File::open(path).unwrap())
    }

    /// Opens a core that may be written to.
    pub(crate) fn open_to_change(path: &Path) -> Core {
        Core::of(File::options().read(true).write(true).open(path).unwrap())
    }

    fn of(file: File) -> Core {
        let word = |at: u64, bytes: usize| {
            let mut word = [0; 8];
            file.read_exact_at(&mut word[..bytes], at).unwrap();
            u64::from_le_bytes(word)
        };
        // e_phoff, e_phentsize, e_phnum of ELF-64.
        let (table, entry, number) = (word(32, 8), word(54, 2), word(56, 2));
        let headers = |kind| {
            let headers = (0..number).map(|index| table + index * entry);
            headers.filter(move |&header| word(header, 4) == kind)
        };
        let segments = headers(PT_LOAD)
            .map(|header| Segment {
                // p_paddr, p_filesz, p_offset.
                range: PhysRange {
                    start: PhysAddr::new(word(header + 24, 8)),
                    bytes: word(header + 32, 8),
                },
                offset: word(header + 8, 8),
            })
            .collect();
        let notes = headers(PT_NOTE)
            .map(|header| {
                let bytes = usize::try_from(word(header + 32, 8)).unwrap();
                (word(header + 8, 8), bytes)
            })
            .collect();
        Core {
            file,
            segments,
            notes,
        }
    }

    /// Where the guest has memory.
    pub(crate) fn ram(&self) -> impl Iterator<Item = PhysRange> {
        self.segments.iter().map(|segment| segment.range)
    }

    /// Where in the file `length` bytes from `at` stand.
    fn offset(&self, at: PhysAddr, length: usize) -> Result<u64, MemoryError> {
        self.segments
            .iter()
            .find(|Segment { range, .. }| {
                range.start <= at && at.get() + length as u64 <= range.end().get()
            })
            .map(|segment| segment.offset + (at.get() - segment.range.start.get()))
            .ok_or(MemoryError { at, length })
    }

    /// Replaces the last register that has a value by another: QEMU writes the CPUs' one after the other.
    ///
    /// # Panics
    /// If no register has the value.
    pub(crate) fn replace_last_register(&self, value: u64, new: u64) {
        let mut last = None;
        for &(offset, length) in &self.notes {
            let mut notes = vec![0; length];
            self.file.read_exact_at(&mut notes, offset).unwrap();
            let found = notes
                .windows(8)
                .rposition(|bytes| bytes == value.to_le_bytes());
            last = found.map(|at| offset + at as u64).or(last);
        }
        let place = last.unwrap_or_else(|| panic!("{value:#x} is in no register"));
        self.file.write_all_at(&new.to_le_bytes(), place).unwrap();
    }

    /// Writes the 8-byte word at `at`.
    ///
    /// # Panics
    /// If the guest has no memory there, or the core is not to be changed.
    pub(crate) fn write_u64(&self, at: PhysAddr, value: u64) {
        let offset = self.offset(at, 8).unwrap();
        self.file
            .write_all_at(&value.to_le_bytes(), offset)
            .unwrap();
    }
}

impl PhysicalMemory for Core {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        let offset = self.offset(at, length)?;
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|_| MemoryError { at, length })
    }
}
