//! How much work the search may be: tables can claim 2^36 pages with a few frames, and there may be many
//! such roots.

use crate::capture::Capturer;
use crate::layout::{self, DirectMap};
use crate::memory::{PhysRange, PhysicalMemory};
use crate::snapshot::{RootId, RootLabel, Snapshot};
use heirloom_paging::addr::Pfn;
use heirloom_paging::bits::EntrySet;
use heirloom_paging::mode::Mode;

use super::part::ranges;

/// Entries of all kernel halves together that one search passes at most.
const MAX_ENTRIES: u64 = 4 * layout::MAX_ENTRIES;

/// Tables that one search captures at most, of all suspects together: four times the kernel half of 64 GiB in
/// 4 KiB pages.
const MAX_TABLES: usize = 1 << 17;

/// Entries that one search passes at most to see which halves have code, of all roots together.
const MAX_STEPS: u32 = 1 << 23;

/// What is left of the work that a search may be.
pub(super) struct Budget {
    entries: u64,
    tables: usize,
    /// Entries that may still be passed to see whether a half has code.
    pub(super) steps: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            entries: MAX_ENTRIES,
            tables: MAX_TABLES,
            steps: MAX_STEPS,
        }
    }
}

impl Budget {
    /// All that a root reaches, at most `limit` tables; `None` if there is nothing left for it.
    pub(super) fn capture<M: PhysicalMemory + ?Sized>(
        &mut self,
        memory: &M,
        mode: Mode,
        pfn: Pfn,
        limit: usize,
    ) -> Option<Snapshot> {
        let limit = limit.min(self.tables);
        if limit == 0 {
            return None;
        }
        let root = [(RootLabel::Found(pfn.base()), pfn.base())];
        let snapshot = Capturer::with_limit(limit).capture(memory, mode, &root);
        let tables = snapshot.table_count() + snapshot.missing_count();
        self.tables -= tables.min(self.tables);
        Some(snapshot)
    }

    /// Whether the kernel's part of `root` may be walked, which is then done with.
    pub(super) fn allows(&mut self, snapshot: &Snapshot, root: RootId, part: &EntrySet) -> bool {
        let entries = snapshot.distinct_entries(root, part);
        if entries > layout::MAX_ENTRIES {
            return false;
        }
        match self.entries.checked_sub(entries) {
            Some(left) => {
                self.entries = left;
                true
            }
            None => false,
        }
    }

    /// How much of `ram` the kernel's part of `root` shows in one linear mapping; 0 if finding out is too
    /// much.
    pub(super) fn ram_shown_by(
        &mut self,
        snapshot: &Snapshot,
        root: RootId,
        part: &EntrySet,
        ram: &[PhysRange],
    ) -> u64 {
        if !self.allows(snapshot, root, part) {
            return 0;
        }
        let ranges = ranges(part, snapshot.mode().depth);
        DirectMap::find_in(snapshot, root, &ranges, ram).map_or(0, |map| map.ram_bytes)
    }
}
