//! What a rule found: facts counted, places where it is broken, deviations that are meant.

use serde::Serialize;

use super::exceptions::Exception;
use crate::judge::RuleInfo;
use crate::layout::Area;
use crate::snapshot::RootLabel;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtRange};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Level;
use heirloom_paging::walk::Walk;

/// Findings of one rule that are kept; more are only counted.
pub const MOST_FINDINGS: usize = 64;

/// One place where a rule is broken.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What is wrong there, as people name it: `PGD[273]`, `CR3 of CPU 0`.
    pub place: String,
    /// The entry, and where it stands; `None` where it is not about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryPlace>,
    /// The addresses concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<VirtRange>,
    /// What lies there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub area: Option<Area>,
    /// The address spaces concerned.
    pub spaces: Spaces,
    pub expected: String,
    pub found: String,
    /// The walks that show it, each with the address space that it was made in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub walks: Vec<(RootLabel, Walk)>,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EntryPlace {
    pub level: Level,
    /// The frame of its table.
    pub table: Pfn,
    pub index: u16,
    pub entry: Entry,
}

/// Which address spaces a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spaces {
    /// How many.
    pub count: usize,
    /// Of how many that there are.
    pub of: usize,
    /// The roots of the first few.
    pub roots: Vec<PhysAddr>,
}

impl Spaces {
    /// Roots that are named; more are only counted.
    pub const MOST_NAMED: usize = 8;

    pub(super) fn new(roots: &[PhysAddr], of: usize) -> Spaces {
        Spaces {
            count: roots.len(),
            of,
            roots: roots[..roots.len().min(Self::MOST_NAMED)].to_vec(),
        }
    }
}

/// A rule's verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub rule: RuleInfo,
    /// How many single facts were held against the rule.
    pub checks: u64,
    /// How many of them broke it.
    pub violations: u64,
    /// The first places that did.
    pub findings: Vec<Finding>,
    /// Deviations that are meant, with how often each was met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<Excepted>,
}

/// An exception that was met.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Excepted {
    #[serde(flatten)]
    pub exception: Exception,
    pub count: u64,
}

impl Verdict {
    pub(super) fn new(rule: RuleInfo) -> Verdict {
        Verdict {
            rule,
            checks: 0,
            violations: 0,
            findings: Vec::new(),
            exceptions: Vec::new(),
        }
    }

    /// So many facts were looked at.
    pub(super) fn checked(&mut self, facts: u64) {
        self.checks = self.checks.saturating_add(facts);
    }

    /// One of them breaks the rule. The finding is only made if there is room to keep it.
    pub(super) fn broken(&mut self, finding: impl FnOnce() -> Finding) {
        self.violations = self.violations.saturating_add(1);
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding());
        }
    }

    /// One of them would break the rule, but is meant.
    pub(super) fn excepted(&mut self, exception: Exception) {
        match self
            .exceptions
            .iter_mut()
            .find(|known| known.exception == exception)
        {
            Some(known) => known.count = known.count.saturating_add(1),
            None => self.exceptions.push(Excepted {
                exception,
                count: 1,
            }),
        }
    }
}
