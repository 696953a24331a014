//! Judging a guest of which the source lacks tables.
//!
//! A rule that looks at one entry alone finds the same wherever it finds it. All others rest on what other
//! tables say as well: which root is whose, where the kernel has what, what is let pass there. Where tables
//! lack, they may miss that, and what looks wrong to them proves nothing.

use super::{Outcome, Verdict, is_ram};
use crate::discover::Discovery;
use heirloom_paging::addr::PAGE_SIZE;

/// The rules that look at one entry alone.
const OF_ONE_ENTRY: [&str; 3] = ["reserved-bits-clear", "tables-in-ram", "no-loop"];
const LACKS: &str = "tables that it needs are not in the file";

/// How many tables the source lacks that are RAM of the guest.
fn lacking(discovery: &Discovery) -> usize {
    let missing = discovery.snapshot.missing();
    let is_left_out = |at| discovery.is_partial && is_ram(&discovery.ram, at, PAGE_SIZE);
    missing
        .filter(|missing| is_left_out(missing.pfn.base()))
        .count()
}

/// Takes back what tables that lack may be the cause of, and says so.
pub(super) fn take_back(discovery: &Discovery, verdicts: &mut [Verdict], notes: &mut Vec<String>) {
    let lacking = lacking(discovery);
    if lacking == 0 {
        return;
    }
    let (tables, they) = match lacking {
        1 => ("table is", "it"),
        _ => ("tables are", "they"),
    };
    notes.push(format!(
        "{lacking} {tables} RAM that the file does not have: what {they} would map is unknown, and no rule \
         was held against it"
    ));
    for verdict in verdicts {
        if verdict.is_broken() && !OF_ONE_ENTRY.contains(&verdict.rule.name) {
            verdict.unknown = verdict.unknown.saturating_add(verdict.violations);
            verdict.outcome = Outcome::NotTried { why: LACKS };
            verdict.violations = 0;
            verdict.findings.clear();
            verdict.left_out = 0;
        }
    }
}
