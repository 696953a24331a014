//! The lecture's verdicts: a row for each claim, for people and as JSON.

use std::fmt;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use heirloom_harness::lecture::proof::Row;
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Version of the JSON form; grows when a field changes its meaning or goes.
const VERSION: u32 = 1;
/// Columns of the table where no terminal says how wide it is.
const WIDTH: u16 = 140;
const CLAIM_WIDTH: u16 = 26;
const EXPERIMENT_WIDTH: u16 = 22;

/// All claims that were judged.
#[derive(Serialize)]
pub(super) struct Lecture {
    version: u32,
    /// Whether every claim holds.
    holds: bool,
    claims: Vec<Row>,
}

impl Lecture {
    pub(super) fn new(claims: Vec<Row>) -> Lecture {
        Lecture {
            version: VERSION,
            holds: !claims.is_empty() && claims.iter().all(|row| row.holds),
            claims,
        }
    }

    /// Whether every claim holds.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// For programs.
    ///
    /// # Errors
    /// Never for what is in it.
    pub(super) fn json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self).map_err(|error| {
            Failure::new(Exit::Usage, format!("the lecture cannot be JSON: {error}"))
        })
    }
}

impl fmt::Display for Lecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header([
                "",
                "claim",
                "experiment",
                "what the tables showed",
                "what the CPU did",
                "verdict",
            ]);
        if table.width().is_none() {
            table.set_width(WIDTH);
        }
        // What was found needs the room.
        for (column, width) in [(1, CLAIM_WIDTH), (2, EXPERIMENT_WIDTH)] {
            if let Some(column) = table.column_mut(column) {
                column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(width)));
            }
        }
        for row in &self.claims {
            table.add_row([
                row.number.to_string(),
                row.claim.to_owned(),
                row.experiment.to_owned(),
                row.tables.join("\n"),
                row.cpu.join("\n"),
                verdict(row.holds).to_owned(),
            ]);
        }
        writeln!(f, "{table}")?;
        for row in self.claims.iter().filter(|row| !row.holds) {
            writeln!(
                f,
                "\nclaim {} is BROKEN: {} of {} facts speak against it",
                row.number, row.objected, row.checks
            )?;
            for objection in &row.objections {
                writeln!(f, "  {objection}")?;
            }
        }
        let checks: u64 = self.claims.iter().map(|row| row.checks).sum();
        let seconds: f64 = self.claims.iter().map(|row| row.seconds).sum();
        let holding = self.claims.iter().filter(|row| row.holds).count();
        write!(
            f,
            "\n{}: {holding} of {} claims hold ({checks} facts checked in {seconds:.1} s).",
            verdict(self.holds),
            self.claims.len(),
        )
    }
}

fn verdict(holds: bool) -> &'static str {
    if holds { "HOLDS" } else { "BROKEN" }
}
