//! What a rule found: facts counted, places where it is broken, deviations that are meant.

use serde::Serialize;

use super::exceptions::Exception;
use super::finding::Finding;
use crate::index::{GroupId, TableIndex};
use heirloom_paging::addr::VirtAddr;

/// Findings of one rule that are kept; more are only counted, and the verdict says how many.
pub const MAX_FINDINGS: usize = 1 << 13;

/// Findings of a rule that are kept with the walks that show them.
pub const MAX_WALKED: usize = 64;

/// Pages that a clause may look at, so that tables and claims of absurd size end.
const MAX_WALKS: u64 = 1 << 24;

/// An exception that was met.
#[derive(Clone, Debug, Serialize)]
pub struct Excepted {
    /// Which exception.
    #[serde(flatten)]
    pub exception: Exception,
    /// How many pages or entries it covered.
    pub count: u64,
    /// The first addresses at which it was met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<VirtAddr>,
}

impl Excepted {
    /// Addresses that are named; more are only counted.
    pub const MAX_NAMED: usize = 8;
}

/// Where a clause puts what it finds.
#[derive(Debug)]
pub struct Evidence {
    checks: u64,
    /// For each address space of a group.
    each: Vec<(GroupId, u64)>,
    violations: u64,
    found: Vec<Finding>,
    left_out: u64,
    unknown: u64,
    exceptions: Vec<Excepted>,
    walks_left: u64,
}

impl Default for Evidence {
    fn default() -> Self {
        Evidence {
            checks: 0,
            each: Vec::new(),
            violations: 0,
            found: Vec::new(),
            left_out: 0,
            unknown: 0,
            exceptions: Vec::new(),
            walks_left: MAX_WALKS,
        }
    }
}

impl Evidence {
    /// So many facts were looked at.
    pub fn checked(&mut self, facts: u64) {
        self.checks = self.checks.saturating_add(facts);
    }

    /// So many facts were looked at in each address space of a group.
    pub fn checked_each(&mut self, group: GroupId, facts: u64) {
        match self.each.iter_mut().find(|(known, _)| *known == group) {
            Some((_, known)) => *known = known.saturating_add(facts),
            None => self.each.push((group, facts)),
        }
    }

    /// One of them breaks the rule. The finding is only made if there is room to keep it.
    pub fn broken(&mut self, finding: impl FnOnce() -> Finding) {
        self.broken_at(1, finding);
    }

    /// So many of them break the rule, all at one place.
    pub fn broken_at(&mut self, facts: u64, finding: impl FnOnce() -> Finding) {
        self.violations = self.violations.saturating_add(facts);
        if self.found.len() < MAX_FINDINGS {
            let mut finding = finding();
            if self.found.len() >= MAX_WALKED {
                finding.walks.clear();
            }
            self.found.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    /// So many facts could not be looked at: the source does not have the memory where they stand.
    pub fn unknown(&mut self, facts: u64) {
        self.unknown = self.unknown.saturating_add(facts);
    }

    /// Looks at one fact.
    pub fn check(&mut self, holds: bool, finding: impl FnOnce() -> Finding) {
        self.checked(1);
        if !holds {
            self.broken(finding);
        }
    }

    /// One of them would break the rule, but is meant.
    pub fn excepted(&mut self, exception: Exception, at: VirtAddr) {
        self.excepted_at(exception, 1, &[at]);
    }

    pub(super) fn excepted_at(&mut self, exception: Exception, count: u64, at: &[VirtAddr]) {
        let known = self
            .exceptions
            .iter()
            .position(|known| known.exception == exception);
        let place = known.unwrap_or_else(|| {
            self.exceptions.push(Excepted {
                exception,
                count: 0,
                addresses: Vec::new(),
            });
            self.exceptions.len() - 1
        });
        let known = &mut self.exceptions[place];
        known.count = known.count.saturating_add(count);
        let room = Excepted::MAX_NAMED.saturating_sub(known.addresses.len());
        known.addresses.extend(at.iter().take(room));
    }

    /// Whether `walks` more walks may be made; if not, that breaks the rule.
    pub fn may_walk(&mut self, walks: u64) -> bool {
        let may = walks <= self.walks_left;
        self.walks_left = self.walks_left.saturating_sub(walks);
        if !may {
            self.broken(|| Finding {
                place: "too much to judge".into(),
                expected: format!("at most {MAX_WALKS} pages to look at"),
                found: "more: the rest was not judged".into(),
                ..Finding::default()
            });
        }
        may
    }

    /// How many facts were looked at, with as many address spaces as there are now.
    pub(super) fn checks(&self, index: &TableIndex) -> u64 {
        let each = self.each.iter();
        each.map(|(group, facts)| facts.saturating_mul(index.group(*group).members))
            .fold(self.checks, u64::saturating_add)
    }

    /// How many facts could not be looked at.
    pub(super) fn not_known(&self) -> u64 {
        self.unknown
    }

    pub(super) fn violations(&self) -> u64 {
        self.violations
    }

    pub(super) fn found(&self) -> &[Finding] {
        &self.found
    }

    pub(super) fn found_mut(&mut self) -> &mut Vec<Finding> {
        &mut self.found
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(super) fn exceptions(&self) -> &[Excepted] {
        &self.exceptions
    }
}
