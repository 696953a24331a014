//! What address spaces no longer translate as they did before an index was last brought up to date.

use std::collections::HashSet;

use super::{Page, Part, TableIndex};
use crate::snapshot::{RootId, Snapshot};
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::level::Level;
use heirloom_paging::rights::Rights;
use heirloom_paging::walk::Walk;

/// Things that are lost at one time; parts beyond that are counted.
const MAX_LOST: usize = 1 << 16;

/// Something that a CPU may have remembered of the tables and that they no longer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whose user half it was in, by its root; `None` in the kernel half.
    pub root: Option<PhysAddr>,
    /// What it translated.
    pub range: VirtRange,
    /// A page or a table.
    pub was: Remembered,
    /// Where the first address leads now.
    pub now: Option<(PhysAddr, Rights)>,
    /// The entry that was written, if its table is still in its place: no write to another entry can have
    /// done it.
    pub entry: Option<(Pfn, u16)>,
}

/// What a CPU remembers of tables (Intel SDM vol. 3A, 4.10.2 and 4.10.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// In a TLB.
    Page {
        /// The first physical address.
        pa: PhysAddr,
        /// What was allowed.
        rights: Rights,
        /// It outlives a load of CR3.
        global: bool,
    },
    /// In a paging-structure cache.
    Table {
        /// Its frame.
        frame: Pfn,
        /// Its level.
        level: Level,
    },
}

impl Lost {
    /// The frame that is reached by what may be remembered; of a large page the first.
    pub fn frame(&self) -> Pfn {
        match self.was {
            Remembered::Page { pa, .. } => pa.pfn(),
            Remembered::Table { frame, .. } => frame,
        }
    }

    /// Whether the same memory is still there, with fewer rights.
    pub fn is_restricted(&self) -> bool {
        match (self.was, self.now) {
            (Remembered::Page { pa, .. }, Some((now, _))) => pa == now,
            _ => false,
        }
    }
}

impl TableIndex {
    /// What was lost by the last update, [`MAX_LOST`] things at most, and how many more parts may have lost
    /// something. Of the kernel half: below entries of roots that are still there.
    pub(crate) fn lost(&self) -> (Vec<Lost>, u64) {
        let Some(before) = &self.delta.before else {
            return (Vec::new(), 0);
        };
        let budget = self.snapshot.budget();
        let (mut lost, mut left_out) = (Vec::new(), 0);
        // Tables of its own may have told the same of many address spaces.
        let mut known = HashSet::new();
        for part in &self.delta.dropped {
            let Some((root, owner)) = self.place_of_dropped(part) else {
                continue;
            };
            let entries = part.pages.len() + part.tables.len();
            if lost.len() >= MAX_LOST || !budget.pay(entries as u64) {
                left_out += 1;
                continue;
            }
            let tables = part.tables.iter().filter_map(|table| {
                let was = before.table_at(table.slot)?;
                self.lost_table(before, (root, owner), (was.pfn(), was.level(), table.base))
            });
            let pages = part
                .pages
                .iter()
                .filter_map(|page| self.lost_page(before, (root, owner), page));
            let new = tables
                .chain(pages)
                .filter(|found| known.insert((found.root, found.range.first, level_of(found))));
            lost.extend(new.take(MAX_LOST));
        }
        (lost, left_out)
    }

    /// An address space to ask about a part of before, if it still lives, and whose the part was.
    fn place_of_dropped(&self, part: &Part) -> Option<(Option<RootId>, Option<PhysAddr>)> {
        if let Some((index, entry)) = part.entry {
            let now = self.groups.part_below(index, entry)?;
            return Some((Some(self.root_of(now)), None));
        }
        let mut spaces = self.spaces.iter();
        let space = spaces.find(|space| space.address == part.owner);
        Some((space.map(|space| space.root), Some(part.owner)))
    }

    fn walk_now(&self, root: Option<RootId>, va: VirtAddr) -> Option<Walk> {
        Some(self.snapshot.translate(root?, va))
    }

    fn lost_page(
        &self,
        before: &Snapshot,
        (root, owner): (Option<RootId>, Option<PhysAddr>),
        page: &Page,
    ) -> Option<Lost> {
        let walk = self.walk_now(root, page.va);
        let found = walk.as_ref().and_then(Walk::translation);
        let now = found.map(|found| (found.pa, found.rights));
        let lacks = |had: bool, has: bool| had && !has;
        let is_kept = now.is_some_and(|(pa, rights)| {
            pa == page.pa
                && !lacks(page.rights.write, rights.write)
                && !lacks(page.rights.user, rights.user)
                && !lacks(page.rights.execute, rights.execute)
        });
        if is_kept {
            return None;
        }
        let table = before.table(page.table, page.level());
        Some(Lost {
            root: owner,
            range: page.range(),
            was: Remembered::Page {
                pa: page.pa,
                rights: page.rights,
                global: table.is_some_and(|table| table.entry(page.index).global()),
            },
            now,
            entry: passes(walk.as_ref(), page.table, page.level())
                .then_some((page.table, page.index)),
        })
    }

    fn lost_table(
        &self,
        before: &Snapshot,
        (root, owner): (Option<RootId>, Option<PhysAddr>),
        (frame, level, base): (Pfn, Level, VirtAddr),
    ) -> Option<Lost> {
        let walk = self.walk_now(root, base);
        if passes(walk.as_ref(), frame, level) {
            return None;
        }
        // The entry at which the walk ends now led to the table if it stands in the table above.
        let last = walk.as_ref().and_then(|walk| walk.steps().last());
        let above = last.filter(|step| {
            let was = before.table(step.table, step.level);
            step.level.next() == Some(level)
                && was.is_some_and(|was| was.entry(step.index).address().pfn() == frame)
        });
        let bytes = 512 * level.entry_span();
        Some(Lost {
            root: owner,
            range: VirtRange::new(base, bytes)?,
            was: Remembered::Table { frame, level },
            now: None,
            entry: above.map(|step| (step.table, step.index)),
        })
    }
}

fn passes(walk: Option<&Walk>, table: Pfn, level: Level) -> bool {
    walk.is_some_and(|walk| {
        let mut steps = walk.steps().iter();
        steps.any(|step| step.table == table && step.level == level)
    })
}

fn level_of(lost: &Lost) -> Option<Level> {
    match lost.was {
        Remembered::Page { .. } => None,
        Remembered::Table { level, .. } => Some(level),
    }
}
