//! The kernel's notes of what its CPU was asked to forget.

use std::collections::BTreeMap;

use heirloom_abi::flush_log::FlushLog;
use heirloom_inspect::{Entry, Pfn, PhysAddr, VirtAddr};

use super::{PAGE, Scene};

/// Where the log is, and what is noted of PCIDs: low in the image's data, of which the kernel gives out nothing.
const LOG: Pfn = Pfn::new(0x2ff);
const PCIDS: Pfn = Pfn::new(0x2fe);

/// What the kernel has noted.
#[derive(Clone, Default)]
pub(crate) struct Notes {
    /// Nothing is noted by itself.
    pub(crate) by_hand: bool,
    /// Entries that were written.
    pub(crate) writes: u64,
    last: u64,
    root_loads: u64,
    /// Of each PCID: root, loads that kept and that dropped what has it, entries written at the last of these.
    pcids: BTreeMap<u16, [u64; 4]>,
    /// The PCIDs of processes that have not their own number.
    given: BTreeMap<u32, u16>,
}

impl Scene {
    pub(crate) const FLUSH_LOG: PhysAddr = LOG.base();

    /// From now on the kernel flushes nothing but what a test has it flush.
    pub(crate) fn flush_by_hand(&mut self) {
        self.notes.by_hand = true;
    }

    /// Unless a test flushes by hand: everything is flushed before an event is told, after whatever was written.
    pub(super) fn flush_by_itself(&mut self) {
        if !self.notes.by_hand {
            self.notes.writes += 1 << 16;
            self.note_flush(VirtAddr::new(0), u64::MAX / PAGE);
            self.note_load();
        }
    }

    /// The CPU is asked to forget so many pages, and that is noted.
    pub(crate) fn note_flush(&mut self, first: VirtAddr, pages: u64) {
        self.notes.last += 1;
        let end = first.wrapping_add(pages * PAGE);
        let writes = self.notes.writes;
        let at = FlushLog::offset_of(self.notes.last) / 8;
        for (number, word) in (at..).zip([first.get(), end.get(), writes, writes]) {
            self.note(number, word);
        }
        self.note(0, self.notes.last);
    }

    /// The CPU is asked to forget a page of the user half that has this PCID, and that is noted.
    pub(crate) fn note_page(&mut self, page: VirtAddr, pcid: u16) {
        self.note_flush(page, 1);
        let at = u16::try_from(FlushLog::offset_of(self.notes.last) / 8).unwrap();
        let first = page.get() | u64::from(pcid);
        self.memory.poke(LOG, at, Entry::new(first));
    }

    /// CR3 is loaded, and that is noted.
    pub(crate) fn note_load(&mut self) {
        self.notes.root_loads += 1;
        self.note(1, self.notes.root_loads);
        self.note(2, self.notes.writes);
    }

    /// All is dropped, global translations, too, and that is noted.
    pub(crate) fn note_flush_of_all(&mut self) {
        self.note(3, 1);
        self.note(4, self.notes.writes);
        self.note(5, self.notes.writes);
    }

    /// The CPU sleeps and will drop everything when it wakes, or no longer.
    pub(crate) fn note_debt(&mut self, owes: bool) {
        self.note(6, owes.into());
    }

    /// From now on the CPU has PCIDs, of each process its number, and of the kernel 0. What has been loaded before
    /// was not kept.
    pub(crate) fn use_pcids(&mut self) {
        self.flush_by_hand();
        self.mode.pcide = true;
        for pid in self.pids() {
            self.note_pcid_load(pid, false);
        }
        self.checkpoint(1);
    }

    /// Gives a process another PCID than its number.
    pub(crate) fn give_pcid(&mut self, process: u32, pcid: u16) {
        self.notes.given.insert(process, pcid);
    }

    /// The PCID of a process; 0 where there are none.
    pub(crate) fn pcid(&self, pid: u32) -> u16 {
        let own = || u16::try_from(pid).unwrap();
        if self.mode.pcide {
            self.notes.given.get(&pid).copied().unwrap_or_else(own)
        } else {
            0
        }
    }

    /// CR3 is loaded with a process's root and PCID, and that is noted; `keeps`: nothing is dropped.
    pub(crate) fn note_pcid_load(&mut self, process: u32, keeps: bool) {
        let (pcid, root) = (self.pcid(process), self.root(process).get());
        let writes = self.notes.writes;
        let note = self.notes.pcids.entry(pcid).or_default();
        note[0] = root;
        if keeps {
            note[1] += 1;
        } else {
            (note[2], note[3]) = (note[2] + 1, writes);
        }
        let words = *note;
        for (index, word) in (pcid * 4..).zip(words) {
            self.memory.poke(PCIDS, index, Entry::new(word));
        }
        let highest = self.notes.pcids.keys().next_back().copied().unwrap_or(0);
        self.note(7, PCIDS.base().get() | u64::from(highest));
    }

    fn note(&mut self, number: u64, word: u64) {
        let index = u16::try_from(number).unwrap();
        self.memory.poke(LOG, index, Entry::new(word));
    }
}
