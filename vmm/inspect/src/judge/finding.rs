//! What a rule found: how much it looked at, and where it is broken.

use std::collections::HashMap;

use serde::Serialize;

use super::rule::RuleInfo;
use crate::addr::GuestVirt;
use crate::snapshot::RootLabel;
use crate::walk::Walk;

/// Findings that are kept with their evidence, for each rule; more are only counted.
const MOST_KEPT: usize = 64;

/// One place where a rule is broken, from the first event at which it was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The address space that is wrong; `None` where it is not about one.
    pub whose: Option<RootLabel>,
    /// What is wrong there: `PGD[403]`, `CR3`, `frames of tables`.
    pub place: String,
    /// The first address concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<GuestVirt>,
    pub expected: String,
    pub found: String,
    /// The walks that show it, each with the address space that it was made in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub walks: Vec<(RootLabel, Walk)>,
}

/// A rule's verdict so far.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub rule: RuleInfo,
    /// How many single facts were held against the rule.
    pub checks: u64,
    /// How many of them broke it.
    pub violations: u64,
    /// Different places that broke it, with the events at which each was seen first, oldest first.
    pub findings: Vec<SeenFinding>,
}

/// A finding and when it was seen.
#[derive(Clone, Debug, Serialize)]
pub struct SeenFinding {
    /// Sequence number of the first event.
    pub first_event: u64,
    /// At how many events it was there.
    pub events: u64,
    #[serde(flatten)]
    pub finding: Finding,
}

/// Where a rule puts what it finds at one moment.
#[derive(Default)]
pub struct Evidence {
    checks: u64,
    found: Vec<Finding>,
    uncounted: u64,
}

impl Evidence {
    /// So many facts were looked at.
    pub fn checked(&mut self, facts: u64) {
        self.checks += facts;
    }

    /// One of them breaks the rule. The finding is only made if there is room to keep it.
    pub fn broken(&mut self, finding: impl FnOnce() -> Finding) {
        if self.found.len() < MOST_KEPT {
            self.found.push(finding());
        } else {
            self.uncounted += 1;
        }
    }

    /// Looks at one fact.
    pub fn check(&mut self, holds: bool, finding: impl FnOnce() -> Finding) {
        self.checked(1);
        if !holds {
            self.broken(finding);
        }
    }
}

/// All rules' verdicts.
pub struct Findings {
    verdicts: Vec<Verdict>,
    /// Which finding of a rule is about that place.
    known: HashMap<(usize, Option<RootLabel>, String), usize>,
}

impl Findings {
    /// No findings yet, for these rules.
    pub fn new(rules: impl Iterator<Item = RuleInfo>) -> Findings {
        let verdicts = rules
            .map(|rule| Verdict {
                rule,
                checks: 0,
                violations: 0,
                findings: Vec::new(),
            })
            .collect();
        Findings {
            verdicts,
            known: HashMap::new(),
        }
    }

    /// Lets rule `number` judge the moment of event `event`.
    pub fn of_rule(&mut self, number: usize, event: u64, judge: impl FnOnce(&mut Evidence)) {
        let mut evidence = Evidence::default();
        judge(&mut evidence);
        let verdict = &mut self.verdicts[number];
        verdict.checks += evidence.checks;
        verdict.violations += evidence.found.len() as u64 + evidence.uncounted;
        for finding in evidence.found {
            let key = (number, finding.whose, finding.place.clone());
            if let Some(known) = self.known.get(&key) {
                verdict.findings[*known].events += 1;
            } else if verdict.findings.len() < MOST_KEPT {
                self.known.insert(key, verdict.findings.len());
                verdict.findings.push(SeenFinding {
                    first_event: event,
                    events: 1,
                    finding,
                });
            }
        }
    }

    /// What was found so far, in the order of the rules.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
}
