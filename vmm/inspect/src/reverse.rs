//! From a physical address back to all virtual addresses that reach it.

use std::sync::Arc;

use serde::Serialize;

use crate::leaves::Mapping;
use crate::snapshot::{RootId, Snapshot};
use crate::traverse::{Fold, Folder, STEP_LIMIT};
use heirloom_paging::addr::{PhysAddr, VirtAddr};
use heirloom_paging::entry::{Decoded, Leaf};
use heirloom_paging::level::Half;

/// Pages that are listed, with all that have them counted: tables can claim 2^36 pages with one frame.
const MAX_LISTED: usize = 1 << 20;

/// All virtual addresses that reach a physical one.
#[derive(Clone, Debug)]
pub struct Reverse {
    /// Ascending in the kernel half, then in the user half. What address spaces share by the same
    /// top-level entry comes once.
    pub reached: Vec<Reached>,
    /// There are absurdly many, and not all are listed.
    pub is_cut: bool,
}

/// A page through which a physical address is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// The virtual address of the very byte.
    pub va: VirtAddr,
    /// The page it is in.
    pub mapping: Mapping,
    /// The address spaces that have the page there, by the same top-level entry.
    #[serde(skip)]
    pub roots: Arc<[RootId]>,
}

impl Snapshot {
    /// Every virtual address, in every address space, that reaches the byte at `pa`.
    pub fn reverse(&self, pa: PhysAddr) -> Reverse {
        let mut leading = Folder::new(self, Leads { pa });
        let (mut room, mut steps) = (MAX_LISTED, STEP_LIMIT);
        let mut found = Reverse {
            reached: Vec::new(),
            is_cut: false,
        };
        let subtrees = [Half::Kernel, Half::User].map(|half| self.subtrees(half));
        for subtree in subtrees.into_iter().flatten() {
            let roots: Arc<[RootId]> = subtree.roots.into();
            let mut entries = self.traverse(roots[0], subtree.range).limited(steps);
            while let Some(visited) = entries.next() {
                let Decoded::Leaf(leaf) = visited.at.decoded else {
                    // Down into those tables only that lead to the address.
                    let below = visited.table.link(visited.at.index);
                    if !below.is_some_and(|below| leading.below(below, false)) {
                        entries.skip_below();
                    }
                    continue;
                };
                let Some(offset) = offset_in(leaf, pa) else {
                    continue;
                };
                let Some(left) = room.checked_sub(1 + roots.len()) else {
                    found.is_cut = true;
                    return found;
                };
                room = left;
                found.reached.push(Reached {
                    va: visited.at.va.wrapping_add(offset),
                    mapping: Mapping::of(&visited, leaf),
                    roots: Arc::clone(&roots),
                });
            }
            if entries.stopped_at().is_some() {
                found.is_cut = true;
                return found;
            }
            steps = entries.steps_left();
        }
        found
    }
}

/// Whether any page has the address.
#[derive(Debug)]
struct Leads {
    pa: PhysAddr,
}

impl Fold for Leads {
    type Found = bool;

    fn leaf(&self, found: &mut bool, leaf: Leaf, _: bool) {
        *found = offset_in(leaf, self.pa).is_some();
    }

    fn table(&self, found: &mut bool, below: bool) {
        *found = below;
    }

    fn is_decided(&self, found: &bool) -> bool {
        *found
    }
}

/// Where in a page an address is, if it is there.
fn offset_in(leaf: Leaf, pa: PhysAddr) -> Option<u64> {
    let offset = pa.get().checked_sub(leaf.pa.get())?;
    (offset < leaf.size.bytes()).then_some(offset)
}
