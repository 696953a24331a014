//! Guest-physical memory, as far as reading page tables needs it.

use serde::Serialize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zerocopy::IntoBytes;

use heirloom_paging::{
    Entry, Level, Mode, PAGE_SIZE, Pfn, PhysAddr, Unreadable, VirtAddr, Walk, translate,
};

/// No machine has RAM from here on; RAM that is said to go up to here ends nobody knows where.
pub const MAX_RAM: u64 = 64 << 40;

/// The 512 words of a page table.
pub type Words = [u64; 512];

/// Physical addresses `start..start + bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PhysRange {
    /// The first address.
    pub start: PhysAddr,
    /// How many bytes.
    pub bytes: u64,
}

impl PhysRange {
    /// The first address after the range.
    pub fn end(&self) -> PhysAddr {
        PhysAddr::new(self.start.get().saturating_add(self.bytes))
    }

    /// Whether `length` bytes from `at` have an address in common with the range.
    pub fn overlaps(&self, at: PhysAddr, length: u64) -> bool {
        at < self.end() && self.start.get() < at.get().saturating_add(length)
    }

    /// The addresses of the whole frames inside.
    pub fn whole_frames(&self) -> std::ops::Range<u64> {
        let start = self.start.get().next_multiple_of(PAGE_SIZE);
        start..(self.end().get() & !(PAGE_SIZE - 1)).max(start)
    }

    /// Whole frames inside.
    pub fn frames(&self) -> u64 {
        let whole = self.whole_frames();
        (whole.end - whole.start) / PAGE_SIZE
    }
}

/// Why guest-physical memory could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "reading {length} bytes of guest memory at {at}: the guest has no memory there (or not to the \
     end); check the address, or give the target all of its memory"
)]
pub struct MemoryError {
    /// First byte of the attempt.
    pub at: PhysAddr,
    /// Bytes wanted.
    pub length: usize,
}

/// What may have been written in guest memory since a capturer's last capture. Whatever its caller takes
/// it from must know of every write, those of the CPU to A and D included.
#[derive(Clone, Copy, Debug)]
pub enum Written<'a> {
    /// Nobody knows: every table is read and compared.
    Anything,
    /// These frames, in any order, and no others. They need not be tables.
    Frames(&'a [Pfn]),
}

/// What a memory can tell of itself, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// RAM that the guest has and this memory cannot give, because its source was cut or leaves it out:
    /// ascending. It is no part of [`Target::ram`](crate::Target::ram).
    pub left_out: Vec<PhysRange>,
    /// Whether RAM that is a part of it and cannot be read was left out as well: a dump without pages of
    /// some kinds.
    pub is_partial: bool,
    /// Whether the guest may have had RAM of which the source says nothing: no hypervisor tells where its RAM
    /// was, so only its kernel can.
    pub is_open_ended: bool,
    /// Whether a hypervisor has told where the guest had RAM, and may have been asked for a part of it only:
    /// where tables lie outside, the guest's kernel is asked.
    pub may_be_a_part: bool,
    /// Why what was read is not to be trusted, in a sentence for people that names no source.
    pub problem: Option<String>,
    /// What else is worth knowing, in sentences for people.
    pub remarks: Vec<String>,
}

/// Memory by guest-physical address. The guest may change it at any time: each call reads what is
/// there then.
pub trait PhysicalMemory {
    /// Fills `buffer` from `at` on.
    ///
    /// # Errors
    /// [`MemoryError`] if one of the bytes is outside the guest's memory.
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// Reads the table in frame `table`.
    ///
    /// # Errors
    /// [`MemoryError`] if the frame is not whole inside the guest's memory.
    fn read_table(&self, table: Pfn, words: &mut Words) -> Result<(), MemoryError> {
        self.read_bytes(table.base(), words.as_mut_bytes())?;
        // The guest is little-endian; this is nothing on a host that is, too.
        for word in words {
            *word = u64::from_le(*word);
        }
        Ok(())
    }

    /// Reads the 8-byte word at `at`.
    ///
    /// # Errors
    /// [`MemoryError`] if it is not whole inside the guest's memory.
    fn read_u64(&self, at: PhysAddr) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read_bytes(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads entry `index` (below 512) of each of `tables.len()` consecutive frames from `first` on, as
    /// if they were tables; [`Entry::ABSENT`] for frames that guest memory does not have. For looking
    /// through all of memory: one that can read many places at once does better than entry by entry.
    fn read_column(&self, first: Pfn, index: u16, entries: &mut [Entry]) {
        for (offset, entry) in (0..).zip(entries) {
            let frame = Pfn::new(first.get().wrapping_add(offset));
            *entry = self.read_entry(frame, index).unwrap_or(Entry::ABSENT);
        }
    }

    /// As [`PhysicalMemory::read_column`], for those who look for entries that are present and lead to memory
    /// that a machine has: any other may come as [`Entry::ABSENT`]. One that unpacks its pages need not
    /// unpack those again in which there is none.
    fn read_links(&self, first: Pfn, index: u16, entries: &mut [Entry]) {
        self.read_column(first, index, entries);
    }

    /// What there is to say of this memory once it was read.
    fn account(&self) -> Account {
        Account::default()
    }

    /// The parts of `range` that may hold anything but zeros, ascending: for looking through all of memory. One
    /// that knows of holes does well to leave them out, as there may be a thousand times more of them.
    fn data_in(&self, range: PhysRange) -> Vec<PhysRange> {
        vec![range]
    }

    /// Reads entry `index` (below 512) of the table in frame `table`.
    ///
    /// # Errors
    /// [`MemoryError`] if it is outside the guest's memory.
    fn read_entry(&self, table: Pfn, index: u16) -> Result<Entry, MemoryError> {
        let at = table.base().wrapping_add(8 * u64::from(index));
        self.read_u64(at).map(Entry::new)
    }
}

/// Every memory of the rust-vmm family. The backend, not its IOMMU view: addresses in page tables
/// are physical.
impl<M: GuestMemoryBackend + ?Sized> PhysicalMemory for M {
    fn read_bytes(&self, at: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.read_slice(buffer, GuestAddress(at.get()))
            .map_err(|_| MemoryError {
                at,
                length: buffer.len(),
            })
    }
}

/// Translates `va` through the tables that stand in `memory` now, below the table at `root`.
pub fn translate_in_memory<M: PhysicalMemory + ?Sized>(
    memory: &M,
    mode: &Mode,
    root: PhysAddr,
    va: VirtAddr,
) -> Walk {
    translate(mode, root, va, |table, _: Level, index| {
        memory
            .read_entry(table, index)
            .map_err(|_| Unreadable::OutsideMemory)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    /// Two pieces of RAM with a hole between, the second one ending in the middle of a frame.
    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0), 0x4000),
            (GuestAddress(0x1_0000_0000), 0x1800),
        ])
        .unwrap()
    }

    #[test]
    fn a_table_is_read_where_it_stands_above_the_hole_too() {
        let memory = memory();
        memory
            .write_obj(0xabcd_u64, GuestAddress(0x1_0000_0008))
            .unwrap();
        let mut words = [0; 512];
        memory.read_table(Pfn::new(0x10_0000), &mut words).unwrap();
        assert_eq!(words[1], 0xabcd);
        assert_eq!(
            memory.read_entry(Pfn::new(0x10_0000), 1),
            Ok(Entry::new(0xabcd))
        );
    }

    #[test]
    fn a_frame_that_is_outside_or_cut_is_an_error() {
        let memory = memory();
        let mut words = [0; 512];
        for table in [4, 0x8_0000, 0x10_0001, u64::MAX >> 12, u64::MAX] {
            let table = Pfn::new(table);
            assert_eq!(
                memory.read_table(table, &mut words),
                Err(MemoryError {
                    at: table.base(),
                    length: 4096
                })
            );
        }
        assert_eq!(
            memory.read_u64(PhysAddr::new(0x3ffc)),
            Err(MemoryError {
                at: PhysAddr::new(0x3ffc),
                length: 8
            })
        );
    }
}
