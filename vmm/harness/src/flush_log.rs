//! Reads the guest's notes of what its CPUs were asked to forget: see `heirloom_abi::flush_log`.
//!
//! All of it is claims. A note that is missing makes the kernel look worse; one of a flush that was never made is
//! believed here, and refuted by what the CPU reads, where it is one that remembers.

use heirloom_abi::flush_log::{FLUSHES, Flush, FlushHeader, FlushLog, PCIDS, PcidNote};
use heirloom_inspect::history::{FlushedPages, Flushes, PcidAsked, Writes};
use heirloom_inspect::paging::addr::VirtRange;
use heirloom_inspect::paging::level::Half;
use heirloom_inspect::{PhysAddr, PhysicalMemory, VirtAddr};
use zerocopy::{FromBytes, IntoBytes};

/// One CPU's log, read from event to event.
#[derive(Clone, Debug)]
pub(crate) struct FlushReader {
    at: PhysAddr,
    header: FlushHeader,
    /// The last note as it was.
    note: Flush,
    /// The notes of PCIDs as they were.
    pcids: Vec<PcidNote>,
}

impl FlushReader {
    /// Reads the log of CPU `cpu`, the first one's being at `first`, from what comes next on.
    pub(crate) fn new(first: PhysAddr, cpu: u32) -> FlushReader {
        FlushReader {
            at: first.wrapping_add(u64::from(cpu) * size_of::<FlushLog>() as u64),
            header: FlushHeader::default(),
            note: Flush::default(),
            pcids: Vec::new(),
        }
    }

    /// What was noted since the last call; `None` if there is no memory there. `pcide`: the CPU has PCIDs.
    pub(crate) fn read<M: PhysicalMemory + ?Sized>(
        &mut self,
        memory: &M,
        pcide: bool,
    ) -> Option<Flushes> {
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
            pcids: if pcide {
                Some(self.read_pcids(memory, header.pcids)?)
            } else {
                None
            },
        };
        self.header = header;
        Some(flushes)
    }

    /// What was noted of PCIDs, as the header says where.
    fn read_pcids<M: PhysicalMemory + ?Sized>(
        &mut self,
        memory: &M,
        noted: u64,
    ) -> Option<Vec<PcidAsked>> {
        const HIGHEST: u64 = PCIDS as u64 - 1;
        if noted == 0 {
            return Some(Vec::new());
        }
        let count = usize::try_from(noted & HIGHEST).ok()? + 1;
        let mut table = vec![PcidNote::default(); count];
        let at = PhysAddr::new(noted & !HIGHEST);
        memory
            .read_bytes(at, table.as_mut_slice().as_mut_bytes())
            .ok()?;
        let mut before = std::mem::replace(&mut self.pcids, table);
        before.resize(count, PcidNote::default());
        let both = (0..).zip(self.pcids.iter().zip(before));
        let known = both.filter(|(_, (now, _))| now.root != 0);
        let asked = known.map(|(pcid, (now, before))| PcidAsked {
            pcid,
            root: PhysAddr::new(now.root),
            kept: now.kept.wrapping_sub(before.kept),
            dropped: (now.dropped != before.dropped).then_some(now.user_writes),
        });
        Some(asked.collect())
    }

    fn note_at(&self, number: u64) -> PhysAddr {
        self.at.wrapping_add(FlushLog::offset_of(number))
    }
}

fn flushed(from: u64, note: &Flush) -> Option<FlushedPages> {
    const TAG: u64 = PCIDS as u64 - 1;
    // Only of a user half the low bits say more than where.
    let is_user = VirtAddr::new(from).half() == Half::User;
    let tag = if is_user { from & TAG } else { 0 };
    let from = from - tag;
    let range = VirtRange::new(VirtAddr::new(from), note.end.checked_sub(from)?)?;
    Some(FlushedPages {
        range,
        pcid: u16::try_from(tag).unwrap_or(0),
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
