//! How much work the search may be: tables can claim 2^36 pages with a few frames, and there may be many
//! such roots.

use crate::layout::DirectMap;
use crate::leaves::STEP_LIMIT;
use crate::level::Half;
use crate::memory::PhysRange;
use crate::snapshot::{RootId, Snapshot};
use crate::tally::Tallier;

/// Entries of kernel halves that one search passes at most: those of a terabyte in 4 KiB pages.
const MOST_ENTRIES: u64 = 1 << 28;

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
    /// Whether the kernel half of `root` may be walked, which is then done with.
    pub(super) fn allows(&mut self, snapshot: &Snapshot, root: RootId) -> bool {
        let entries = Tallier::new(snapshot).count(root, Half::Kernel).entries;
        if entries > u64::from(STEP_LIMIT) {
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

    /// How much of `ram` the kernel half of `root` shows in one linear mapping; 0 if finding out is too
    /// much.
    pub(super) fn ram_shown_by(
        &mut self,
        snapshot: &Snapshot,
        root: RootId,
        ram: &[PhysRange],
    ) -> u64 {
        if !self.allows(snapshot, root) {
            return 0;
        }
        DirectMap::find(snapshot, root, ram).map_or(0, |map| map.ram_bytes)
    }
}
