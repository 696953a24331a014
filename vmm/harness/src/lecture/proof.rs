//! What an experiment showed of a claim, and the verdict on it.

use serde::Serialize;

use crate::error::RunError;

/// Objections that are kept; more are only counted.
const MOST_KEPT: usize = 8;

/// Gathers what the tables showed and what the CPU did, and everything that speaks against the claim.
#[derive(Default)]
pub struct Proof {
    tables: Vec<String>,
    cpu: Vec<String>,
    checks: u64,
    objections: Vec<String>,
    objected: u64,
}

/// Why a claim could not be judged to the end.
pub enum Trouble {
    /// There was no run.
    Run(RunError),
    /// The run did not show what was to be judged: that, too, speaks against the claim.
    Missing(String),
}

impl From<RunError> for Trouble {
    fn from(failure: RunError) -> Trouble {
        Trouble::Run(failure)
    }
}

/// What could not be seen.
pub(crate) fn missing(what: impl Into<String>) -> Trouble {
    Trouble::Missing(what.into())
}

impl Proof {
    /// Something that the page tables showed.
    pub(crate) fn tables(&mut self, what: impl Into<String>) {
        self.tables.push(what.into());
    }

    /// Something that the CPU did, or read.
    pub(crate) fn cpu(&mut self, what: impl Into<String>) {
        self.cpu.push(what.into());
    }

    /// Holds one fact against the claim; whether it stands.
    pub(crate) fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) -> bool {
        self.checks += 1;
        if !holds {
            self.object(otherwise);
        }
        holds
    }

    /// Holds against the claim that something is exactly as expected.
    pub(crate) fn require_equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        found: &T,
        expected: &T,
    ) -> bool {
        self.require(found == expected, || {
            format!("{what}: expected {expected:?}, found {found:?}")
        })
    }

    /// Something that speaks against the claim.
    pub(crate) fn object(&mut self, what: impl FnOnce() -> String) {
        self.objected += 1;
        if self.objections.len() < MOST_KEPT {
            self.objections.push(what());
        }
    }

    /// Whether facts were held against the claim, and it stands.
    pub(crate) fn holds(&self) -> bool {
        self.checks > 0 && self.objected == 0
    }
}

/// A claim with its verdict.
#[derive(Serialize)]
pub struct Row {
    pub number: u8,
    pub claim: &'static str,
    pub experiment: &'static str,
    pub tables: Vec<String>,
    pub cpu: Vec<String>,
    pub holds: bool,
    /// Facts held against the claim …
    pub checks: u64,
    /// … how many of them spoke against it …
    pub objected: u64,
    /// … and the first of those.
    pub objections: Vec<String>,
    /// What the runs and the judging took.
    pub seconds: f64,
}

impl Row {
    /// The verdict on what was gathered for a claim.
    pub fn new(
        number: u8,
        claim: &'static str,
        experiment: &'static str,
        proof: Proof,
        seconds: f64,
    ) -> Row {
        let holds = proof.holds();
        let Proof {
            tables,
            cpu,
            checks,
            objections,
            objected,
        } = proof;
        Row {
            number,
            claim,
            experiment,
            tables,
            cpu,
            holds,
            checks,
            objected,
            objections,
            seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_nothing_was_held_against_does_not_hold() {
        assert!(!Proof::default().holds());
    }

    #[test]
    fn one_fact_against_it_breaks_a_claim_for_good() {
        let mut proof = Proof::default();
        proof.require_equal("a", &1, &1);
        assert!(proof.holds());
        proof.require_equal("b", &1, &2);
        proof.require_equal("c", &1, &1);
        assert!(!proof.holds());
        assert_eq!(proof.objections, ["b: expected 2, found 1"]);
    }

    #[test]
    fn of_many_objections_the_first_are_kept_and_all_are_counted() {
        let mut proof = Proof::default();
        for number in 0..1000 {
            proof.require(false, || number.to_string());
        }
        let row = Row::new(1, "claim", "experiment", proof, 0.0);
        assert_eq!(row.objections.len(), MOST_KEPT);
        assert_eq!((row.checks, row.objected, row.holds), (1000, 1000, false));
    }
}
