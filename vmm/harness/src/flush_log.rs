//! Reads the guest's notes of what its CPUs were asked to forget: see `heirloom_abi::flush_log`.
//!
//! All of it is claims. A note that is missing makes the kernel look worse; one of a flush that was never made is
//! believed here, and refuted by what the CPU reads, where it is one that remembers.

use heirloom_abi::flush_log::{FLUSHES, Flush, FlushHeader, FlushLog};
use heirloom_inspect::history::{FlushedPages, Flushes, Writes};
use heirloom_inspect::paging::addr::VirtRange;
use heirloom_inspect::{PhysAddr, PhysicalMemory, VirtAddr};
use zerocopy::{FromBytes, IntoBytes};

/// One CPU's log, read from event to event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlushReader {
    at: PhysAddr,
    header: FlushHeader,
    /// The last note as it was.
    note: Flush,
}

impl FlushReader {
    /// Reads the log of CPU `cpu`, the first one's being at `first`, from what comes next on.
    pub(crate) fn new(first: PhysAddr, cpu: u32) -> FlushReader {
        FlushReader {
            at: first.wrapping_add(u64::from(cpu) * size_of::<FlushLog>() as u64),
            header: FlushHeader::default(),
            note: Flush::default(),
        }
    }

    /// What was noted since the last call; `None` if there is no memory there.
    pub(crate) fn read<M: PhysicalMemory + ?Sized>(&mut self, memory: &M) -> Option<Flushes> {
        let header: FlushHeader = read(memory, self.at)?;
        let known = self.header.last;
        let new = header.last.wrapping_sub(known);
        // The last note that is known may have got longer.
        let missed = new >= FLUSHES as u64;
        let first = if missed {
            header.last.wrapping_sub(FLUSHES as u64 - 1)
        } else {
            known
        };
        let mut pages = Vec::new();
        let mut number = first;
        loop {
            let note: Flush = read(memory, self.note_at(number))?;
            let is_known = number == known && !missed && note.first == self.note.first;
            let from = if is_known { self.note.end } else { note.first };
            pages.extend(flushed(from, &note));
            if number == header.last {
                self.note = note;
                break;
            }
            number = number.wrapping_add(1);
        }
        let flushes = Flushes {
            pages,
            root_loads: header.root_loads.wrapping_sub(self.header.root_loads),
            user_writes_at_load: header.user_writes_at_load,
            everything: (header.all != self.header.all).then_some(Writes {
                kernel: header.kernel_writes_at_all,
                user: header.user_writes_at_all,
            }),
            owes: header.owes != 0,
            missed,
        };
        self.header = header;
        Some(flushes)
    }

    fn note_at(&self, number: u64) -> PhysAddr {
        self.at.wrapping_add(FlushLog::offset_of(number))
    }
}

fn flushed(from: u64, note: &Flush) -> Option<FlushedPages> {
    let range = VirtRange::new(VirtAddr::new(from), note.end.checked_sub(from)?)?;
    Some(FlushedPages {
        range,
        writes: Writes {
            kernel: note.kernel_writes,
            user: note.user_writes,
        },
    })
}

fn read<T: FromBytes + IntoBytes, M: PhysicalMemory + ?Sized>(
    memory: &M,
    at: PhysAddr,
) -> Option<T> {
    let mut value = T::new_zeroed();
    memory.read_bytes(at, value.as_mut_bytes()).ok()?;
    Some(value)
}
