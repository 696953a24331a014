//! One event of a recording in full: what the guest reported, the CPU, and every entry that changed.

use std::fmt;

use heirloom_harness::event::{self, describe};
use heirloom_harness::replay::event_of;
use heirloom_inspect::changes::EntryChange;
use heirloom_inspect::{CpuState, Depth, Entry, Level, Pfn, PhysAddr, RootLabel, Snapshot};
use heirloom_source::recording::{ReadError, Recording};
use serde::Serialize;

use super::list::Changes;

/// Entries that are listed for people.
const MAX_ENTRIES: usize = 64;

/// A table that was made or given up.
#[derive(Serialize)]
struct TableName {
    table: Pfn,
    level: Level,
}

#[derive(Serialize)]
struct RootName {
    whose: RootLabel,
    root: PhysAddr,
}

/// An entry with the names of its flags.
fn shown(entry: Entry) -> String {
    if entry == Entry::ABSENT {
        return "absent".into();
    }
    format!("{entry} ({})", entry.flags())
}

/// The event.
#[derive(Serialize)]
pub(super) struct Event {
    version: u32,
    #[serde(rename = "event")]
    number: u64,
    what: String,
    told: Option<event::Event>,
    cpus: Vec<CpuState>,
    roots: Vec<RootName>,
    /// `None` for an event whose tables were not captured.
    changes: Option<Changes>,
    /// Of the tables; four levels where there are none.
    #[serde(skip)]
    depth: Depth,
    entries: Vec<EntryChange>,
    new_tables: Vec<TableName>,
    gone_tables: Vec<TableName>,
}

fn not_in(tables: &Snapshot, other: Option<&Snapshot>) -> Vec<TableName> {
    let Some(other) = other else {
        return Vec::new();
    };
    tables
        .tables_not_in(other)
        .map(|table| TableName {
            table: table.pfn(),
            level: table.level(),
        })
        .collect()
}

impl Event {
    /// The event that the guest gave this number.
    pub(super) fn of(recording: &Recording, number: u64) -> Result<Event, ReadError> {
        let index = recording.position(number)?;
        let mut player = recording.player();
        // The tables before it are those of the last event that has any.
        let mut before = None;
        for earlier in (0..index).rev() {
            before = player.moment(earlier)?.tables;
            if before.is_some() {
                break;
            }
        }
        let moment = player.moment(index)?;
        let told = event_of(recording, &moment)?;
        let before = before.map(|tables| tables.snapshot);
        let after = moment.tables.as_ref().map(|tables| &tables.snapshot);
        let mut entries: Vec<EntryChange> = match (after, &before) {
            (Some(after), Some(before)) => after.changes_since(before).collect(),
            _ => Vec::new(),
        };
        entries.sort_by_key(|change| (change.level, change.table, change.index));
        let gone = match (after, &before) {
            (Some(after), Some(before)) => not_in(before, Some(after)),
            _ => Vec::new(),
        };
        Ok(Event {
            version: super::VERSION,
            number,
            what: told.as_ref().map_or_else(|| "captured".into(), describe),
            depth: after.map_or(Depth::Four, |after| after.mode().depth),
            changes: after.map(|after| Changes::between(before.as_ref(), after)),
            entries,
            new_tables: after.map_or_else(Vec::new, |after| not_in(after, before.as_ref())),
            gone_tables: gone,
            roots: moment
                .tables
                .iter()
                .flat_map(heirloom_source::recording::Tables::roots)
                .map(|(whose, root)| RootName { whose, root })
                .collect(),
            cpus: moment.tables.map_or_else(Vec::new, |tables| tables.cpus),
            told,
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}: {}", self.number, self.what)?;
        for (number, cpu) in self.cpus.iter().enumerate() {
            write!(
                f,
                "\nCPU {number}: CR3 {:#x}, RIP {}, ring {}, CR2 {}",
                cpu.cr3.get(),
                cpu.rip,
                cpu.cpl,
                cpu.cr2
            )?;
        }
        if self.changes.is_some() {
            write!(f, "\n{} address spaces", self.roots.len())?;
        }
        match self.changes {
            Some(changes) => write!(f, "\npage tables: {changes}")?,
            None => write!(f, "\nno page tables were captured")?,
        }
        for change in self.entries.iter().take(MAX_ENTRIES) {
            let EntryChange {
                table,
                level,
                index,
                before,
                after,
            } = change;
            write!(
                f,
                "\n  {}[{index}] of table {table}: {} → {}",
                self.depth.name(*level),
                shown(*before),
                shown(*after)
            )?;
        }
        let more = self.entries.len().saturating_sub(MAX_ENTRIES);
        if more > 0 {
            write!(f, "\n  … and {more} more entries; --json has them all")?;
        }
        for (word, tables) in [("new", &self.new_tables), ("gone", &self.gone_tables)] {
            for TableName { table, level } in tables.iter().take(MAX_ENTRIES) {
                let name = self.depth.name(*level);
                write!(f, "\n  {word}: {name} in frame {table}")?;
            }
            let more = tables.len().saturating_sub(MAX_ENTRIES);
            if more > 0 {
                write!(
                    f,
                    "\n  … and {more} more {word} tables; --json has them all"
                )?;
            }
        }
        Ok(())
    }
}
