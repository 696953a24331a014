//! What was written to page tables between two snapshots.

use std::sync::Arc;

use serde::Serialize;

use crate::snapshot::Snapshot;
use crate::table::{Slot, Table};
use heirloom_paging::addr::Pfn;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Level;

/// An entry that is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EntryChange {
    pub table: Pfn,
    pub level: Level,
    pub index: u16,
    pub before: Entry,
    pub after: Entry,
}

impl EntryChange {
    /// Whether more changed than A and D, which the CPU sets on its own.
    pub fn is_written(&self) -> bool {
        self.before.as_written() != self.after.as_written()
    }
}

impl Snapshot {
    /// The entries that differ from `earlier`, in tables that both snapshots have. Costs little
    /// where both come from one capturer: unchanged tables are the same `Arc`.
    pub fn changes_since<'s>(
        &'s self,
        earlier: &'s Snapshot,
    ) -> impl Iterator<Item = EntryChange> + use<'s> {
        self.tables_with(earlier)
            .filter_map(|(after, before)| Some((after, before?)))
            .flat_map(|(after, before)| {
                (0..512).filter_map(move |index| {
                    let change = EntryChange {
                        table: after.pfn(),
                        level: after.level(),
                        index,
                        before: before.entry(index),
                        after: after.entry(index),
                    };
                    (change.before != change.after).then_some(change)
                })
            })
    }

    /// The tables that `earlier` does not have: call it on the earlier snapshot, too, and it tells
    /// the tables that are gone.
    pub fn tables_not_in<'s>(
        &'s self,
        earlier: &'s Snapshot,
    ) -> impl Iterator<Item = &'s Arc<Table>> + use<'s> {
        self.tables_with(earlier)
            .filter_map(|(table, before)| before.is_none().then_some(table))
    }

    /// The places where the snapshots do not hold the same table (the same `Arc`): what `earlier` holds
    /// there, and what this one holds. Without an earlier snapshot, every table is new.
    pub fn replaced_tables<'s>(
        &'s self,
        earlier: Option<&'s Snapshot>,
    ) -> impl Iterator<Item = (Option<&'s Arc<Table>>, Option<&'s Arc<Table>>)> + use<'s> {
        let slots = earlier.map_or(0, Snapshot::slots).max(self.slots());
        (0..).map(Slot).take(slots).filter_map(move |slot| {
            let before = earlier.and_then(|earlier| earlier.table_at(slot));
            let after = self.table_at(slot);
            match (before, after) {
                (None, None) => None,
                // Snapshots of one capturer keep a table in the same slot.
                (Some(before), Some(after)) if Arc::ptr_eq(before, after) => None,
                both => Some(both),
            }
        })
    }

    /// Every table that is not the same `Arc` in `earlier`, with what was there.
    fn tables_with<'s>(
        &'s self,
        earlier: &'s Snapshot,
    ) -> impl Iterator<Item = (&'s Arc<Table>, Option<&'s Arc<Table>>)> + use<'s> {
        self.slotted_tables()
            .filter(|&(slot, table)| {
                // Snapshots of one capturer keep a table in the same slot.
                !earlier
                    .table_at(slot)
                    .is_some_and(|before| Arc::ptr_eq(before, table))
            })
            .map(|(_, table)| (table, earlier.table(table.pfn(), table.level())))
    }
}
