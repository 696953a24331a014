//! Judging our own guest: what it tells, held against CR3 and its tables.
//!
//! A [`Engine`] takes in one event of the guest after the other and sees the CPU's registers and the tables
//! of every address space while the guest stands still. It keeps a [`Model`], what must be so if the guest
//! tells the truth, and holds every rule against it. The guest's word alone never makes a rule hold.

mod accounting;
mod claims;

use crate::event::{Counters, Event};
use crate::model::{Expectation, Model};
use heirloom_inspect::history::{GroundTruth, Sharing};
use heirloom_inspect::index::{Scope, TableIndex};
use heirloom_inspect::layout::Area;
use heirloom_inspect::paging::mode::CpuState;
use heirloom_inspect::rules::{Context, Examination, RuleSet, Verdict, WITH_HISTORY};
use heirloom_inspect::{PhysAddr, PhysicalMemory};
use heirloom_inspect::{RootLabel, Snapshot};

/// What the rules over claims are held against: the present event, as it was told.
struct Present {
    event: Event,
    expectation: Expectation,
    /// The counters of the boot event.
    at_boot: Option<Counters>,
}

/// Holds the rules against one run of a guest.
pub struct Engine {
    model: Model,
    examination: Examination,
    index: Option<TableIndex>,
    /// The last event that was observed, with the CPUs, and which of them told it.
    last: Option<(Present, Vec<CpuState>, usize)>,
}

/// All rules that a guest is held to, in the order in which they are shown.
pub(crate) fn rules(sharing: Sharing) -> RuleSet {
    let rules = RuleSet::new(WITH_HISTORY)
        .with_before("no-dangling-table", claims::CLAIMS_MATCH_TABLES)
        .with_before("no-dangling-table", accounting::FRAMES_RELEASED);
    match sharing {
        Sharing::EntryAreaOnly => rules,
        _ => rules.without("user-root-isolated"),
    }
}

impl Engine {
    /// All rules for our own guest.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> Engine {
        Engine {
            model: Model::new(truth, expectation),
            examination: Examination::new(&rules(expectation.sharing())),
            index: None,
            last: None,
        }
    }

    /// What is known of the guest.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The last moment's tables.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.index.as_ref().map(TableIndex::snapshot)
    }

    /// How many CPUs the guest had at the last moment.
    pub fn cpus(&self) -> usize {
        self.last.as_ref().map_or(0, |(_, cpus, _)| cpus.len())
    }

    /// Takes in what the guest told. The roots that must be captured for [`Engine::observe`] are
    /// those of the model afterwards.
    pub fn apply(&mut self, event: &Event) {
        self.model.apply(event);
    }

    /// The address spaces that exist, as far as the guest told.
    pub fn roots(&self) -> &[(RootLabel, PhysAddr)] {
        self.model.roots()
    }

    /// Holds every rule against the moment of the event that came last. Of the guest's CPUs, number
    /// `reporting` told it.
    pub fn observe<M: PhysicalMemory + ?Sized>(
        &mut self,
        event: &Event,
        cpus: &[CpuState],
        reporting: usize,
        snapshot: &Snapshot,
        memory: &M,
    ) {
        self.model.witness(snapshot, memory);
        let history = self.model.history();
        if let Some(index) = &mut self.index {
            index.update(snapshot);
        } else {
            let scope = Scope {
                ram: history.truth().ram.clone(),
                dynamic: history.area(Area::Vmalloc),
                kernel_has_own_root: true,
            };
            self.index = Some(TableIndex::new(snapshot, scope));
        }
        if let Some(index) = &self.index {
            self.model.see_tables(index);
            self.model.see_cpus(event, cpus, index, memory);
        }
        self.last = Some((
            Present {
                event: event.clone(),
                expectation: self.model.expectation(),
                at_boot: self.model.counters_at_boot().copied(),
            },
            cpus.to_vec(),
            reporting,
        ));
        if let Some(context) = context(&self.model, self.index.as_ref(), self.last.as_ref()) {
            self.examination.event(&context, self.model.number());
        }
    }

    /// Holds the rules about tables against a moment that the guest told nothing of, after the event that
    /// came last.
    pub fn look(&mut self, snapshot: &Snapshot) {
        let (Some(index), Some(_)) = (&mut self.index, &self.last) else {
            return;
        };
        index.update(snapshot);
        self.model.see_tables(index);
        let history = self.model.history();
        let context = Context {
            areas: history.areas(),
            ram: &history.truth().ram,
            history: Some(history),
            ..Context::new(index)
        };
        self.examination.event(&context, self.model.number());
    }

    /// Reads of `memory` what judging the event that came last reads beside its tables, and does not judge it:
    /// so a recording of it can be judged. There are so many CPUs.
    pub fn pass_over<M: PhysicalMemory + ?Sized>(
        &mut self,
        cpus: usize,
        snapshot: &Snapshot,
        memory: &M,
    ) {
        self.model.history().in_memory(snapshot, memory);
        let pcide = snapshot.mode().pcide;
        self.model.pass_over_flushes((cpus, pcide), memory);
    }

    /// What each rule found so far.
    pub fn verdicts(&self) -> &[Verdict] {
        self.examination.verdicts()
    }

    /// Whether every rule holds and at least one moment was judged.
    pub fn all_hold(&self) -> bool {
        let mut verdicts = self.verdicts().iter();
        let holds = |verdict: &Verdict| !verdict.is_broken() && !verdict.is_given_up();
        self.index.is_some() && verdicts.all(holds)
    }

    /// Whether no rule is broken, but not everything was held against one that should have been.
    pub fn is_given_up(&self) -> bool {
        let mut verdicts = self.verdicts().iter();
        !verdicts.clone().any(Verdict::is_broken) && verdicts.any(Verdict::is_given_up)
    }

    /// Whether the last moment comes out the same where nothing is remembered of those before. For tests.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn verify(&self) -> Result<(), String> {
        match context(&self.model, self.index.as_ref(), self.last.as_ref()) {
            Some(context) => self.examination.verify(&context),
            None => Ok(()),
        }
    }
}

/// What the rules are held against; `None` before the first moment.
fn context<'a>(
    model: &'a Model,
    index: Option<&'a TableIndex>,
    last: Option<&'a (Present, Vec<CpuState>, usize)>,
) -> Option<Context<'a>> {
    let (event, cpus, reporting) = last?;
    let history = model.history();
    Some(Context {
        cpus,
        reporting: *reporting,
        areas: history.areas(),
        ram: &history.truth().ram,
        history: Some(history),
        extension: Some(event),
        ..Context::new(index?)
    })
}
