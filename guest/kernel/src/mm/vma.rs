//! Virtual memory areas: what a process's addresses mean before the tables say so.

use super::{VirtAddr, depth};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::user_end;

/// Areas that one process may have.
pub const MAX_AREAS: usize = 16;
/// Where `mmap` looks for room first.
const MMAP_FIRST: u64 = 0x7f00_0000_0000;
/// Page 0 stays unmapped, so that a null pointer faults.
const LOWEST: u64 = 0x1_0000;

/// What stands behind an area's pages when they are first touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backing {
    /// Zeros.
    Zero,
    /// `length` bytes of boot module `module` from `offset` on, then zeros.
    Module {
        module: usize,
        offset: u64,
        length: u64,
    },
}

/// Pages `start..end` with one meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vma {
    pub start: VirtAddr,
    pub end: VirtAddr,
    /// `PROT_*` bits.
    pub protection: u64,
    pub backing: Backing,
}

impl Vma {
    const EMPTY: Vma = Vma {
        start: VirtAddr::new(0),
        end: VirtAddr::new(0),
        protection: 0,
        backing: Backing::Zero,
    };

    /// The part from `start` to `end`, with the same bytes behind the same addresses.
    fn part(self, start: VirtAddr, end: VirtAddr) -> Vma {
        let skipped = start.get() - self.start.get();
        let backing = match self.backing {
            Backing::Module {
                module,
                offset,
                length,
            } if skipped < length => Backing::Module {
                module,
                offset: offset + skipped,
                length: length - skipped,
            },
            _ => Backing::Zero,
        };
        Vma {
            start,
            end,
            backing,
            ..self
        }
    }
}

/// The areas of one process in ascending order; they never overlap.
#[derive(Clone, Copy)]
pub struct Vmas {
    areas: [Vma; MAX_AREAS],
    count: usize,
}

/// There is no room: the process has too many areas, or the place is taken or not in the user half.
#[derive(Clone, Copy, Debug)]
pub struct NoRoom;

impl Vmas {
    pub const fn new() -> Vmas {
        Vmas {
            areas: [Vma::EMPTY; MAX_AREAS],
            count: 0,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Vma> + '_ {
        self.areas[..self.count].iter().copied()
    }

    /// The area that holds `address`.
    pub fn find(&self, address: VirtAddr) -> Option<Vma> {
        self.iter()
            .find(|area| area.start <= address && address < area.end)
    }

    /// Adds an area of whole pages where none is yet.
    pub fn insert(&mut self, area: Vma) -> Result<(), NoRoom> {
        let free = area.start.get() >= LOWEST
            && area.start < area.end
            && area.end.get() <= user_end(depth())
            && self
                .iter()
                .all(|other| other.end <= area.start || area.end <= other.start);
        if !free || self.count == MAX_AREAS {
            return Err(NoRoom);
        }
        let at = self
            .iter()
            .take_while(|other| other.start < area.start)
            .count();
        self.areas.copy_within(at..self.count, at + 1);
        self.areas[at] = area;
        self.count += 1;
        Ok(())
    }

    /// Takes `start..end` out of whatever areas lie there. On `NoRoom`, nothing has changed.
    pub fn remove(&mut self, start: VirtAddr, end: VirtAddr) -> Result<(), NoRoom> {
        let mut kept = Vmas::new();
        for area in self.iter() {
            let parts = [
                (area.start, area.end.min(start)),
                (area.start.max(end), area.end),
            ];
            for (from, to) in parts {
                if from < to {
                    *kept.areas.get_mut(kept.count).ok_or(NoRoom)? = area.part(from, to);
                    kept.count += 1;
                }
            }
        }
        *self = kept;
        Ok(())
    }

    /// The lowest free `length` bytes for `mmap`.
    pub fn gap(&self, length: u64) -> Option<VirtAddr> {
        let mut start = MMAP_FIRST;
        for area in self.iter().filter(|area| area.end.get() > MMAP_FIRST) {
            if start.checked_add(length)? <= area.start.get() {
                break;
            }
            start = area.end.get();
        }
        (start.checked_add(length)? <= user_end(depth()) - PAGE_SIZE)
            .then_some(VirtAddr::new(start))
    }
}
