//! What the generic rules found.

use serde::Serialize;

use super::subject::Subject;
use crate::check::Check;
use crate::discover::Discovery;

/// What `heirloom check` found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The version of this form, [`super::INSPECTION_VERSION`].
    pub version: u32,
    /// What was looked at.
    pub target: Subject,
    /// Roots that were judged, freed ones and such as are no root left out.
    pub live_roots: usize,
    /// The verdict of every rule.
    #[serde(flatten)]
    pub check: Check,
}

impl CheckReport {
    /// The report of `check`, which was made of `discovery`, of the target called `name`. Findings are named by
    /// the kernel's symbols where `discovery` has them.
    pub fn new(name: &str, discovery: &Discovery, mut check: Check) -> CheckReport {
        for verdict in &mut check.rules {
            for finding in &mut verdict.findings {
                let at = finding.range.map(|range| range.first).or(finding.address);
                finding.symbol = at.and_then(|at| discovery.symbol_at(at));
            }
        }
        CheckReport {
            version: super::INSPECTION_VERSION,
            target: Subject {
                // They are among the check's own.
                notes: Vec::new(),
                ..Subject::new(name, discovery)
            },
            live_roots: discovery.judged().count(),
            check,
        }
    }
}
