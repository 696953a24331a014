//! A kernel that a student wrote: judged from outside, and graded.
//!
//! The kernel is booted under each strategy of an [`Assignment`] with the default scenario, and the lecture's
//! experiments are made with it. What it tells is never what it gets points for: rules are judged by its tables
//! and CR3, and what must happen is counted. Whoever leaves out what must happen has no whole run, and rules are
//! judged over whole runs; whoever tells what the tables refute gets nothing at all.

mod assignment;
pub(crate) mod honesty;
mod points;
mod scenario;

use std::time::{Duration, Instant};

use heirloom_abi::options::{self, Strategy};
use heirloom_inspect::rules::Verdict;
use heirloom_machine::{KernelImage, Platform};
use serde::Serialize;

use crate::cancel::CancelToken;
use crate::engine::rules;
use crate::error::{Cause, RunError};
use crate::lecture::Runner;
use crate::model::Expectation;
use crate::run::{DEFAULT_PROCESSES, Run};
use points::{claim_item, rule_item, scenario_item, untried_claim};
use scenario::Watched;

pub use assignment::{Assignment, AssignmentError, AssignmentFile};

/// Version of the JSON form; grows when a field changes its meaning or goes.
pub const GRADE_VERSION: u32 = 1;

/// Events of a run that are judged at most: a sound kernel has fewer than a hundred.
const MAX_EVENTS: u64 = 20_000;
/// How many times the time of a run the experiments of one claim may take, and those of all claims.
const TIMES_FOR_A_CLAIM: u32 = 5;
const TIMES_FOR_ALL_CLAIMS: u32 = 15;

/// What a kernel got.
#[derive(Clone, Debug, Serialize)]
pub struct Grade {
    /// [`GRADE_VERSION`].
    pub version: u32,
    /// The assignment's.
    pub title: String,
    /// The kernel's file.
    pub kernel: String,
    /// Points that it got …
    pub points: u64,
    /// … of so many.
    pub of: u64,
    /// What it told that its tables refute. Where there is something, it gets no points.
    pub lies: Vec<String>,
    /// What there was to get points for.
    pub items: Vec<Item>,
    /// The runs of the scenario.
    pub runs: Vec<RunGrade>,
}

/// Something that there are points for.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// What kind.
    pub kind: ItemKind,
    /// The rule's name, the claim's number, or `scenario`.
    pub name: String,
    /// What it states.
    pub statement: String,
    /// Points for it …
    pub points: u64,
    /// … of so many.
    pub of: u64,
    /// Why some were lost.
    pub reasons: Vec<String>,
}

/// What points are given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    /// That what must happen happened.
    Scenario,
    /// That a rule holds in whole runs.
    Rule,
    /// That a claim of the lecture holds.
    Claim,
}

/// A run of the scenario.
#[derive(Clone, Debug, Serialize)]
pub struct RunGrade {
    /// The strategy that was asked for.
    pub propagation: &'static str,
    /// Events that were judged.
    pub events: u64,
    /// How many times the tables were judged between events, while ring 3 ran.
    pub looks: u64,
    /// Parts of the scenario that were gone through.
    pub parts: u64,
    /// Why it did not come to its end; `None` if it did.
    pub broken_off: Option<String>,
}

/// One run, with all that is needed to give points for it.
struct Judged {
    strategy: Strategy,
    events: u64,
    looks: u64,
    parts: u64,
    missing: Vec<String>,
    broken_off: Option<String>,
    /// Whether that was for want of time.
    hangs: bool,
    verdicts: Vec<Verdict>,
    lies: Vec<String>,
}

/// The rules that some of these strategies are held to, in their order.
fn rule_names(strategies: &[Strategy]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for strategy in strategies {
        let strategy = *strategy;
        for rule in rules(Expectation { strategy }.sharing()).iter() {
            if !names.contains(&rule.info.name) {
                names.push(rule.info.name);
            }
        }
    }
    names
}

/// Grades a kernel; `tell` hears what is tried next.
///
/// # Errors
/// [`RunError`]: this host cannot run it, or somebody stopped it. Whatever the kernel does is a grade.
pub fn grade(
    host: impl Platform + 'static,
    kernel: &KernelImage,
    assignment: &Assignment,
    cancel: &CancelToken,
    mut tell: impl FnMut(&str),
) -> Result<Grade, RunError> {
    let mut runs = Vec::new();
    let mut items = Vec::new();
    if assignment.has_runs() {
        for strategy in &assignment.strategies {
            tell(&format!("propagation={}", strategy.name()));
            runs.push(run(&host, kernel, assignment, *strategy, cancel)?);
        }
    }
    let mut lies: Vec<String> = Vec::new();
    for run in &runs {
        let name = run.strategy.name();
        lies.extend(run.lies.iter().map(|lie| format!("{name}: {lie}")));
    }
    if assignment.scenario > 0 {
        items.push(scenario_item(assignment.scenario, &runs));
    }
    for (name, of) in &assignment.rules {
        items.push(rule_item(name, *of, &runs));
    }
    let limit = Duration::from_secs(assignment.seconds);
    let mut runner = Runner::new(host, limit * TIMES_FOR_A_CLAIM)
        .kernel(Some(kernel.clone()))
        .kernel_words(&four_levels())
        .cancelled_by(cancel.clone());
    let end = Instant::now() + limit * TIMES_FOR_ALL_CLAIMS;
    // A kernel that hangs in the scenario hangs in the experiments, too, each of which would take its time.
    let hangs = runs.iter().any(|run| run.hangs);
    for (number, of) in &assignment.claims {
        tell(&format!("claim {number}"));
        let left = end.saturating_duration_since(Instant::now());
        let item = if hangs {
            untried_claim(
                *number,
                *of,
                "not tried: the kernel was not done in the scenario",
            )
        } else if left.is_zero() {
            untried_claim(
                *number,
                *of,
                "not tried: the claims before took all the time",
            )
        } else {
            runner.limit_claims(left.min(limit * TIMES_FOR_A_CLAIM));
            claim_item(*number, *of, &mut runner)?
        };
        items.push(item);
    }
    let told = runner.lies().iter();
    lies.extend(told.map(|lie| format!("in an experiment of the lecture: {lie}")));
    if !lies.is_empty() {
        for item in &mut items {
            item.points = 0;
        }
    }
    Ok(Grade {
        version: GRADE_VERSION,
        title: assignment.title.clone(),
        kernel: kernel.name().to_owned(),
        points: items.iter().map(|item| item.points).sum(),
        of: items.iter().map(|item| item.of).sum(),
        lies,
        items,
        runs: runs
            .into_iter()
            .map(|run| RunGrade {
                propagation: run.strategy.name(),
                events: run.events,
                looks: run.looks,
                parts: run.parts,
                broken_off: run.broken_off,
            })
            .collect(),
    })
}

/// A kernel has the same grade on every machine: with four levels of page tables, as the lecture has them.
fn four_levels() -> String {
    format!("{}=off", options::LA57)
}

/// Boots the kernel and lets the scenario go as far as it gets.
fn run(
    host: &dyn Platform,
    kernel: &KernelImage,
    assignment: &Assignment,
    strategy: Strategy,
    cancel: &CancelToken,
) -> Result<Judged, RunError> {
    let mut run = Run::builder(host)
        .kernel(kernel.clone())
        .strategy(strategy)
        .kernel_words(&four_levels())
        .looked_at()
        .time_limit(Duration::from_secs(assignment.seconds))
        .start()?;
    cancel.watch(run.interrupter());
    let mut watched = Watched::default();
    let mut events = 0;
    let ended = loop {
        match run.next_event() {
            Ok(Some(seen)) => {
                events += 1;
                watched.event(seen.event);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if events == MAX_EVENTS {
            let what = format!("it told more than {MAX_EVENTS} events");
            break Err(run.fail(RunError::Unexpected(what)));
        }
    };
    let hangs = matches!(ended, Err(RunError::TimeLimit { .. }));
    let broken_off = match ended {
        Ok(()) => None,
        Err(error) if error.cause() == Cause::Guest && !cancel.is_cancelled() => {
            // The call chain is for the one who runs it by hand.
            error.to_string().lines().next().map(str::to_owned)
        }
        Err(error) => return Err(error),
    };
    let (parts, missing) = watched.result(DEFAULT_PROCESSES);
    let looks = run.looks().cloned().unwrap_or_default();
    let mut lies = honesty::lies(run.judge());
    lies.extend(looks.hidden);
    Ok(Judged {
        strategy,
        events,
        parts,
        missing,
        broken_off,
        hangs,
        verdicts: run.judge().verdicts().to_vec(),
        looks: looks.made,
        lies,
    })
}

impl Assignment {
    /// How many things are tried: runs of the scenario, and claims.
    pub fn steps(&self) -> usize {
        let runs = if self.has_runs() {
            self.strategies.len()
        } else {
            0
        };
        runs + self.claims.len()
    }

    fn has_runs(&self) -> bool {
        !self.rules.is_empty() || self.scenario > 0
    }
}

impl Judged {
    /// Whether everything happened that must, so that rules were tried in full.
    fn is_whole(&self) -> bool {
        self.broken_off.is_none() && self.missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_isolated_kernel_is_held_to_isolation() {
        let isolated = "user-root-isolated";
        assert!(rule_names(&[Strategy::Isolated]).contains(&isolated));
        assert!(!rule_names(&[Strategy::Prealloc]).contains(&isolated));
        assert_eq!(rule_names(&Strategy::ALL).len(), 20);
    }
}
