//! What a rule found: how much it looked at, and where it is broken.

use std::collections::HashMap;

use serde::Serialize;

use super::rule::RuleInfo;
use crate::snapshot::RootLabel;
use heirloom_paging::addr::VirtAddr;
use heirloom_paging::walk::Walk;

/// Findings that are kept with their evidence, for each rule; more are only counted.
pub const MOST_KEPT: usize = 64;

/// Walks that a rule may make at one moment, so that tables and claims of absurd size end.
const MOST_WALKS: u64 = 1 << 24;

/// One place where a rule is broken, from the first event at which it was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The address space that is wrong; `None` where it is not about one.
    pub whose: Option<RootLabel>,
    /// What is wrong there: `PGD[403]`, `CR3`, `frames of tables`.
    pub place: String,
    /// The first address concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<VirtAddr>,
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
pub struct Evidence {
    checks: u64,
    violations: u64,
    found: Vec<Finding>,
    walks_left: u64,
}

impl Default for Evidence {
    fn default() -> Self {
        Evidence {
            checks: 0,
            violations: 0,
            found: Vec::new(),
            walks_left: MOST_WALKS,
        }
    }
}

impl Evidence {
    /// So many facts were looked at.
    pub fn checked(&mut self, facts: u64) {
        self.checks = self.checks.saturating_add(facts);
    }

    /// One of them breaks the rule. The finding is only made if there is room to keep it.
    pub fn broken(&mut self, finding: impl FnOnce() -> Finding) {
        self.broken_at(1, finding);
    }

    /// So many of them break the rule, all at one place.
    pub fn broken_at(&mut self, facts: u64, finding: impl FnOnce() -> Finding) {
        self.violations = self.violations.saturating_add(facts);
        if self.found.len() < MOST_KEPT {
            self.found.push(finding());
        }
    }

    /// Looks at one fact.
    pub fn check(&mut self, holds: bool, finding: impl FnOnce() -> Finding) {
        self.checked(1);
        if !holds {
            self.broken(finding);
        }
    }

    /// Whether `walks` more walks may be made; if not, that breaks the rule.
    pub fn may_walk(&mut self, walks: u64) -> bool {
        let may = walks <= self.walks_left;
        self.walks_left = self.walks_left.saturating_sub(walks);
        if !may {
            self.broken(|| Finding {
                whose: None,
                place: "too much to judge".into(),
                address: None,
                expected: format!("at most {MOST_WALKS} pages to look at"),
                found: "more: the rest was not judged".into(),
                walks: Vec::new(),
            });
        }
        may
    }
}

/// What makes two findings one: the number of the rule, whose it is, and the place.
type Key = (usize, Option<RootLabel>, String);

/// All rules' verdicts.
pub struct Findings {
    verdicts: Vec<Verdict>,
    /// Which finding of a rule is about that place, and the last moment at which it was there.
    known: HashMap<Key, (usize, u64)>,
    /// The present moment, counted.
    moment: u64,
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
            moment: 0,
        }
    }

    /// The next moment begins.
    pub fn next_moment(&mut self) {
        self.moment += 1;
    }

    /// Lets rule `number` judge the moment of event `event`.
    pub fn of_rule(&mut self, number: usize, event: u64, judge: impl FnOnce(&mut Evidence)) {
        let mut evidence = Evidence::default();
        judge(&mut evidence);
        let verdict = &mut self.verdicts[number];
        verdict.checks = verdict.checks.saturating_add(evidence.checks);
        verdict.violations = verdict.violations.saturating_add(evidence.violations);
        for finding in evidence.found {
            let key = (number, finding.whose, finding.place.clone());
            match self.known.get_mut(&key) {
                Some((known, last)) => {
                    verdict.findings[*known].events += u64::from(*last != self.moment);
                    *last = self.moment;
                }
                None if verdict.findings.len() < MOST_KEPT => {
                    self.known
                        .insert(key, (verdict.findings.len(), self.moment));
                    verdict.findings.push(SeenFinding {
                        first_event: event,
                        events: 1,
                        finding,
                    });
                }
                None => {}
            }
        }
    }

    /// What was found so far, in the order of the rules.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
}
