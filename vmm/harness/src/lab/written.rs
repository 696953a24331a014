//! The host's own count of kernel table writes: what differs between the tables of two moments.
//!
//! A guest's counters are claims. Where no process is created or ends, and no entry is written twice, each
//! write leaves exactly one entry that is not what it was.

use std::collections::HashSet;

use heirloom_inspect::{Half, Level, Pfn, Snapshot};
use serde::{Deserialize, Serialize};

/// Entries of kernel halves that were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// In tables below the PGDs.
    pub entries: u64,
    /// In PGDs: entries 256–511, of any address space.
    pub pgd_entries: u64,
}

impl Written {
    /// What was written between two snapshots of one capturer. What the CPU sets by itself, A and D,
    /// does not count.
    pub fn between(before: &Snapshot, after: &Snapshot) -> Written {
        let kernel_tables: HashSet<(Pfn, Level)> = after
            .placements()
            .iter()
            .filter(|placement| placement.half == Half::Kernel)
            .map(|placement| (placement.table.pfn(), placement.table.level()))
            .collect();
        let top = after.mode().depth.top();
        let mut written = Written::default();
        let mut count = |table: Pfn, level: Level, index: u16| {
            if level == top {
                written.pgd_entries += u64::from(Half::of_index(index) == Half::Kernel);
            } else if kernel_tables.contains(&(table, level)) {
                written.entries += 1;
            }
        };
        for change in after.changes_since(before) {
            if change.is_written() {
                count(change.table, change.level, change.index);
            }
        }
        for table in after.tables_not_in(before) {
            for (index, _) in table.entries() {
                count(table.pfn(), table.level(), index);
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heirloom_inspect::testing::FakeMemory;
    use heirloom_inspect::{Capturer, Depth, Entry, Mode, PageSize, PhysAddr, RootLabel, VirtAddr};

    const FOUR: Mode = Mode::typical(Depth::Four);
    const KERNEL: VirtAddr = VirtAddr::new(0xffff_c900_0000_0000);
    const NEW_ENTRY: VirtAddr = VirtAddr::new(0xffff_c980_0000_0000);
    const USER: VirtAddr = VirtAddr::new(0x40_0000);

    fn map(memory: &mut FakeMemory, root: PhysAddr, va: VirtAddr) {
        let flags = FakeMemory::KERNEL_DATA;
        let frame = PhysAddr::new(0x70_0000);
        memory.map(Depth::Four, root, va, frame, PageSize::Size4KiB, flags);
    }

    /// What `change` writes to the tables of a process and of its child, which inherited a kernel page.
    fn written(change: impl FnOnce(&mut FakeMemory, [PhysAddr; 2])) -> Written {
        let mut memory = FakeMemory::new();
        let parent = memory.root();
        map(&mut memory, parent, KERNEL);
        let child = memory.child_of(parent);
        for root in [parent, child] {
            map(&mut memory, root, USER);
        }
        let labelled = [(1, parent), (2, child)].map(|(pid, root)| (RootLabel::Process(pid), root));
        let mut capturer = Capturer::new();
        let before = capturer.capture(&memory, FOUR, &labelled);
        change(&mut memory, [parent, child]);
        let after = capturer.capture(&memory, FOUR, &labelled);
        Written::between(&before, &after)
    }

    #[test]
    fn nothing_written_is_nothing_counted() {
        assert_eq!(written(|_, _| {}), Written::default());
    }

    #[test]
    fn a_page_below_a_shared_entry_is_one_entry_mapped_or_unmapped() {
        let one = Written {
            entries: 1,
            pgd_entries: 0,
        };
        let next = KERNEL.wrapping_add(0x1000);
        assert_eq!(
            written(|memory, [parent, _]| map(memory, parent, next)),
            one
        );
        let unmapped = written(|memory, [parent, _]| {
            memory.change(Depth::Four, parent, KERNEL, Level::Pt, |_| Entry::ABSENT);
        });
        assert_eq!(unmapped, one);
    }

    #[test]
    fn new_tables_count_with_what_is_in_them_and_each_pgd_entry_for_itself() {
        let private = written(|memory, roots| {
            for root in roots {
                map(memory, root, NEW_ENTRY);
            }
        });
        let twice = Written {
            entries: 2 * 3,
            pgd_entries: 2,
        };
        assert_eq!(private, twice);
        let shared = written(|memory, [parent, child]| {
            map(memory, parent, NEW_ENTRY);
            let index = NEW_ENTRY.index(Level::Pml4);
            let entry = memory.peek(parent.pfn(), index);
            memory.poke(child.pfn(), index, entry);
        });
        let synced = Written {
            entries: 3,
            pgd_entries: 2,
        };
        assert_eq!(shared, synced);
    }

    #[test]
    fn user_halves_and_what_the_cpu_sets_do_not_count() {
        let other = written(|memory, [parent, child]| {
            map(memory, child, USER.wrapping_add(0x1000));
            map(memory, child, USER.wrapping_add(1 << 39));
            memory.change(Depth::Four, parent, KERNEL, Level::Pt, |entry| {
                entry | Entry::ACCESSED | Entry::DIRTY
            });
        });
        assert_eq!(other, Written::default());
    }
}
