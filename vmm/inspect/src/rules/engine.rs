//! Holds rules against one moment after the other, and remembers what does not change.

use std::collections::HashMap;

use super::context::Context;
use super::evidence::{Evidence, MAX_FINDINGS};
use super::finding::{Finding, Seen};
use super::pages::KnownPages;
use super::rule::{Judge, Reads, Rule, RuleSet};
use super::verdict::Verdict;
use crate::history::History;
use crate::index::TableIndex;
use crate::snapshot::RootLabel;
use heirloom_paging::addr::Pfn;
use heirloom_paging::level::Half;

/// What makes two findings one: the rule, whose it is, the place, and the entry.
type Key = (usize, Option<RootLabel>, String, Option<(Pfn, u16)>);

/// What decided a clause's last answer, each as it was then.
type Stamp = [u64; 6];

/// A clause's last answer.
#[derive(Debug, Default)]
struct Memo {
    /// `None` before the first answer.
    stamp: Option<Stamp>,
    evidence: Evidence,
    pages: KnownPages,
    /// The tables were too many to find it, and it is empty.
    is_short: bool,
    /// Where the findings are in the rule's list.
    places: Vec<usize>,
}

/// Rules, and what they found so far.
#[derive(Debug)]
pub struct Examination {
    rules: Vec<Rule>,
    /// Of each rule, of each clause.
    memos: Vec<Vec<Memo>>,
    verdicts: Vec<Verdict>,
    known: HashMap<Key, (usize, u64)>,
    /// Moments so far.
    moments: u64,
}

impl Examination {
    /// Nothing was found yet.
    pub fn new(rules: &RuleSet) -> Examination {
        let rules: Vec<Rule> = rules.iter().copied().collect();
        Examination {
            memos: rules
                .iter()
                .map(|rule| rule.clauses.iter().map(|_| Memo::default()).collect())
                .collect(),
            verdicts: rules
                .iter()
                .map(|rule| Verdict::new(rule.info, rule.untried))
                .collect(),
            rules,
            known: HashMap::new(),
            moments: 0,
        }
    }

    /// What each rule found so far.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// The same, when there are no more moments.
    pub fn into_verdicts(self) -> Vec<Verdict> {
        self.verdicts
    }

    /// Holds every rule against the only moment that there is.
    pub fn once(&mut self, context: &Context<'_>) {
        self.hold(context, None);
    }

    /// Holds every rule against the next moment, that of event `event`.
    pub fn event(&mut self, context: &Context<'_>, event: u64) {
        self.hold(context, Some(event));
    }

    fn hold(&mut self, context: &Context<'_>, event: Option<u64>) {
        self.moments += 1;
        for (number, rule) in self.rules.iter().enumerate() {
            let verdict = &mut self.verdicts[number];
            for (clause, memo) in rule.clauses.iter().zip(&mut self.memos[number]) {
                let is_new = refresh(rule, clause, memo, context, self.moments);
                if memo.is_short {
                    verdict.give_up();
                }
                let evidence = &memo.evidence;
                let checks = evidence.checks(context.index);
                verdict.checks = verdict.checks.saturating_add(checks);
                verdict.violations = verdict.violations.saturating_add(evidence.violations());
                verdict.unknown = verdict.unknown.saturating_add(evidence.not_known());
                if is_new {
                    verdict.left_out = verdict.left_out.saturating_add(evidence.left_out());
                    memo.places.clear();
                    for finding in memo.evidence.found() {
                        let place = note(
                            (&mut self.known, self.moments),
                            (number, verdict),
                            finding,
                            event,
                        );
                        memo.places.extend(place);
                    }
                    for met in memo.evidence.exceptions() {
                        add_exception(verdict, met);
                    }
                } else {
                    for place in &memo.places {
                        if let Some(seen) = &mut verdict.findings[*place].seen {
                            seen.events += 1;
                        }
                    }
                }
            }
            verdict.conclude();
        }
    }

    /// Whether the answers to the last moment are those that are found with nothing remembered: an index
    /// made anew, every rule asked again. For tests; costs what it says.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn verify(&self, context: &Context<'_>) -> Result<(), String> {
        let index = TableIndex::new(context.snapshot(), context.index.scope().clone());
        let anew = Context {
            index: &index,
            ..context.clone()
        };
        for (rule, memos) in self.rules.iter().zip(&self.memos) {
            for (number, (clause, memo)) in rule.clauses.iter().zip(memos).enumerate() {
                let mut fresh = Memo::default();
                refresh(rule, clause, &mut fresh, &anew, 0);
                let kept = summary(&memo.evidence, context);
                let found = summary(&fresh.evidence, &anew);
                if kept != found {
                    return Err(format!(
                        "{}, clause {number}: remembered {kept:?}, found anew {found:?}",
                        rule.info.name
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Checks, violations and places of findings.
fn summary(evidence: &Evidence, context: &Context<'_>) -> (u64, u64, Vec<String>) {
    let found = evidence.found().iter();
    let mut places: Vec<String> = found
        .map(|finding| format!("{:?} {} {}", finding.whose, finding.place, finding.identity))
        .collect();
    places.sort_unstable();
    (
        evidence.checks(context.index),
        evidence.violations(),
        places,
    )
}

/// Asks a clause, unless its last answer still stands. Whether it was asked.
fn refresh(
    rule: &Rule,
    clause: &super::Clause,
    memo: &mut Memo,
    context: &Context<'_>,
    moment: u64,
) -> bool {
    let stamp = stamp_of(
        clause.reads,
        memo.evidence.violations() > 0,
        context,
        moment,
    );
    if memo.stamp == Some(stamp) {
        return false;
    }
    let budget = context.snapshot().budget();
    budget.take_shortage();
    let mut evidence = Evidence::default();
    match clause.judge {
        Judge::Tables(judge) => judge(context, &mut evidence),
        Judge::Found(judge) => {
            if let Some(found) = context.found {
                judge(context, found, &mut evidence);
            }
        }
        Judge::History(judge) => {
            if let Some(history) = context.history {
                judge(context, history, &mut evidence);
            }
        }
        Judge::KernelPages(judge) => {
            let named = (rule.info.name, judge);
            memo.pages.follow(context, Half::Kernel, named);
            evidence = memo.pages.evidence(context);
        }
        Judge::UserPages(judge) => {
            let named = (rule.info.name, judge);
            memo.pages.follow(context, Half::User, named);
            evidence = memo.pages.evidence(context);
        }
    }
    memo.is_short = budget.take_shortage();
    if memo.is_short {
        // What was found where not all was looked at need not be so.
        evidence = Evidence::default();
        memo.pages = KnownPages::default();
    }
    for finding in evidence.found_mut() {
        finding.complete(rule.info.name, context);
    }
    memo.stamp = Some(stamp_of(
        clause.reads,
        evidence.violations() > 0,
        context,
        moment,
    ));
    memo.evidence = evidence;
    true
}

fn stamp_of(reads: Reads, is_broken: bool, context: &Context<'_>, moment: u64) -> Stamp {
    let now = context.index.generations();
    // A clause that is broken names address spaces, and addresses at which there is kernel memory.
    let named = Reads::SPACES.and(Reads::MEMORY);
    let reads = if is_broken { reads.and(named) } else { reads };
    let if_read = |what, value| if reads.has(what) { value } else { 0 };
    let memory = context.history.map_or(0, History::memory_generation);
    [
        if_read(Reads::KERNEL, now.kernel),
        if_read(Reads::USER, now.user),
        if_read(Reads::SPACES, now.spaces),
        if_read(Reads::TABLES, now.tables),
        if_read(Reads::MEMORY, memory),
        if_read(Reads::EVENT, moment),
    ]
}

/// Takes a finding in, if it is new. Its place in the rule's list.
fn note(
    (known, moment): (&mut HashMap<Key, (usize, u64)>, u64),
    (number, verdict): (usize, &mut Verdict),
    finding: &Finding,
    event: Option<u64>,
) -> Option<usize> {
    let Some(event) = event else {
        verdict.findings.push(finding.clone());
        return None;
    };
    let entry = finding.entry.map(|entry| (entry.table, entry.index));
    let key = (number, finding.whose, finding.place.clone(), entry);
    if let Some((place, last)) = known.get_mut(&key) {
        let is_first = *last != moment;
        *last = moment;
        if let Some(seen) = verdict.findings[*place].seen.as_mut().filter(|_| is_first) {
            seen.events += 1;
            return Some(*place);
        }
        return None;
    }
    if verdict.findings.len() >= MAX_FINDINGS {
        verdict.left_out += 1;
        return None;
    }
    let place = verdict.findings.len();
    known.insert(key, (place, moment));
    let mut finding = finding.clone();
    finding.seen = Some(Seen {
        first_event: event,
        events: 1,
    });
    if place >= super::evidence::MAX_WALKED {
        finding.walks.clear();
    }
    verdict.findings.push(finding);
    Some(place)
}

fn add_exception(verdict: &mut Verdict, met: &super::Excepted) {
    let known = verdict
        .exceptions
        .iter_mut()
        .find(|known| known.exception == met.exception);
    match known {
        Some(known) => known.count = known.count.saturating_add(met.count),
        None => verdict.exceptions.push(met.clone()),
    }
}
