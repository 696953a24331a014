//! What was written to page tables between two snapshots.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::snapshot::Snapshot;
use crate::table::Table;
use heirloom_paging::addr::Pfn;
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Level;

/// An entry that is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EntryChange {
    /// The frame of the table.
    pub table: Pfn,
    /// The level at which the table is used.
    pub level: Level,
    /// Which of its 512 entries.
    pub index: u16,
    /// What the entry was.
    pub before: Entry,
    /// What it is now.
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

    /// The places where the two do not hold the same table (the same `Arc`): what `earlier` holds there,
    /// and what this one holds. One and the same place may have belonged to different frames; without an
    /// earlier snapshot, every table is new. Snapshots of one capturer share what did not change, and
    /// nothing of that is looked at.
    pub fn replaced_tables<'s>(
        &'s self,
        earlier: Option<&'s Snapshot>,
    ) -> impl Iterator<Item = (Option<&'s Arc<Table>>, Option<&'s Arc<Table>>)> + use<'s> {
        let (before, all) = match earlier {
            Some(earlier) => (Some(earlier.nodes()), None),
            None => (None, Some(self.tables())),
        };
        let replaced = before.into_iter().flat_map(|before| {
            let changed = self.nodes().changed_since(before);
            changed.map(|(_, before, after)| (before.table(), after.table()))
        });
        // What is missing in both is no table.
        let replaced = replaced.filter(|pair| !matches!(pair, (None, None)));
        let new = all.into_iter().flatten().map(|table| (None, Some(table)));
        replaced.chain(new)
    }

    /// Every table that is not the same `Arc` in `earlier`, with what was there.
    fn tables_with<'s>(
        &'s self,
        earlier: &'s Snapshot,
    ) -> impl Iterator<Item = (&'s Arc<Table>, Option<&'s Arc<Table>>)> + use<'s> {
        let replaced: Vec<_> = self.replaced_tables(Some(earlier)).collect();
        // A table that went and came back may have another place.
        let known: HashMap<(Pfn, Level), &Arc<Table>> = replaced
            .iter()
            .filter_map(|(before, _)| before.map(|table| ((table.pfn(), table.level()), table)))
            .collect();
        replaced
            .into_iter()
            .filter_map(|(_, after)| after)
            .map(move |after| (after, known.get(&(after.pfn(), after.level())).copied()))
    }
}
