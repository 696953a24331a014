//! What the judge says of the scene.

use heirloom_inspect::rules::{Finding, Verdict};
use heirloom_inspect::{Depth, RootLabel, VirtAddr};

use super::Scene;

impl Scene {
    /// The names of the rules that do not hold.
    pub(crate) fn broken(&self) -> Vec<&'static str> {
        let broken = |verdict: &&Verdict| verdict.violations > 0;
        let verdicts = self.judge.verdicts().iter();
        verdicts
            .filter(broken)
            .map(|verdict| verdict.rule.name)
            .collect()
    }

    /// Asserts that these rules do not hold, and all others do.
    #[track_caller]
    pub(crate) fn assert_broken(&self, rules: &[&str]) {
        let broken = self.broken();
        let findings: Vec<&Finding> = self
            .judge
            .verdicts()
            .iter()
            .flat_map(|verdict| &verdict.findings)
            .collect();
        assert_eq!(broken, rules, "{findings:#?}");
        assert_eq!(self.judge.all_hold(), rules.is_empty());
    }

    pub(crate) fn verdict(&self, rule: &str) -> &Verdict {
        let mut verdicts = self.judge.verdicts().iter();
        verdicts
            .find(|verdict| verdict.rule.name == rule)
            .unwrap_or_else(|| panic!("no rule {rule}"))
    }

    /// All that a rule found.
    pub(crate) fn findings(&self, rule: &str) -> Vec<&Finding> {
        self.verdict(rule).findings.iter().collect()
    }

    /// The only thing that a rule found.
    #[track_caller]
    pub(crate) fn finding(&self, rule: &str) -> &Finding {
        let findings = self.findings(rule);
        assert_eq!(findings.len(), 1, "{rule}: {findings:#?}");
        findings[0]
    }
}

/// Asserts whose a finding is, where, and at which address.
#[track_caller]
pub(crate) fn assert_evidence(finding: &Finding, pid: u32, place: &str, address: VirtAddr) {
    assert_eq!(finding.whose, Some(label(pid)), "{finding:#?}");
    assert_eq!(finding.place, place, "{finding:#?}");
    assert_eq!(finding.address, Some(address), "{finding:#?}");
}

/// Asserts in whose address spaces a finding shows walks, all of them of its address.
#[track_caller]
pub(crate) fn assert_walks(finding: &Finding, pids: &[u32]) {
    let walked: Vec<RootLabel> = finding.walks.iter().map(|(label, _)| *label).collect();
    let expected: Vec<RootLabel> = pids.iter().copied().map(label).collect();
    assert_eq!(walked, expected, "{finding:#?}");
    let last = finding.walks.last().map(|(_, walk)| walk.va);
    assert_eq!(last, finding.address, "{finding:#?}");
}

/// `PT[5]`: where the leaf for `at` stands that a finding is about.
#[track_caller]
pub(crate) fn place_of(finding: &Finding, at: VirtAddr) -> String {
    let level = finding.entry.expect("a finding about an entry").level;
    format!("{}[{}]", Depth::Four.name(level), at.index(level))
}

pub(crate) fn label(pid: u32) -> RootLabel {
    match pid {
        0 => RootLabel::Kernel,
        _ => RootLabel::Process(pid),
    }
}
