//! How much work the search may be: tables can claim 2^36 pages with a few frames, and there may be many
//! such roots.

use crate::layout::{self, DirectMap};
use crate::memory::PhysRange;
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::bits::EntrySet;

use super::part::ranges;

/// Entries of all kernel halves together that one search passes at most.
const MOST_ENTRIES: u64 = 4 * layout::MOST_ENTRIES;

/// What is left of the work that a search may be.
pub(super) struct Budget {
    entries_left: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            entries_left: MOST_ENTRIES,
        }
    }
}

impl Budget {
    /// Whether the kernel's part of `root` may be walked, which is then done with.
    pub(super) fn allows(&mut self, snapshot: &Snapshot, root: RootId, part: &EntrySet) -> bool {
        let entries = snapshot.distinct_entries(root, part);
        if entries > layout::MOST_ENTRIES {
            return false;
        }
        match self.entries_left.checked_sub(entries) {
            Some(left) => {
                self.entries_left = left;
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
