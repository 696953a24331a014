//! The kernel's notes of what its CPU was asked to forget.

use heirloom_abi::flush_log::FlushLog;
use heirloom_inspect::{Entry, Pfn, PhysAddr, VirtAddr};

use super::{PAGE, Scene};

/// Where the log is: low in the image's data, of which the kernel gives out nothing.
const LOG: Pfn = Pfn::new(0x2ff);

/// What the kernel has noted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Notes {
    /// Nothing is noted by itself.
    pub(crate) by_hand: bool,
    /// Entries that were written.
    pub(crate) writes: u64,
    last: u64,
    root_loads: u64,
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

    fn note(&mut self, number: u64, word: u64) {
        let index = u16::try_from(number).unwrap();
        self.memory.poke(LOG, index, Entry::new(word));
    }
}
