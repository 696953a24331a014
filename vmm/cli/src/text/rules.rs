//! The rules of a report: a row for each with which something is, and the others together.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use heirloom_inspect::rules::{Outcome, Verdict};

use crate::ui;

/// The rules of a report as a table, with a last column of its own.
pub(super) struct Rules<'a> {
    verdicts: &'a [Verdict],
    last: (&'static str, fn(&Verdict) -> String),
    all: bool,
}

impl<'a> Rules<'a> {
    /// Those that are broken, or of which the last column, called `name`, has something to say; with --verbose all.
    pub(super) fn new(
        verdicts: &'a [Verdict],
        name: &'static str,
        last: fn(&Verdict) -> String,
    ) -> Rules<'a> {
        Rules {
            verdicts,
            last: (name, last),
            all: ui::verbose(),
        }
    }

    /// A row for every rule.
    #[cfg(test)]
    pub(super) fn all(self) -> Rules<'a> {
        Rules { all: true, ..self }
    }

    fn has_row(&self, verdict: &Verdict) -> bool {
        self.all || verdict.violations > 0 || !(self.last.1)(verdict).is_empty()
    }

    fn table(&self) -> Option<Table> {
        let mut rows = self.verdicts.iter().filter(|verdict| self.has_row(verdict));
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["rule", "verdict", "checks", "broken", self.last.0]);
        let mut is_empty = true;
        for verdict in rows.by_ref() {
            is_empty = false;
            table.add_row([
                verdict.rule.name.to_owned(),
                match verdict.outcome {
                    Outcome::Holds => "holds",
                    Outcome::Broken => "BROKEN",
                    Outcome::NotTried { .. } => "not tried",
                }
                .to_owned(),
                verdict.checks.to_string(),
                match verdict.violations {
                    0 => String::new(),
                    broken => broken.to_string(),
                },
                (self.last.1)(verdict),
            ]);
        }
        let last = self.verdicts.iter().map(self.last.1);
        let is_number = last
            .flat_map(String::into_bytes)
            .all(|letter| letter.is_ascii_digit());
        for column in [2, 3].into_iter().chain(is_number.then_some(4)) {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        (!is_empty).then_some(table)
    }
}

impl fmt::Display for Rules<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        let more = if table.is_some() { " more" } else { "" };
        if let Some(table) = table {
            writeln!(f, "{}", table.trim_fmt())?;
        }
        let others = || {
            let verdicts = self.verdicts.iter();
            verdicts.filter(|verdict| !self.has_row(verdict))
        };
        match others().filter(|verdict| verdict.holds()).count() {
            0 => {}
            1 => writeln!(f, "1{more} rule holds; -v lists it")?,
            hold => writeln!(f, "{hold}{more} rules hold; -v lists them")?,
        }
        let untried =
            others().filter(|verdict| matches!(verdict.outcome, Outcome::NotTried { .. }));
        let untried: Vec<&str> = untried.map(|verdict| verdict.rule.name).collect();
        if !untried.is_empty() {
            writeln!(f, "not tried: {}", untried.join(", "))?;
        }
        Ok(())
    }
}
