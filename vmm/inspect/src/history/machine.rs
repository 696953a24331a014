//! What is known of a guest without asking it, by whoever built the machine; and what its kernel promises.

use serde::Serialize;

use crate::memory::PhysRange;
use heirloom_paging::addr::{PhysAddr, VirtAddr};

/// A segment of the kernel image, as the host loaded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Where it is mapped.
    pub va: VirtAddr,
    /// Where it was loaded.
    pub pa: PhysAddr,
    /// In memory, whole pages.
    pub bytes: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether it holds code.
    pub executable: bool,
}

impl Image {
    /// Its physical addresses.
    pub fn physical(&self) -> PhysRange {
        PhysRange {
            start: self.pa,
            bytes: self.bytes,
        }
    }

    /// How far `va` is into the segment; `None` outside.
    pub fn offset_of(&self, va: VirtAddr) -> Option<u64> {
        let offset = va.get().checked_sub(self.va.get())?;
        (offset < self.bytes).then_some(offset)
    }
}

/// What the host knows without asking the guest.
#[derive(Clone, Debug, Default)]
pub struct GroundTruth {
    /// The RAM that the guest was told of, ascending; ranges may meet.
    pub ram: Vec<PhysRange>,
    /// The kernel's segments.
    pub image: Vec<Image>,
}

impl GroundTruth {
    /// Whether all `length` bytes from `at` are RAM.
    pub fn is_ram(&self, at: PhysAddr, length: u64) -> bool {
        is_ram(&self.ram, at, length)
    }

    /// All whole frames of RAM.
    pub fn frames(&self) -> u64 {
        self.ram.iter().map(PhysRange::frames).sum()
    }
}

/// Whether all `length` bytes from `at` lie in `ram`, which ascends; ranges may meet.
pub(crate) fn is_ram(ram: &[PhysRange], at: PhysAddr, length: u64) -> bool {
    let Some(end) = at.checked_add(length) else {
        return false;
    };
    let mut reached = at;
    let first = ram.partition_point(|range| range.end() <= at);
    for range in &ram[first..] {
        if range.start > reached || reached >= end {
            break;
        }
        reached = reached.max(range.end());
    }
    reached >= end
}

/// What the kernel promises of the kernel half of every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The kernel's own top-level entries, and so its own tables.
    Entries,
    /// The same, but that an entry of the dynamic area may come only when the process's first access
    /// faults.
    EntriesOnFault,
    /// Tables of its own that map the same.
    Copies,
    /// The CPU entry area and nothing else; the kernel runs on its own root.
    EntryAreaOnly,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, bytes: u64) -> PhysRange {
        PhysRange {
            start: PhysAddr::new(start),
            bytes,
        }
    }

    #[test]
    fn ram_may_span_ranges_that_meet_and_never_a_hole() {
        let truth = GroundTruth {
            ram: vec![
                range(0, 0x1000),
                range(0x1000, 0x2000),
                range(0x4000, 0x1000),
            ],
            image: Vec::new(),
        };
        let is_ram = |at, length| truth.is_ram(PhysAddr::new(at), length);
        assert!(is_ram(0, 0x3000));
        assert!(is_ram(0xfff, 2));
        assert!(!is_ram(0x2fff, 2));
        assert!(!is_ram(0x3000, 0x1000));
        assert!(is_ram(0x4000, 0x1000));
        assert!(!is_ram(0x4000, 0x1001));
        assert!(!is_ram(u64::MAX, 2));
    }

    #[test]
    fn a_frame_that_is_cut_is_no_frame() {
        assert_eq!(range(0x0, 0x9_fc00).whole_frames(), 0..0x9_f000);
        assert_eq!(range(0x800, 0x1800).whole_frames(), 0x1000..0x2000);
        assert_eq!(range(0x800, 0x100).frames(), 0);
    }
}
