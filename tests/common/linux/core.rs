//! A guest's memory in an ELF core, as QEMU's dump-guest-memory writes it: read, and, in a copy, changed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use heirloom_inspect::{GuestPhys, MemoryError, PhysRange, PhysicalMemory};

/// Program header type of a segment of memory.
const PT_LOAD: u32 = 1;

/// An open core.
pub(crate) struct Core {
    file: File,
    segments: Vec<Segment>,
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
        let segments = (0..number)
            .map(|index| table + index * entry)
            .filter(|&header| word(header, 4) == u64::from(PT_LOAD))
            .map(|header| Segment {
                // p_paddr, p_filesz, p_offset.
                range: PhysRange {
                    start: GuestPhys::new(word(header + 24, 8)),
                    bytes: word(header + 32, 8),
                },
                offset: word(header + 8, 8),
            })
            .collect();
        Core { file, segments }
    }

    /// Where the guest has memory.
    pub(crate) fn ram(&self) -> impl Iterator<Item = PhysRange> {
        self.segments.iter().map(|segment| segment.range)
    }

    /// Where in the file `length` bytes from `at` stand.
    fn offset(&self, at: GuestPhys, length: usize) -> Result<u64, MemoryError> {
        self.segments
            .iter()
            .find(|Segment { range, .. }| {
                range.start <= at && at.get() + length as u64 <= range.end().get()
            })
            .map(|segment| segment.offset + (at.get() - segment.range.start.get()))
            .ok_or(MemoryError { at, length })
    }

    /// Writes the 8-byte word at `at`.
    ///
    /// # Panics
    /// If the guest has no memory there, or the core is not to be changed.
    pub(crate) fn write_u64(&self, at: GuestPhys, value: u64) {
        let offset = self.offset(at, 8).unwrap();
        self.file
            .write_all_at(&value.to_le_bytes(), offset)
            .unwrap();
    }
}

impl PhysicalMemory for Core {
    fn read_bytes(&self, at: GuestPhys, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let length = buffer.len();
        let offset = self.offset(at, length)?;
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|_| MemoryError { at, length })
    }
}
