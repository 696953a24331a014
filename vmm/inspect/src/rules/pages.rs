//! Rules over single pages: what is known of a part's pages stands as long as the part does.

use std::collections::HashMap;

use super::context::{Context, PageAt};
use super::evidence::Evidence;
use super::finding::Finding;
use super::rule::{Broken, Fact};
use crate::index::{Generations, Page, PartId};
use crate::snapshot::RootId;
use heirloom_paging::level::Half;

type Judge = fn(&Context<'_>, PageAt<'_>) -> Fact;

/// What a clause said of a part's pages.
#[derive(Debug, Default)]
struct Known {
    checks: u64,
    /// Those that it said more of, with their places in the part.
    other: Vec<(usize, Fact)>,
}

/// What a clause said of all pages.
#[derive(Debug, Default)]
pub(super) struct KnownPages {
    at: Option<Generations>,
    parts: HashMap<PartId, Known>,
    checks: u64,
    /// The parts that have pages that something is to be said of.
    remarkable: usize,
}

impl KnownPages {
    /// Asks of the pages that are new.
    pub(super) fn follow(
        &mut self,
        context: &Context<'_>,
        half: Half,
        (rule, judge): (&'static str, Judge),
    ) {
        let index = context.index;
        let (now, delta) = (index.generations(), index.delta());
        if self.at == Some(now) {
            return;
        }
        if self.at.is_some() && self.at == delta.since {
            for part in &delta.gone {
                self.forget(*part);
            }
            for part in &delta.new {
                self.ask(context, *part, half, (rule, judge));
            }
        } else {
            *self = KnownPages::default();
            let parts: Vec<PartId> = index.parts(half).map(|(id, _)| id).collect();
            for part in parts {
                self.ask(context, part, half, (rule, judge));
            }
        }
        self.at = Some(now);
    }

    fn forget(&mut self, part: PartId) {
        if let Some(known) = self.parts.remove(&part) {
            self.checks -= known.checks;
            self.remarkable -= usize::from(!known.other.is_empty());
        }
    }

    fn ask(
        &mut self,
        context: &Context<'_>,
        id: PartId,
        half: Half,
        (rule, judge): (&'static str, Judge),
    ) {
        let part = context.index.part(id);
        if part.half != half {
            return;
        }
        let mut known = Known::default();
        for (place, page) in part.pages.iter().enumerate() {
            let mut fact = judge(context, PageAt { page, part: id });
            if matches!(fact, Fact::Broken(_) | Fact::Found(_))
                && let Some(exception) = context.lets_pass(rule, page)
            {
                fact = Fact::Excepted(exception);
            }
            known.checks += u64::from(!matches!(fact, Fact::Other | Fact::Found(_)));
            if !matches!(fact, Fact::Other | Fact::Holds) {
                known.other.push((place, fact));
            }
        }
        self.forget(id);
        self.checks += known.checks;
        self.remarkable += usize::from(!known.other.is_empty());
        self.parts.insert(id, known);
    }

    /// What is to be said of all pages together; neighbours that are wrong in the same way are one
    /// finding.
    pub(super) fn evidence(&self, context: &Context<'_>) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.checked(self.checks);
        if self.remarkable == 0 {
            return evidence;
        }
        let mut wrong: Vec<Wrong<'_>> = Vec::new();
        for (id, known) in &self.parts {
            if known.other.is_empty() {
                continue;
            }
            let root = context.index.root_of(*id);
            let part = context.index.part(*id);
            for (place, fact) in &known.other {
                let page = &part.pages[*place];
                wrong.push(Wrong {
                    at: PageAt { page, part: *id },
                    root,
                    half: part.half,
                    fact,
                });
            }
        }
        wrong.sort_by_key(Wrong::order);
        let mut run: Option<Run<'_>> = None;
        for wrong in &wrong {
            match wrong.fact {
                Fact::Excepted(exception) => evidence.excepted(*exception, wrong.at.page.va),
                Fact::Broken(broken) | Fact::Found(broken) => match &mut run {
                    Some(run) if run.goes_on_with(wrong, broken) => run.last = wrong.at.page,
                    _ => {
                        if let Some(run) = run.replace(Run::new(wrong, broken)) {
                            run.tell(context, &mut evidence);
                        }
                    }
                },
                Fact::Other | Fact::Holds => {}
            }
        }
        if let Some(run) = run {
            run.tell(context, &mut evidence);
        }
        evidence
    }
}

/// A page that something is to be said of.
struct Wrong<'a> {
    at: PageAt<'a>,
    root: RootId,
    half: Half,
    fact: &'a Fact,
}

impl Wrong<'_> {
    /// The kernel half ascends; user halves come one after the other.
    fn order(&self) -> (bool, u64, RootId, u64) {
        let va = self.at.page.va.get();
        match self.half {
            Half::Kernel => (false, va, self.root, 0),
            Half::User => (true, 0, self.root, va),
        }
    }
}

/// Neighbouring pages that are wrong in the same way.
struct Run<'a> {
    first: PageAt<'a>,
    last: &'a Page,
    broken: &'a Broken,
}

impl<'a> Run<'a> {
    fn new(wrong: &Wrong<'a>, broken: &'a Broken) -> Run<'a> {
        Run {
            first: wrong.at,
            last: wrong.at.page,
            broken,
        }
    }

    fn goes_on_with(&self, wrong: &Wrong<'_>, broken: &Broken) -> bool {
        let page = wrong.at.page;
        self.first.part == wrong.at.part
            && self.broken == broken
            && self.last.size == page.size
            && self.last.rights == page.rights
            && self.last.range().last.checked_add(1) == Some(page.va)
    }

    fn tell(&self, context: &Context<'_>, evidence: &mut Evidence) {
        let page = self.first.page;
        let bytes = self.last.range().last.get() - page.va.get();
        let pages = bytes / page.size.bytes() + 1;
        evidence.broken_at(pages, || {
            let mut finding = context.page_finding(self.first, self.broken.expected.clone());
            finding.what = self.broken.what;
            if pages > 1 {
                finding.range = finding.range.map(|range| heirloom_paging::addr::VirtRange {
                    first: range.first,
                    last: self.last.range().last,
                });
                finding.found = format!(
                    "{pages} pages of {}, the first at {}, {}",
                    page.size, page.pa, page.rights
                );
            }
            if let Some(found) = &self.broken.found {
                finding.found.clone_from(found);
            }
            if let Some((root, va)) = self.broken.beside {
                finding.walks.push(context.walk(root, va));
            }
            finding
        });
    }
}

/// A finding about a page by itself.
pub(super) fn finding(context: &Context<'_>, at: PageAt<'_>, broken: Broken) -> Finding {
    let mut finding = context.page_finding(at, broken.expected);
    finding.what = broken.what;
    if let Some(found) = broken.found {
        finding.found = found;
    }
    if let Some((root, va)) = broken.beside {
        finding.walks.push(context.walk(root, va));
    }
    finding
}
