//! `heirloom check --every TIME`: a guest is looked at again and again; what changed, and the worst that was seen.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use heirloom_inspect::Discovery;
use heirloom_inspect::difference::Difference;
use heirloom_inspect::report::{CheckReport, INSPECTION_VERSION};
use heirloom_source::{OutputFile, Reached};
use serde::Serialize;

use super::check::{self, Format, Terms};
use super::number;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::text::Shown;
use crate::{escape, signals, ui};

/// How soon the end of a pause, or a signal, is noticed.
const STEP: Duration = Duration::from_millis(20);

/// How often, and for how long.
#[derive(clap::Args)]
// The other options of `check` have the same type name, and clap makes a group of each.
#[group(skip)]
pub(super) struct Options {
    /// Looks again and again, so long after the look before began: 500ms, 5s, 1m. Each look is a line that says
    /// what changed; the worst one is shown at the end, which Ctrl-C brings, too.
    #[arg(long, value_name = "TIME", value_parser = number::duration, conflicts_with = "write_baseline")]
    pub(super) every: Option<Duration>,
    /// Ends that after so long, such as 60s or 10m.
    #[arg(long = "for", value_name = "TIME", value_parser = number::duration, requires = "every")]
    limit: Option<Duration>,
}

/// What a look comes to, the better ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Holds,
    /// There was nothing to judge, or not all could be.
    NotJudged,
    Broken,
}

/// How much changed since the look before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Changes {
    roots_born: usize,
    roots_gone: usize,
    tables_new: usize,
    tables_gone: usize,
    entries: usize,
    ranges: usize,
}

/// A look, as a line.
#[derive(Serialize)]
struct Line<'a> {
    version: u32,
    look: usize,
    seconds: f64,
    verdict: Verdict,
    /// Why it is not judged.
    why: Option<String>,
    /// Not of the first one, nor if the paging mode changed.
    changes: Option<Changes>,
    report: Option<&'a CheckReport>,
}

/// All looks, as the last line.
#[derive(Serialize)]
struct Summary {
    version: u32,
    looks: usize,
    not_judged: usize,
    broken: Vec<BrokenRule>,
    verdict: Verdict,
}

/// In how many looks a rule is broken.
#[derive(Serialize)]
struct BrokenRule {
    rule: &'static str,
    looks: usize,
}

/// What was seen so far.
struct Seen {
    all: Summary,
    /// The number and moment of the first look of the worst verdict, of the last one while all is well.
    worst: Option<(usize, Duration, Verdict, CheckReport)>,
    /// Why the last look that was not judged was none.
    why: Option<Failure>,
}

/// Looks until the time is over, a signal comes, or the guest is gone.
pub(super) fn run(
    options: &check::Options,
    terms: &Terms,
    every: Duration,
    file: Option<&OutputFile>,
    mut moment: Option<Reached>,
) -> Result<Exit, Failure> {
    let json = options.format() == Format::Json;
    // A form for other machines has the report alone.
    let lines = json || options.format() == Format::Text || file.is_some();
    let mut sandbox = options.sandbox();
    if options.common.target.is_live() {
        // Each look begins with a process that lets the guest run on, whatever happens.
        sandbox = sandbox.never_entered();
    }
    let mut seen = Seen::nothing();
    let mut before = None;
    let start = Instant::now();
    let limit = options.watch.limit.unwrap_or(Duration::MAX);
    let lost = loop {
        let at = start.elapsed();
        let target = match options.common.open_in(&sandbox) {
            Ok(target) => target,
            Err(_) if signals::is_ending() => break None,
            Err(failure) => break Some(failure),
        };
        let look = options.look(target, terms);
        // The guest stood still for the first look.
        drop(moment.take());
        if signals::is_ending() {
            break None;
        }
        seen.all.looks += 1;
        let (verdict, why) = match look.as_ref().map(check::Look::conclude) {
            Ok(Ok(Exit::Good)) => (Verdict::Holds, None),
            Ok(Ok(_)) => (Verdict::Broken, None),
            Ok(Err(failure)) => (Verdict::NotJudged, Some(failure)),
            Err(failure) => (
                Verdict::NotJudged,
                Some(Failure::new(failure.exit, failure)),
            ),
        };
        let look = look.ok();
        let line = Line {
            version: INSPECTION_VERSION,
            look: seen.all.looks,
            seconds: at.as_secs_f64(),
            verdict,
            why: why.as_ref().map(ToString::to_string),
            changes: look
                .as_ref()
                .and_then(|look| Changes::between(before.as_ref()?, &look.discovery)),
            report: look.as_ref().map(|look| &look.report),
        };
        if json && file.is_none() {
            print_json(&line)?;
        } else if lines && !ui::quiet() {
            Output::new()?.tables(&line)?;
        }
        seen.add(verdict, at, why, look.as_ref().map(|look| &look.report));
        before = look.map(|look| look.discovery).or(before);
        let next = at.saturating_add(every);
        if next > limit || !pause(start, next) {
            break None;
        }
    };
    seen.end(options, file, json, lost)
}

/// Waits until so long after `start`; whether no signal came meanwhile.
fn pause(start: Instant, until: Duration) -> bool {
    while !signals::is_ending() {
        let left = until.saturating_sub(start.elapsed());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(STEP));
    }
    false
}

fn print_json(line: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(line)
        .map_err(|error| Failure::new(Exit::Usage, format!("this cannot be JSON: {error}")))?;
    Output::new()?.line(&escape::json(text))
}

impl Seen {
    fn nothing() -> Seen {
        Seen {
            all: Summary {
                version: INSPECTION_VERSION,
                looks: 0,
                not_judged: 0,
                broken: Vec::new(),
                verdict: Verdict::Holds,
            },
            worst: None,
            why: None,
        }
    }

    fn add(
        &mut self,
        verdict: Verdict,
        at: Duration,
        why: Option<Failure>,
        report: Option<&CheckReport>,
    ) {
        self.all.verdict = self.all.verdict.max(verdict);
        if let Some(why) = why {
            self.all.not_judged += 1;
            self.why = Some(why);
        }
        let Some(report) = report else { return };
        for rule in &report.check.rules {
            if rule.violations == 0 {
                continue;
            }
            let rule = rule.rule.name;
            let mut broken = self.all.broken.iter_mut();
            match broken.find(|broken| broken.rule == rule) {
                Some(broken) => broken.looks += 1,
                None => self.all.broken.push(BrokenRule { rule, looks: 1 }),
            }
        }
        let worse = self.worst.as_ref().is_none_or(|(_, _, worst, _)| {
            verdict > *worst || verdict == Verdict::Holds && *worst == Verdict::Holds
        });
        if worse {
            self.worst = Some((self.all.looks, at, verdict, report.clone()));
        }
    }

    /// Shows the worst look and what all come to.
    fn end(
        self,
        options: &check::Options,
        file: Option<&OutputFile>,
        json: bool,
        lost: Option<Failure>,
    ) -> Result<Exit, Failure> {
        if self.all.looks == 0 {
            let interrupted = || Failure::new(Exit::Guest, "interrupted before the first look");
            return Err(lost.unwrap_or_else(interrupted));
        }
        if json && file.is_none() {
            print_json(&self.all)?;
        } else {
            self.show(options, file)?;
        }
        if self.all.verdict == Verdict::Broken {
            return Ok(Exit::Broken);
        }
        if let Some(lost) = lost {
            let what = format!("the guest was gone after {}: {lost}", looks(self.all.looks));
            return Err(Failure::new(Exit::Guest, what));
        }
        match self.why {
            Some(why) if self.all.not_judged == self.all.looks => Err(why),
            _ => Ok(Exit::Good),
        }
    }

    fn show(&self, options: &check::Options, file: Option<&OutputFile>) -> Result<(), Failure> {
        let Some((number, at, _, report)) = &self.worst else {
            return Output::new()?.report(&self.all);
        };
        if file.is_some() || options.format() != Format::Text {
            options.show(report, file)?;
            if file.is_none() {
                return Ok(());
            }
        } else if !ui::quiet() {
            let head = format!("\nlook {number}, at {:.1} s:", at.as_secs_f64());
            Output::new()?.tables(&head)?;
            Output::new()?.tables(&Shown(report))?;
        }
        Output::new()?.report(&self.all)
    }
}

impl Changes {
    fn between(before: &Discovery, after: &Discovery) -> Option<Changes> {
        let difference = Difference::between(before, after).ok()?;
        Some(Changes {
            roots_born: difference.born.len(),
            roots_gone: difference.gone.len(),
            tables_new: difference.tables_new,
            tables_gone: difference.tables_gone,
            entries: difference.entries.len(),
            ranges: difference.ranges.len(),
        })
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.roots_born, ["root", "roots"], "born"),
            (self.roots_gone, ["root", "roots"], "gone"),
            (self.tables_new, ["table", "tables"], "new"),
            (self.tables_gone, ["table", "tables"], "gone"),
            (self.entries, ["entry", "entries"], "written"),
            (self.ranges, ["range", "ranges"], "mapped otherwise"),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, what, how)| format!("{} {how}", counted(count, what)))
            .collect();
        if parts.is_empty() {
            f.write_str("nothing changed")
        } else {
            f.write_str(&parts.join(", "))
        }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.1} s  ", self.seconds)?;
        match (self.verdict, self.report) {
            (Verdict::Holds, Some(report)) => {
                write!(f, "holds       {}", counted(report.live_roots, ROOTS))?;
            }
            (Verdict::Broken, Some(report)) => {
                let names: Vec<&str> = report
                    .check
                    .rules
                    .iter()
                    .filter(|rule| rule.violations > 0)
                    .map(|rule| rule.rule.name)
                    .collect();
                let missing = report.check.required_not_tried.iter();
                let missing = missing.map(|missing| format!("{} not tried", missing.rule));
                let names: Vec<String> = names
                    .into_iter()
                    .map(str::to_owned)
                    .chain(missing)
                    .collect();
                write!(
                    f,
                    "BROKEN      {}: {}",
                    counted(report.live_roots, ROOTS),
                    names.join(", ")
                )?;
            }
            _ => write!(f, "not judged  {}", self.why.as_deref().unwrap_or_default())?,
        }
        match &self.changes {
            Some(changes) => write!(f, "; {changes}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = looks(self.looks);
        match self.verdict {
            Verdict::Broken if self.broken.is_empty() => {
                write!(f, "BROKEN: what is required was not tried, in {all}.")
            }
            Verdict::Broken => {
                let rules = self.broken.iter();
                let rules: Vec<String> = rules
                    .map(|broken| format!("{} in {}", broken.rule, broken.looks))
                    .collect();
                write!(f, "BROKEN: {} of {all}.", rules.join(", "))
            }
            _ if self.not_judged == self.looks => {
                write!(f, "NOTHING TO JUDGE in {all}.")
            }
            _ if self.not_judged > 0 => write!(
                f,
                "HOLDS: no rule is broken in {all}; {} of them not judged.",
                self.not_judged
            ),
            _ => write!(f, "HOLDS: all rules hold in {all}."),
        }
    }
}

const ROOTS: [&str; 2] = ["live root", "live roots"];

fn looks(count: usize) -> String {
    counted(count, ["look", "looks"])
}

fn counted(count: usize, [one, many]: [&str; 2]) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
