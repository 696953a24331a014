//! Whether a kernel lies in its events: tells what its own tables, or CR3, refute.
//!
//! A mistake in the tables makes honest events wrong, too: a mapping that one process never got is told of all
//! the same. So what is told of a mapping counts as a lie only where the rule about the mapping itself holds, and
//! what is told of counts only where the rules about the frames hold.

use heirloom_inspect::RootLabel;
use heirloom_inspect::rules::{Finding, Verdict};

use crate::judge::Judge;

/// Lies that are listed, at most.
const MAX_LISTED: usize = 4;

/// The rule about what is told.
const CLAIMS: &str = "claims-match-tables";
/// Rules about a mapping.
const OF_MAPPINGS: [&str; 3] = ["propagated", "kernel-half-shared", "revoked"];
/// Rules about frames: where one is broken, a kernel counts them wrongly and means it.
const OF_FRAMES: [&str; 4] = [
    "no-dangling-table",
    "tables-not-user-mapped",
    "user-half-private",
    "kernel-tables-same-frames",
];

/// What the kernel told that cannot be so, in sentences; empty for an honest one.
pub(crate) fn lies(judge: &Judge) -> Vec<String> {
    let verdicts = judge.verdicts();
    let findings = |rule: &str| {
        let verdict = verdicts.iter().find(|verdict| verdict.rule.name == rule);
        verdict.map_or(&[][..], |verdict| &verdict.findings)
    };
    let told = findings(CLAIMS)
        .iter()
        .filter(|finding| !is_explained(finding, verdicts));
    // The kernel's own number may stand for a kernel that forgot to change roots; a process's does not.
    let whose = findings("cr3-known")
        .iter()
        .filter(|finding| matches!(finding.whose, Some(RootLabel::Process(_))));
    told.chain(whose).take(MAX_LISTED).map(sentence).collect()
}

/// Whether what a kernel tells is wrong, but only by mistakes in its tables: an honest kernel.
pub(super) fn is_mistaken(verdict: &Verdict, lies: &[String]) -> bool {
    verdict.rule.name == CLAIMS && verdict.is_broken() && lies.is_empty() && verdict.left_out == 0
}

/// Whether a mistake in the tables explains what was told.
fn is_explained(finding: &Finding, verdicts: &[Verdict]) -> bool {
    let explaining: &[&str] = if finding.place.contains(" of the mapping at ") {
        &OF_MAPPINGS
    } else if finding.place.starts_with("frames of ") {
        &OF_FRAMES
    } else {
        return false;
    };
    verdicts
        .iter()
        .any(|verdict| explaining.contains(&verdict.rule.name) && verdict.is_broken())
}

fn sentence(finding: &Finding) -> String {
    let event = finding
        .seen
        .map_or_else(String::new, |seen| format!("event {}: ", seen.first_event));
    let whose = finding
        .whose
        .map_or_else(String::new, |whose| format!("{whose}, "));
    format!(
        "{event}{whose}{}: it should be {}; it is {}",
        finding.place, finding.expected, finding.found
    )
}
