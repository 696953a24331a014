//! What a kernel is graded by: which strategies are booted, and what each rule and each claim is worth.

use std::collections::BTreeMap;

use heirloom_abi::options::Strategy;
use serde::Deserialize;

use crate::lecture::claims;

/// Points that something can be worth, and all together.
const MAX_POINTS: u64 = 1_000_000;
/// The longest time that a run may have, in seconds.
const MAX_SECONDS: u64 = 3600;

/// An assignment as its file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct AssignmentFile {
    /// What it is called.
    pub title: String,
    /// The strategies under which the kernel is booted, by name.
    pub propagation: Vec<String>,
    /// What a run, and the experiments of one claim, may take; 60 unless said.
    pub seconds: Option<u64>,
    /// Points for the parts of the scenario, all together.
    pub scenario: u64,
    /// Points for each rule, by name.
    pub rules: BTreeMap<String, u64>,
    /// Points for each claim of the lecture, by number.
    pub claims: BTreeMap<String, u64>,
}

/// Why a file is no assignment.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AssignmentError {
    /// No strategy has this name.
    #[error("no strategy is called `{0}`")]
    Strategy(String),
    /// There is none.
    #[error("`propagation` names no strategy, but the scenario or a rule has points")]
    NoStrategy,
    /// A strategy stands there twice.
    #[error("`propagation` names `{0}` twice")]
    Twice(String),
    /// No rule has this name.
    #[error("no rule is called `{0}`")]
    Rule(String),
    /// The rule is about another strategy.
    #[error("the rule `{0}` is tried under none of the strategies")]
    RuleUntried(String),
    /// No claim has this number.
    #[error("the lecture has no claim `{0}`; they are numbered from 1 to {1}")]
    Claim(String, usize),
    /// There is nothing to get.
    #[error("nothing in it has points")]
    NoPoints,
    /// Too many.
    #[error("it has more than {MAX_POINTS} points")]
    TooManyPoints,
    /// The time is none, or too much.
    #[error("`seconds` is to be from 1 to {MAX_SECONDS}")]
    Seconds,
}

/// An assignment, checked.
#[derive(Clone, Debug)]
pub struct Assignment {
    pub(super) title: String,
    pub(super) strategies: Vec<Strategy>,
    pub(super) seconds: u64,
    pub(super) scenario: u64,
    /// Points by rule, in the rules' order.
    pub(super) rules: Vec<(&'static str, u64)>,
    /// Points by claim, ascending.
    pub(super) claims: Vec<(u8, u64)>,
}

/// A run's and a claim's time unless said otherwise, in seconds.
const SECONDS: u64 = 60;

impl Assignment {
    /// Everything: all strategies that propagate, all rules, all claims; 100 points.
    pub fn everything() -> Assignment {
        let strategies: Vec<Strategy> = Strategy::ALL
            .into_iter()
            .filter(|strategy| strategy.propagates())
            .collect();
        let rules = super::rule_names(&strategies)
            .into_iter()
            .map(|name| (name, 2))
            .collect::<Vec<_>>();
        let claims: Vec<(u8, u64)> = claims().iter().map(|claim| (claim.number, 4)).collect();
        let given: u64 = 2 * rules.len() as u64 + 4 * claims.len() as u64;
        Assignment {
            title: "The whole lecture".into(),
            strategies,
            seconds: SECONDS,
            scenario: 100_u64.saturating_sub(given),
            rules,
            claims,
        }
    }

    /// What a file says, if it can be.
    ///
    /// # Errors
    /// [`AssignmentError`].
    pub fn new(file: AssignmentFile) -> Result<Assignment, AssignmentError> {
        let mut strategies = Vec::new();
        for name in file.propagation {
            let strategy = Strategy::from_name(&name);
            let strategy = strategy.ok_or_else(|| AssignmentError::Strategy(name.clone()))?;
            if strategies.contains(&strategy) {
                return Err(AssignmentError::Twice(name));
            }
            strategies.push(strategy);
        }
        if strategies.is_empty() && (file.scenario > 0 || !file.rules.is_empty()) {
            return Err(AssignmentError::NoStrategy);
        }
        let (tried, all) = (
            super::rule_names(&strategies),
            super::rule_names(&Strategy::ALL),
        );
        for name in file.rules.keys() {
            if !all.contains(&name.as_str()) {
                return Err(AssignmentError::Rule(name.clone()));
            }
            if !tried.contains(&name.as_str()) {
                return Err(AssignmentError::RuleUntried(name.clone()));
            }
        }
        let rules = tried
            .into_iter()
            .filter_map(|name| Some((name, *file.rules.get(name)?)))
            .collect::<Vec<_>>();
        let mut numbered = Vec::new();
        for (number, points) in &file.claims {
            let known = claims()
                .iter()
                .find(|claim| claim.number.to_string() == *number);
            let known =
                known.ok_or_else(|| AssignmentError::Claim(number.clone(), claims().len()))?;
            numbered.push((known.number, *points));
        }
        numbered.sort_unstable();
        let seconds = file.seconds.unwrap_or(SECONDS);
        if !(1..=MAX_SECONDS).contains(&seconds) {
            return Err(AssignmentError::Seconds);
        }
        let points = rules
            .iter()
            .map(|(_, points)| *points)
            .chain(numbered.iter().map(|(_, points)| *points))
            .fold(file.scenario, u64::saturating_add);
        match points {
            0 => return Err(AssignmentError::NoPoints),
            1..=MAX_POINTS => {}
            _ => return Err(AssignmentError::TooManyPoints),
        }
        Ok(Assignment {
            title: file.title,
            strategies,
            seconds,
            scenario: file.scenario,
            rules,
            claims: numbered,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::AssignmentError as E;
    use super::*;

    fn file() -> AssignmentFile {
        AssignmentFile {
            propagation: vec!["prealloc".into()],
            scenario: 5,
            rules: BTreeMap::from([("revoked".into(), 10), ("propagated".into(), 20)]),
            claims: BTreeMap::from([("12".into(), 1), ("5".into(), 2)]),
            ..AssignmentFile::default()
        }
    }

    #[test]
    fn an_assignment_has_its_rules_and_claims_in_their_own_order() {
        let assignment = Assignment::new(file()).unwrap();
        assert_eq!(assignment.rules, [("propagated", 20), ("revoked", 10)]);
        assert_eq!(assignment.claims, [(5, 2), (12, 1)]);
        assert_eq!(assignment.seconds, SECONDS);
    }

    #[test]
    fn everything_is_worth_a_hundred_points() {
        let all = Assignment::everything();
        let rules: u64 = all.rules.iter().map(|(_, points)| points).sum();
        let claims: u64 = all.claims.iter().map(|(_, points)| points).sum();
        assert_eq!(rules + claims + all.scenario, 100);
        assert!(all.scenario > 0);
    }

    #[test]
    fn what_cannot_be_graded_is_said() {
        let error = |change: fn(&mut AssignmentFile)| {
            let mut file = file();
            change(&mut file);
            Assignment::new(file).unwrap_err()
        };
        assert_eq!(
            error(|f| f.propagation[0] = "x".into()),
            E::Strategy("x".into())
        );
        assert_eq!(error(|f| f.propagation.clear()), E::NoStrategy);
        let twice = error(|f| f.propagation.push("prealloc".into()));
        assert_eq!(twice, E::Twice("prealloc".into()));
        let rule = |name: &str| {
            Assignment::new(AssignmentFile {
                rules: BTreeMap::from([(name.to_owned(), 1)]),
                ..file()
            })
        };
        assert_eq!(rule("x").unwrap_err(), E::Rule("x".into()));
        let isolated = "user-root-isolated".to_owned();
        assert_eq!(rule(&isolated).unwrap_err(), E::RuleUntried(isolated));
        let claim = error(|f| f.claims = BTreeMap::from([("14".into(), 1)]));
        assert_eq!(claim, E::Claim("14".into(), 13));
        assert_eq!(error(|f| f.seconds = Some(0)), E::Seconds);
        assert_eq!(error(|f| f.scenario = u64::MAX), E::TooManyPoints);
        assert_eq!(
            Assignment::new(AssignmentFile::default()).unwrap_err(),
            E::NoPoints
        );
    }
}
