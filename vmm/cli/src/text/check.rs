//! What the generic rules found.

use std::fmt;

use heirloom_inspect::layout::Area;
use heirloom_inspect::report::CheckReport;
use heirloom_inspect::rules::{Finding, GIVEN_UP, MAX_FINDINGS, Verdict, how_many_hold, not_tried};

use super::rules::Rules;
use super::subject::RootList;
use super::{Shown, Text};

/// Findings of one rule that are shown in full.
const MAX_SHOWN: usize = 3;

impl Text for CheckReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Shown(&self.target))?;
        write!(
            f,
            "{}",
            Rules::new(&self.check.rules, "exceptions", let_pass)
        )?;
        for verdict in self.check.rules.iter().filter(|rule| rule.violations > 0) {
            write_findings(f, verdict, |area| self.target.name_of(area))?;
        }
        write_exceptions(f, &self.check.rules)?;
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
        let live = format!("{roots} live {}", if roots == 1 { "root" } else { "roots" });
        let given_up = self.check.rules.iter().filter(|rule| rule.is_given_up());
        let given_up = given_up.count();
        let missing: Vec<String> = self
            .check
            .required_not_tried
            .iter()
            .map(|missing| format!("{} ({})", missing.rule, missing.why))
            .collect();
        if broken.is_empty() && !missing.is_empty() {
            write!(
                f,
                "NOT TRIED, and required: {}; {} of {rules} rules hold.",
                missing.join(", "),
                self.check.rules.iter().filter(|rule| rule.holds()).count()
            )
        } else if broken.is_empty() && roots == 0 {
            write!(f, "NOTHING TO JUDGE: no live root.")
        } else if broken.is_empty() && !self.check.has_kernel_half {
            write!(f, "NOTHING TO JUDGE: no root has a kernel half.")
        } else if broken.is_empty() && given_up > 0 {
            write!(
                f,
                "NOT ALL COMPARED: no rule is broken in {live} as far as they were compared \
                 ({checks} checks), but {given_up} of {rules} rules were not tried: {GIVEN_UP}."
            )
        } else if broken.is_empty() {
            let hold = how_many_hold(&self.check.rules);
            match not_tried(&self.check.rules).as_str() {
                "" => write!(
                    f,
                    "HOLDS: {hold} rules hold in all {live} ({checks} checks)."
                ),
                not_tried => write!(
                    f,
                    "HOLDS: {hold} rules hold, {not_tried}; in all {live} ({checks} checks)."
                ),
            }
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

pub(super) fn let_pass(verdict: &Verdict) -> String {
    let names: Vec<String> = verdict
        .exceptions
        .iter()
        .map(|met| format!("{} × {}", met.count, met.exception.name))
        .collect();
    names.join(", ")
}

/// Where each exception was met.
fn write_exceptions(f: &mut fmt::Formatter<'_>, rules: &[Verdict]) -> fmt::Result {
    for met in rules.iter().flat_map(|verdict| &verdict.exceptions) {
        let addresses = met.addresses.iter().take(MAX_SHOWN);
        let addresses: Vec<String> = addresses.map(ToString::to_string).collect();
        if addresses.is_empty() {
            continue;
        }
        let shown = u64::try_from(addresses.len()).unwrap_or(u64::MAX);
        write!(
            f,
            "let pass as {}: {}",
            met.exception.name,
            addresses.join(", ")
        )?;
        match met.count.saturating_sub(shown) {
            0 => writeln!(f)?,
            more => writeln!(f, " and {more} more")?,
        }
    }
    Ok(())
}

fn write_findings(
    f: &mut fmt::Formatter<'_>,
    verdict: &Verdict,
    name_of: impl Fn(Area) -> &'static str,
) -> fmt::Result {
    writeln!(f, "\n{}: {}", verdict.rule.name, verdict.rule.statement)?;
    for finding in verdict.findings.iter().take(MAX_SHOWN) {
        write_finding(f, finding, &name_of)?;
    }
    let more = verdict.findings.len().saturating_sub(MAX_SHOWN);
    if more > 0 || verdict.left_out > 0 {
        write!(f, "  … and {more} more; --json has them all")?;
        match verdict.left_out {
            0 => writeln!(f)?,
            left_out => writeln!(f, " but {left_out} beyond the first {MAX_FINDINGS}")?,
        }
    }
    Ok(())
}

fn write_finding(
    f: &mut fmt::Formatter<'_>,
    finding: &Finding,
    name_of: impl Fn(Area) -> &'static str,
) -> fmt::Result {
    write!(f, "  {}", finding.place)?;
    if let Some(entry) = &finding.entry {
        write!(f, " in frame {}", entry.table)?;
    }
    if let Some(range) = &finding.range {
        write!(f, ", {range}")?;
    }
    if let Some(area) = finding.area {
        write!(f, ", {}", name_of(area))?;
    }
    if let Some(symbol) = &finding.symbol {
        write!(f, ", {symbol}")?;
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
