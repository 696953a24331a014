//! The lecture's verdicts: a row for each claim, written as soon as it is judged, and JSON of all.

use std::fmt;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use heirloom_harness::lecture::ClaimResult;
use serde::Serialize;

/// Version of the JSON form; grows when a field changes its meaning or goes.
const VERSION: u32 = 1;
const HEADER: [&str; 6] = [
    "",
    "claim",
    "experiment",
    "what the tables showed",
    "what the CPU did",
    "verdict",
];
/// Columns of the table where no terminal says how wide it is, and at least.
const WIDTH: u16 = 140;
const MIN_WIDTH: u16 = 90;
/// Widths of the columns, padding included; what was found shares the rest.
const NUMBER_WIDTH: u16 = 4;
const CLAIM_WIDTH: u16 = 28;
const EXPERIMENT_WIDTH: u16 = 24;
const VERDICT_WIDTH: u16 = 9;
/// Columns between these.
const SEPARATORS: u16 = 5;

/// A claim's row, under the table's header if it is the first. Rows of one terminal stand under each other.
pub(super) fn row(result: &ClaimResult, is_first: bool) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if is_first {
        table.set_header(HEADER);
    }
    table.add_row([
        result.number.to_string(),
        result.claim.to_owned(),
        result.experiment.to_owned(),
        result.tables.join("\n"),
        result.cpu.join("\n"),
        verdict(result).to_owned(),
    ]);
    let width = table.width().unwrap_or(WIDTH).max(MIN_WIDTH);
    table.set_width(width);
    let fixed = NUMBER_WIDTH + CLAIM_WIDTH + EXPERIMENT_WIDTH + VERDICT_WIDTH;
    let found = (width - fixed - SEPARATORS) / 2;
    let widths = [
        NUMBER_WIDTH,
        CLAIM_WIDTH,
        EXPERIMENT_WIDTH,
        found,
        found,
        VERDICT_WIDTH,
    ];
    for (column, width) in table.column_iter_mut().zip(widths) {
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
    }
    let text = table.to_string();
    match text.split_once('\n') {
        // The row before has drawn this line.
        Some((_border, row)) if !is_first => row.to_owned(),
        _ => text,
    }
}

pub(super) fn verdict(result: &ClaimResult) -> &'static str {
    match (result.holds, result.out_of_time) {
        (true, _) => "HOLDS",
        (false, true) => "OUT OF TIME",
        (false, false) => "BROKEN",
    }
}

/// All claims that were judged.
#[derive(Serialize)]
pub(super) struct Lecture {
    version: u32,
    /// Whether every claim holds.
    holds: bool,
    claims: Vec<ClaimResult>,
}

impl Lecture {
    pub(super) fn new(claims: Vec<ClaimResult>) -> Lecture {
        Lecture {
            version: VERSION,
            holds: !claims.is_empty() && claims.iter().all(|result| result.holds),
            claims,
        }
    }

    /// What became of each claim.
    pub(super) fn claims(&self) -> impl Iterator<Item = &ClaimResult> {
        self.claims.iter()
    }

    /// The verdict in a sentence.
    pub(super) fn sentence(&self) -> String {
        let checks: u64 = self.claims.iter().map(|result| result.checks).sum();
        let seconds: f64 = self.claims.iter().map(|result| result.seconds).sum();
        let holding = self.claims.iter().filter(|result| result.holds).count();
        let verdict = match (self.holds, self.is_broken()) {
            (true, _) => "HOLDS",
            (false, true) => "BROKEN",
            (false, false) => "BROKEN OFF",
        };
        format!(
            "{verdict}: {holding} of {} claims hold ({checks} facts checked in {seconds:.1} s).",
            self.claims.len(),
        )
    }

    /// Whether every claim holds.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// The claims that were judged, and do not hold.
    fn broken(&self) -> impl Iterator<Item = &ClaimResult> {
        self.claims
            .iter()
            .filter(|result| !result.holds && !result.out_of_time)
    }

    /// Whether a claim was judged, and does not hold.
    pub(super) fn is_broken(&self) -> bool {
        self.broken().next().is_some()
    }

    /// The claims that were not judged, because their experiments ran out of time.
    pub(super) fn out_of_time(&self) -> impl Iterator<Item = &ClaimResult> {
        self.claims.iter().filter(|result| result.out_of_time)
    }
}

/// What does not hold and why, and the verdict: what stands below the rows.
impl fmt::Display for Lecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in self.broken() {
            writeln!(
                f,
                "\nclaim {} is BROKEN: {} of {} facts speak against it",
                result.number, result.objected, result.checks
            )?;
            for objection in &result.objections {
                writeln!(f, "  {objection}")?;
            }
        }
        write!(f, "\n{}", self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(number: u8, holds: bool, out_of_time: bool) -> ClaimResult {
        ClaimResult {
            number,
            claim: "a claim in the lecture's words, long enough for two lines",
            experiment: "an experiment",
            tables: vec!["what was seen ".repeat(9)],
            cpu: vec!["what was done".into()],
            holds,
            out_of_time,
            checks: 7,
            objected: 1,
            objections: vec!["an objection".into()],
            seconds: 0.5,
        }
    }

    #[test]
    fn rows_that_are_written_one_by_one_are_one_table() {
        let rows = [
            row(&result(1, true, false), true),
            row(&result(2, false, false), false),
            row(&result(3, false, true), false),
        ];
        let text = rows.join("\n");
        assert_eq!(text.matches("what the CPU did").count(), 1, "{text}");
        let widths: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with(['─', '═']))
            .map(|line| line.chars().count())
            .collect();
        // Above, below the header, and below each row.
        assert_eq!(widths.len(), 5, "{text}");
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(widths[0] <= usize::from(WIDTH), "{text}");
        for (row, verdict) in rows.iter().zip(["HOLDS", "BROKEN", "OUT OF"]) {
            assert!(row.contains(verdict), "{row}");
        }
    }

    #[test]
    fn a_claim_that_ran_out_of_time_breaks_off_and_breaks_nothing() {
        let lecture = Lecture::new(vec![result(1, true, false), result(2, false, true)]);
        assert!(!lecture.holds() && !lecture.is_broken());
        assert_eq!(lecture.out_of_time().count(), 1);
        let text = lecture.to_string();
        assert!(
            text.starts_with("\nBROKEN OFF: 1 of 2 claims hold"),
            "{text}"
        );
        let broken = Lecture::new(vec![result(1, false, false), result(2, false, true)]);
        assert!(broken.is_broken());
        assert!(
            broken
                .to_string()
                .contains("claim 1 is BROKEN: 1 of 7 facts")
        );
    }
}
