//! The lecture's verdicts: a paragraph for each claim, written as soon as it is judged, and JSON of all.

use std::fmt;

use heirloom_harness::lecture::ClaimResult;
use serde::Serialize;

use crate::text::wrap::wrapped;

/// Version of the JSON form; grows when a field changes its meaning or goes.
const VERSION: u32 = 1;
/// Columns at most: longer lines are hard to read.
const MAX_WIDTH: usize = 100;
/// Columns of what stands before the texts.
const HEAD: usize = 12;

/// A claim with its verdict, what was tried, and what was found, in a terminal of so many columns.
pub(super) fn paragraph(result: &ClaimResult, columns: usize) -> String {
    let width = columns.clamp(2 * HEAD, MAX_WIDTH);
    let mut paragraph = String::new();
    let mut say = |head: &str, text: &str| {
        let mut head = head;
        for line in wrapped(text, width - HEAD, 0) {
            paragraph += format!("{head:<HEAD$}{line}").trim_end();
            paragraph.push('\n');
            head = "";
        }
    };
    say(&format!("claim {}", result.number), result.claim);
    say("  tried", result.experiment);
    for (mut head, found) in [("  tables", &result.tables), ("  CPU", &result.cpu)] {
        for text in found {
            say(head, text);
            head = "";
        }
    }
    say("", verdict(result));
    paragraph
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

/// What does not hold and why, and the verdict: what stands below the paragraphs.
impl fmt::Display for Lecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in self.broken() {
            writeln!(
                f,
                "claim {} is BROKEN: {} of {} facts speak against it",
                result.number, result.objected, result.checks
            )?;
            for objection in &result.objections {
                writeln!(f, "  {objection}")?;
            }
            writeln!(f)?;
        }
        f.write_str(&self.sentence())
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
    fn a_claims_paragraph_fits_the_terminal_and_says_all() {
        for columns in [40, 80, 200] {
            let text = paragraph(&result(12, false, true), columns);
            for line in text.lines() {
                let length = line.chars().count();
                assert!(length <= columns.min(MAX_WIDTH), "{columns}: {text}");
                assert_eq!(line, line.trim_end());
            }
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.starts_with("claim 12 a claim in"), "{text}");
            for part in [
                "tried an experiment",
                "tables what was seen",
                "CPU what was",
            ] {
                assert!(words.contains(part), "{columns}: {text}");
            }
            assert!(words.ends_with("OUT OF TIME"), "{text}");
        }
    }

    #[test]
    fn a_claim_that_ran_out_of_time_breaks_off_and_breaks_nothing() {
        let lecture = Lecture::new(vec![result(1, true, false), result(2, false, true)]);
        assert!(!lecture.holds() && !lecture.is_broken());
        assert_eq!(lecture.out_of_time().count(), 1);
        let text = lecture.to_string();
        assert!(text.starts_with("BROKEN OFF: 1 of 2 claims hold"), "{text}");
        let broken = Lecture::new(vec![result(1, false, false), result(2, false, true)]);
        assert!(broken.is_broken());
        assert!(
            broken
                .to_string()
                .contains("claim 1 is BROKEN: 1 of 7 facts")
        );
    }
}
