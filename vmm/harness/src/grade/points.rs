//! The points for each thing that there are points for, and why some were lost.

use heirloom_inspect::rules::{Outcome, Verdict};

use super::{Item, ItemKind, Judged, honesty, rule_names, scenario};
use crate::error::RunError;
use crate::lecture::{Runner, claims};

/// Reasons for one loss that are listed.
const MAX_REASONS: usize = 4;

/// `of` points for `good` of `all`, rounded down.
fn share(of: u64, good: u64, all: u64) -> u64 {
    (of * good).checked_div(all).unwrap_or(0)
}

/// Points for what happened of the scenario.
pub(super) fn scenario_item(of: u64, runs: &[Judged]) -> Item {
    let mut reasons = Vec::new();
    for run in runs {
        let name = run.strategy.name();
        reasons.extend(run.broken_off.iter().map(|why| format!("{name}: {why}")));
        // What comes after the first part that is missing is missing, too.
        let shown = if run.broken_off.is_some() {
            1
        } else {
            MAX_REASONS
        };
        let missing = run.missing.iter().take(shown);
        reasons.extend(missing.map(|what| format!("{name}: {what}")));
    }
    let parts = runs.iter().map(|run| run.parts).sum();
    Item {
        kind: ItemKind::Scenario,
        name: "scenario".into(),
        statement: "what must happen happens, in each part of the scenario".into(),
        points: share(of, parts, scenario::COUNT * runs.len() as u64),
        of,
        reasons,
    }
}

/// Points for a rule, by the runs that are held to it.
pub(super) fn rule_item(name: &str, of: u64, runs: &[Judged]) -> Item {
    let (mut good, mut held_to) = (0, 0);
    let mut statement = String::new();
    let mut reasons = Vec::new();
    for run in runs {
        let strategy = run.strategy.name();
        if !rule_names(&[run.strategy]).contains(&name) {
            continue;
        }
        held_to += 1;
        let verdict = run
            .verdicts
            .iter()
            .find(|verdict| verdict.rule.name == name);
        let why = match verdict {
            None => Some("nothing was judged".to_owned()),
            Some(verdict) => {
                verdict.rule.statement.clone_into(&mut statement);
                lost(verdict, run)
            }
        };
        match why {
            None => good += 1,
            Some(why) => reasons.push(format!("{strategy}: {why}")),
        }
    }
    reasons.truncate(MAX_REASONS);
    Item {
        kind: ItemKind::Rule,
        name: name.to_owned(),
        statement,
        points: share(of, good, held_to),
        of,
        reasons,
    }
}

/// Why there are no points for a rule in a run; `None` if there are.
fn lost(verdict: &Verdict, run: &Judged) -> Option<String> {
    let outcome = if honesty::is_mistaken(verdict, &run.lies) {
        // What is wrong in the tables has its own rule.
        Outcome::Holds
    } else {
        verdict.outcome
    };
    match outcome {
        Outcome::Broken => {
            let Some(finding) = verdict.findings.first() else {
                return Some(format!("it is broken {} times", verdict.violations));
            };
            let event = finding.seen.map_or(0, |seen| seen.first_event);
            let whose = finding
                .whose
                .map_or_else(String::new, |whose| format!("{whose}, "));
            Some(format!(
                "at event {event}, {whose}{}: expected {}; found {}",
                finding.place, finding.expected, finding.found
            ))
        }
        Outcome::NotTried { why } => Some(format!("it was not tried: {why}")),
        Outcome::Holds if run.is_whole() => None,
        Outcome::Holds => Some(match &run.broken_off {
            Some(_) => "nothing broke it, but the run broke off".into(),
            None => "nothing broke it, but not all happened that must".into(),
        }),
    }
}

/// Points for a claim of the lecture, whose experiments are made.
///
/// # Errors
/// As [`grade`](super::grade).
pub(super) fn claim_item(number: u8, of: u64, runner: &mut Runner) -> Result<Item, RunError> {
    let mut item = untried_claim(number, of, "");
    item.reasons.clear();
    let Some(claim) = claims().iter().find(|claim| claim.number == number) else {
        return Ok(item);
    };
    let result = claim.judge(runner)?;
    let objections = result.objections.iter();
    let reasons = objections.filter_map(|objection| objection.lines().next());
    item.reasons
        .extend(reasons.take(MAX_REASONS).map(str::to_owned));
    if result.out_of_time {
        item.reasons
            .push("its experiments were not done in time".into());
    }
    if result.holds {
        item.points = of;
    }
    Ok(item)
}

/// A claim that got no points yet.
pub(super) fn untried_claim(number: u8, of: u64, why: &str) -> Item {
    let claim = claims().iter().find(|claim| claim.number == number);
    Item {
        kind: ItemKind::Claim,
        name: number.to_string(),
        statement: claim.map_or("", |claim| claim.statement).to_owned(),
        points: 0,
        of,
        reasons: vec![why.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn points_are_shared_out_and_rounded_down() {
        assert_eq!(share(10, 2, 3), 6);
        assert_eq!(share(10, 3, 3), 10);
        assert_eq!(share(10, 0, 0), 0);
    }
}
