//! What the generic rules found, for people.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::roots::trimmed;
use super::subject::{RootList, Subject};
use crate::check::{Check, Finding, Outcome, Verdict};
use crate::discover::Discovery;
use crate::rules::MAX_FINDINGS;

/// Findings of one rule that are shown in full.
const MOST_SHOWN: usize = 3;

/// What `heirloom check` found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    pub version: u32,
    pub target: Subject,
    /// Roots that were judged, freed ones and such as are no root left out.
    pub live_roots: usize,
    #[serde(flatten)]
    pub check: Check,
}

impl CheckReport {
    /// The report of `check`, which was made of `discovery`, of the target called `name`.
    pub fn new(name: &str, discovery: &Discovery, check: Check) -> CheckReport {
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

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.target)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["rule", "verdict", "checks", "broken", "let pass by name"]);
        for verdict in &self.check.rules {
            table.add_row([
                verdict.rule.name.to_owned(),
                match verdict.outcome {
                    Outcome::Holds => "holds",
                    Outcome::Broken => "BROKEN",
                    Outcome::NotTried { .. } => "not tried",
                }
                .to_owned(),
                verdict.checks.to_string(),
                match verdict.violations {
                    0 => String::new(),
                    broken => broken.to_string(),
                },
                let_pass(verdict),
            ]);
        }
        for column in [2, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "{}", trimmed(&table))?;
        for verdict in self.check.rules.iter().filter(|rule| rule.violations > 0) {
            write_findings(f, verdict)?;
        }
        for note in &self.check.notes {
            writeln!(f, "note: {note}")?;
        }
        let checks: u64 = self.check.rules.iter().map(|rule| rule.checks).sum();
        let broken: Vec<&str> = self
            .check
            .rules
            .iter()
            .filter(|rule| rule.violations > 0)
            .map(|rule| rule.rule.name)
            .collect();
        let (roots, rules) = (self.live_roots, self.check.rules.len());
        if broken.is_empty() && roots == 0 {
            write!(f, "NOTHING TO JUDGE: no live root.")
        } else if broken.is_empty() && !self.check.has_kernel_half {
            write!(f, "NOTHING TO JUDGE: no root has a kernel half.")
        } else if broken.is_empty() {
            let hold = self.check.rules.iter().filter(|rule| rule.holds()).count();
            write!(
                f,
                "HOLDS: {} rules hold in all {roots} live roots ({checks} checks){}.",
                of_all(hold, rules),
                not_tried(&self.check.rules)
            )
        } else {
            write!(
                f,
                "BROKEN: {} of {rules} rules are broken: {}.",
                broken.len(),
                broken.join(", ")
            )
        }
    }
}

/// `all 19`, or `14 of 19`.
pub(super) fn of_all(some: usize, all: usize) -> String {
    if some == all {
        format!("all {all}")
    } else {
        format!("{some} of {all}")
    }
}

/// `; 2 not tried: no user root, no CPU`; nothing where all were tried.
pub(super) fn not_tried(verdicts: &[Verdict]) -> String {
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
    match count {
        0 => String::new(),
        count => format!("; {count} not tried: {}", reasons.join(", ")),
    }
}

fn let_pass(verdict: &Verdict) -> String {
    let names: Vec<String> = verdict
        .exceptions
        .iter()
        .map(|met| format!("{} × {}", met.count, met.exception.name))
        .collect();
    names.join(", ")
}

fn write_findings(f: &mut fmt::Formatter<'_>, verdict: &Verdict) -> fmt::Result {
    writeln!(f, "\n{}: {}", verdict.rule.name, verdict.rule.statement)?;
    for finding in verdict.findings.iter().take(MOST_SHOWN) {
        write_finding(f, finding)?;
    }
    let more = verdict.findings.len().saturating_sub(MOST_SHOWN);
    if more > 0 || verdict.left_out > 0 {
        write!(f, "  … and {more} more; --json has them all")?;
        match verdict.left_out {
            0 => writeln!(f)?,
            left_out => writeln!(f, " but {left_out} beyond the first {MAX_FINDINGS}")?,
        }
    }
    Ok(())
}

fn write_finding(f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
    write!(f, "  {}", finding.place)?;
    if let Some(entry) = &finding.entry {
        write!(f, " in frame {}", entry.table)?;
    }
    if let Some(range) = &finding.range {
        write!(f, ", {range}")?;
    }
    if let Some(area) = finding.area {
        write!(f, ", {area}")?;
    }
    let spaces = &finding.spaces;
    if spaces.count == spaces.of && spaces.of > 1 {
        writeln!(f, ", in all {} roots", spaces.of)?;
    } else {
        let roots = RootList {
            roots: &spaces.roots,
            count: spaces.count,
        };
        writeln!(f, ", in {} of {} roots: {roots}", spaces.count, spaces.of)?;
    }
    writeln!(f, "    expected  {}", finding.expected)?;
    writeln!(f, "    found     {}", finding.found)?;
    for (whose, walk) in &finding.walks {
        let text = format!("{whose}: {walk}");
        for line in text.lines() {
            writeln!(f, "    {line}")?;
        }
    }
    Ok(())
}
