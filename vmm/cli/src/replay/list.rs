//! The list of a recording's events: who did what, and what it did to the tables.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use heirloom_harness::event::{Event, describe};
use heirloom_inspect::Snapshot;
use heirloom_source::recording::Moment;
use serde::Serialize;

/// What an event did to the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Changes {
    /// Tables that were none before.
    pub(super) new_tables: usize,
    /// Tables that are none any more.
    pub(super) gone_tables: usize,
    /// Entries of other tables that software wrote.
    pub(super) written_entries: usize,
    /// Entries in which only A and D changed, which the CPU sets.
    pub(super) touched_entries: usize,
}

impl Changes {
    /// What was done to the tables of `before` until they were those of `after`.
    pub(super) fn between(before: Option<&Snapshot>, after: &Snapshot) -> Changes {
        let Some(before) = before else {
            return Changes {
                new_tables: after.tables().count(),
                ..Changes::default()
            };
        };
        let (mut written, mut touched) = (0, 0);
        for change in after.changes_since(before) {
            if change.is_written() {
                written += 1;
            } else {
                touched += 1;
            }
        }
        Changes {
            new_tables: after.tables_not_in(before).count(),
            gone_tables: before.tables_not_in(after).count(),
            written_entries: written,
            touched_entries: touched,
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = |count: usize| if count == 1 { "entry" } else { "entries" };
        let tables = |count: usize| if count == 1 { "table" } else { "tables" };
        let Changes {
            new_tables: new,
            gone_tables: gone,
            written_entries: written,
            touched_entries: touched,
        } = *self;
        let parts = [
            (written, format!("{written} {} written", entries(written))),
            (new, format!("{new} new {}", tables(new))),
            (gone, format!("{gone} {} gone", tables(gone))),
            (touched, format!("A or D in {touched} {}", entries(touched))),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(_, words)| words)
            .collect();
        f.pad(&if parts.is_empty() {
            "unchanged".to_owned()
        } else {
            parts.join(", ")
        })
    }
}

/// One event.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) event: u64,
    /// Whose address space the CPU had, as the guest says.
    pub(super) whose: Option<heirloom_inspect::RootLabel>,
    pub(super) what: String,
    /// `None` for an event whose tables were not captured.
    pub(super) changes: Option<Changes>,
    /// Address spaces.
    pub(super) roots: Option<usize>,
}

impl Row {
    /// The moment that follows one with the tables `before`.
    pub(super) fn of(moment: &Moment, told: Option<&Event>, before: Option<&Snapshot>) -> Row {
        let snapshot = moment.tables.as_ref().map(|tables| &tables.snapshot);
        Row {
            event: moment.number,
            whose: told.map(Event::label),
            what: told.map_or_else(|| "captured".into(), describe),
            changes: snapshot.map(|snapshot| Changes::between(before, snapshot)),
            roots: snapshot.map(|snapshot| snapshot.roots().len()),
        }
    }
}

/// All events.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(super) struct List(Vec<Row>);

impl List {
    pub(super) fn push(&mut self, row: Row) {
        self.0.push(row);
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(["event", "what", "page tables", "roots"]);
        for row in &self.0 {
            let changes = row
                .changes
                .map_or_else(|| "–".into(), |changes| changes.to_string());
            let roots = row
                .roots
                .map_or_else(|| "–".into(), |roots| roots.to_string());
            table.add_row([row.event.to_string(), row.what.clone(), changes, roots]);
        }
        for column in [0, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        write!(f, "{table}")
    }
}
