//! A rule's verdict.

use serde::Serialize;

use super::evidence::Excepted;
use super::finding::Finding;
use super::rule::RuleInfo;

/// How a rule came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Outcome {
    /// Something was checked, and nothing is wrong.
    Holds,
    /// There are findings.
    Broken,
    /// There was nothing to hold it against.
    NotTried {
        /// What was missing to try it.
        why: &'static str,
    },
}

/// Why a rule was not tried although there was something to hold it against.
pub const GIVEN_UP: &str =
    "comparing was given up, as the tables are too many or the time was over";

/// A rule's verdict so far.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The rule's name, statement and source.
    pub rule: RuleInfo,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How many single facts were held against the rule.
    pub checks: u64,
    /// How many of them broke it.
    pub violations: u64,
    /// Different places that broke it; in a run, those seen first come first.
    pub findings: Vec<Finding>,
    /// Findings that are not among these, because there are more than
    /// [`MAX_FINDINGS`](super::MAX_FINDINGS).
    #[serde(skip_serializing_if = "is_none")]
    pub left_out: u64,
    /// Findings that are not among these, because a baseline has them or the user lets them pass.
    #[serde(skip_serializing_if = "is_zero")]
    pub known: usize,
    /// How many single facts were not tried, since the source does not have the memory where they stand.
    #[serde(skip_serializing_if = "is_none")]
    pub unknown: u64,
    /// Deviations that are meant, with how often each was met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<Excepted>,
    /// Not everything was held against the rule, because that was too much.
    #[serde(skip)]
    given_up: bool,
}

// serde passes fields by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_none(count: &u64) -> bool {
    *count == 0
}

// serde passes fields by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Verdict {
    pub(super) fn new(rule: RuleInfo, untried: &'static str) -> Verdict {
        Verdict {
            rule,
            outcome: Outcome::NotTried { why: untried },
            checks: 0,
            violations: 0,
            findings: Vec::new(),
            left_out: 0,
            known: 0,
            unknown: 0,
            exceptions: Vec::new(),
            given_up: false,
        }
    }

    /// Whether it was tried and is not broken.
    pub fn holds(&self) -> bool {
        self.outcome == Outcome::Holds
    }

    /// Whether something breaks it.
    pub fn is_broken(&self) -> bool {
        self.outcome == Outcome::Broken
    }

    /// Not all was held against the rule that should have been. It cannot hold any more.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether not everything was held against the rule, because that was too much.
    pub fn is_given_up(&self) -> bool {
        self.given_up
    }

    pub(super) fn conclude(&mut self) {
        if self.violations > 0 {
            self.outcome = Outcome::Broken;
        } else if self.given_up {
            self.outcome = Outcome::NotTried { why: GIVEN_UP };
        } else if self.checks > 0 {
            self.outcome = Outcome::Holds;
        }
    }
}

/// How many of the rules hold, in words: `all 19`, or `14 of 19`.
pub fn how_many_hold(verdicts: &[Verdict]) -> String {
    let hold = verdicts.iter().filter(|verdict| verdict.holds()).count();
    if hold == verdicts.len() {
        format!("all {hold}")
    } else {
        format!("{hold} of {}", verdicts.len())
    }
}

/// How many rules were not tried, and why: `2 not tried: no user root, no CPU`; and how many checks of those that
/// were. Empty where all were.
pub fn not_tried(verdicts: &[Verdict]) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let mut count = 0;
    for verdict in verdicts {
        if let Outcome::NotTried { why } = verdict.outcome {
            count += 1;
            if !reasons.contains(&why) {
                reasons.push(why);
            }
        }
    }
    let rules = match count {
        0 => String::new(),
        count => format!("{count} not tried: {}", reasons.join(", ")),
    };
    let unknown: u64 = verdicts.iter().map(|verdict| verdict.unknown).sum();
    let checks =
        format!("{unknown} more checks not tried: the memory that they need is not in the file");
    match (rules.as_str(), unknown) {
        (_, 0) => rules,
        ("", _) => checks,
        _ => format!("{rules}; {checks}"),
    }
}
