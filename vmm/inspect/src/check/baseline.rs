//! Findings that are known or allowed: they pass and are counted; what is new is a fault.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::rules::{Finding, Outcome, RuleInfo};
use heirloom_paging::addr::VirtRange;

/// Findings that a baseline has at most: all that a check keeps.
const MOST: usize = 1 << 18;

/// The findings of a check, by what they are called from run to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Of this form: 1.
    pub version: u32,
    /// Identities of findings, ascending.
    pub findings: BTreeSet<String>,
}

/// Why a baseline cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaselineError {
    /// Another version wrote it.
    #[error("it has version {0}, and this heirloom reads version 1; write it anew")]
    Version(u32),
    /// No check has so many.
    #[error("it has {0} findings, and no check keeps so many; write it anew")]
    TooMany(usize),
}

/// What a baseline made of a check's findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Findings that the baseline has: they pass.
    pub known: usize,
    /// Findings that it has not.
    pub new: usize,
    /// What it has and was not found.
    pub gone: Vec<String>,
}

/// Findings of a rule that the user lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The rule.
    pub rule: RuleInfo,
    /// Where; `None`: anywhere.
    pub range: Option<VirtRange>,
}

impl Baseline {
    /// That it can be used.
    ///
    /// # Errors
    /// [`BaselineError`].
    pub fn valid(self) -> Result<Baseline, BaselineError> {
        match (self.version, self.findings.len()) {
            (1, length) if length <= MOST => Ok(self),
            (1, length) => Err(BaselineError::TooMany(length)),
            (version, _) => Err(BaselineError::Version(version)),
        }
    }
}

impl Allowance {
    fn covers(&self, rule: &str, finding: &Finding) -> bool {
        let at = finding.range.map(|range| (range.first, range.last));
        let at = at.or(finding.address.map(|address| (address, address)));
        self.rule.name == rule
            && self.range.is_none_or(|range| {
                at.is_some_and(|(first, last)| range.contains(first) && range.contains(last))
            })
    }
}

impl Check {
    /// What a later check is compared with.
    pub fn baseline(&self) -> Baseline {
        let findings = self.rules.iter().flat_map(|rule| &rule.findings);
        Baseline {
            version: 1,
            findings: findings.map(|finding| finding.identity.clone()).collect(),
        }
    }

    /// Lets the findings of a baseline pass; what else was found stays a fault, and what was not found is said.
    pub fn compare(&mut self, baseline: &Baseline) {
        let now = self.baseline().findings;
        let gone = baseline.findings.difference(&now);
        let mut compared = Compared {
            gone: gone.cloned().collect(),
            ..Compared::default()
        };
        compared.known = self.let_pass(|_, finding| baseline.findings.contains(&finding.identity));
        compared.new = self.rules.iter().map(|rule| rule.findings.len()).sum();
        self.notes.push(format!(
            "against the baseline {} known, {} new, {} gone",
            counted(compared.known, "finding is", "findings are"),
            compared.new,
            compared.gone.len()
        ));
        self.compared = Some(compared);
    }

    /// Lets pass what the user allows.
    pub fn allow(&mut self, allowances: &[Allowance]) {
        for allowance in allowances {
            let passed = self.let_pass(|rule, finding| allowance.covers(rule, finding));
            let at = allowance
                .range
                .map_or_else(String::new, |range| format!(" in {range}"));
            self.notes.push(format!(
                "{} of {}{at} let pass, as the user allows",
                counted(passed, "finding", "findings"),
                allowance.rule.name
            ));
        }
    }

    /// Takes the findings out that are meant: how many. A rule of which none is left holds.
    fn let_pass(&mut self, is_meant: impl Fn(&str, &Finding) -> bool) -> usize {
        let mut passed = 0;
        for verdict in &mut self.rules {
            let before = verdict.findings.len();
            let name = verdict.rule.name;
            verdict.findings.retain(|finding| !is_meant(name, finding));
            let of_rule = before - verdict.findings.len();
            passed += of_rule;
            verdict.known += of_rule;
            if of_rule > 0 && verdict.findings.is_empty() && verdict.left_out == 0 {
                verdict.violations = 0;
                verdict.outcome = Outcome::Holds;
            }
        }
        self.holds = self.rules.iter().all(|rule| !rule.is_broken());
        passed
    }
}

fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
