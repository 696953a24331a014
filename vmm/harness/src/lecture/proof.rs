//! What an experiment showed of a claim, and the verdict on it.

use serde::Serialize;

use super::Claim;
use crate::error::RunError;

/// Objections that are kept; more are only counted.
const MAX_KEPT: usize = 8;

/// Gathers what the tables showed and what the CPU did, and everything that speaks against the claim.
#[derive(Default)]
pub(crate) struct Proof {
    tables: Vec<String>,
    cpu: Vec<String>,
    checks: u64,
    objections: Vec<String>,
    objected: u64,
}

/// Why a claim could not be judged to the end.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// An experiment did not come to its end.
    #[error(transparent)]
    Run(#[from] RunError),
    /// An experiment did not show what is judged: that, too, speaks against the claim.
    #[error("{0}")]
    Missing(String),
}

/// What could not be seen.
pub(crate) fn missing(what: impl Into<String>) -> ClaimError {
    ClaimError::Missing(what.into())
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

    /// Checks one fact; whether it is as the claim says.
    pub(crate) fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) -> bool {
        self.checks += 1;
        if !holds {
            self.object(otherwise);
        }
        holds
    }

    /// Checks that something is exactly as expected.
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
        if self.objections.len() < MAX_KEPT {
            self.objections.push(what());
        }
    }

    /// What spoke against the claim was not seen whole.
    pub(crate) fn forget_objections(&mut self) {
        self.objected = 0;
        self.objections.clear();
    }

    /// Whether facts were held against the claim, and it stands.
    pub(crate) fn holds(&self) -> bool {
        self.checks > 0 && self.objected == 0
    }
}

/// A claim with its verdict.
#[derive(Debug, Serialize)]
pub struct ClaimResult {
    /// From 1, in the lecture's order.
    pub number: u8,
    /// What the lecture says, shortened.
    pub claim: &'static str,
    /// How it was tried.
    pub experiment: &'static str,
    /// What the page tables showed.
    pub tables: Vec<String>,
    /// What the CPU did, or read.
    pub cpu: Vec<String>,
    /// Whether facts were checked and none spoke against the claim.
    pub holds: bool,
    /// Whether its experiments ran out of time: then it is not judged, and does not hold.
    pub out_of_time: bool,
    /// Facts held against the claim …
    pub checks: u64,
    /// … how many of them spoke against it …
    pub objected: u64,
    /// … and the first of those.
    pub objections: Vec<String>,
    /// What the runs and the judging took.
    pub seconds: f64,
}

impl Proof {
    /// The verdict on what was gathered for `claim`.
    pub(crate) fn result(self, claim: &Claim, out_of_time: bool, seconds: f64) -> ClaimResult {
        let holds = self.holds() && !out_of_time;
        let Proof {
            tables,
            cpu,
            checks,
            objections,
            objected,
        } = self;
        ClaimResult {
            number: claim.number,
            claim: claim.statement,
            experiment: claim.experiment,
            tables,
            cpu,
            holds,
            out_of_time,
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
    use crate::lecture::claims;

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
        let result = proof.result(&claims()[0], false, 0.0);
        assert_eq!(result.objections.len(), MAX_KEPT);
        assert_eq!(
            (result.checks, result.objected, result.holds),
            (1000, 1000, false)
        );
    }

    #[test]
    fn a_claim_that_ran_out_of_time_does_not_hold_whatever_was_seen_before() {
        let mut proof = Proof::default();
        proof.require_equal("a", &1, &1);
        let result = proof.result(&claims()[0], true, 0.0);
        assert!(!result.holds && result.objections.is_empty());
    }
}
