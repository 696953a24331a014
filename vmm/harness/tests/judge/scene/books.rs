//! The kernel's counters, looked up in memory: those of a kernel that keeps its books.

use std::collections::BTreeSet;

use heirloom_harness::event::Counters;
use heirloom_inspect::{Entry, Level, Pfn, PhysAddr, PhysicalMemory};

use super::{MODE, PAGE, RAM, RESERVED_FRAMES, Scene};

impl Scene {
    /// What a kernel counts that keeps its books: looked up in memory.
    pub(crate) fn counters(&self) -> Counters {
        let mut tables = BTreeSet::new();
        let mut user = BTreeSet::new();
        self.count(self.kernel, false, &mut tables, &mut user);
        for process in self.processes.values() {
            self.count(process.root, true, &mut tables, &mut user);
        }
        let frames_total = RAM.iter().map(|(_, bytes)| bytes / PAGE).sum();
        let live = self.processes.len() as u64;
        let frames_kernel = self.allocations.values().sum::<u64>() + live + self.zombies;
        let frames_table = tables.len() as u64;
        let frames_user = user.len() as u64;
        Counters {
            frames_total,
            frames_free: frames_total
                - RESERVED_FRAMES
                - frames_kernel
                - frames_table
                - frames_user,
            frames_table,
            frames_user,
            frames_kernel,
            frames_reserved: RESERVED_FRAMES,
            processes_live: live,
            processes_zombie: self.zombies,
            kernel_entry_writes: self.notes.writes,
            user_entry_writes: self.notes.writes,
            ..Counters::default()
        }
    }

    /// Adds the tables below a root, and what its user half maps.
    fn count(
        &self,
        root: PhysAddr,
        is_process: bool,
        tables: &mut BTreeSet<Pfn>,
        user: &mut BTreeSet<Pfn>,
    ) {
        let mut pending = vec![(root.pfn(), Level::Pml4, false)];
        while let Some((table, level, below_user)) = pending.pop() {
            let mut words = [0; 512];
            if self.memory.read_table(table, &mut words).is_err() {
                continue;
            }
            if !tables.insert(table) && !below_user {
                // A kernel table that was counted with the kernel's root.
                continue;
            }
            for (index, word) in (0_u16..).zip(words) {
                let entry = Entry::new(word);
                let is_user = below_user || level == Level::Pml4 && index < 256;
                let reserved = entry.reserved_bits(level, &MODE) != Entry::ABSENT;
                if !entry.present() || reserved {
                    continue;
                }
                let frame = entry.address().pfn();
                match level.next().filter(|_| !entry.is_leaf(level)) {
                    Some(next) => pending.push((frame, next, is_user)),
                    None if is_user && is_process && entry.user() => {
                        let size = level.page_size().unwrap();
                        let first = frame.get();
                        user.extend((first..first + size.bytes() / PAGE).map(Pfn::new));
                    }
                    None => {}
                }
            }
        }
    }
}
