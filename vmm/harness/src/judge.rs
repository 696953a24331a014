//! A run under judgement, live or from a recording: the engine that holds the rules, and what of the run
//! its report will show in full.

use crate::engine::Engine;
use crate::model::{Expectation, Model};
use heirloom_inspect::history::GroundTruth;
use heirloom_inspect::rules::Verdict;
use heirloom_inspect::{CpuState, PhysAddr, PhysicalMemory, RootLabel, Snapshot};

use crate::event::{Counters, Event};
use crate::report::{Excerpt, Report};

/// Judges a run event by event. The same events with the same tables give the same report, wherever
/// they come from.
pub struct Judge {
    engine: Engine,
    excerpt: Option<Excerpt>,
    counters: Counters,
}

impl Judge {
    /// Before the first event.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> Judge {
        Judge {
            engine: Engine::new(truth, expectation),
            excerpt: None,
            counters: Counters::default(),
        }
    }

    /// Takes in what the guest reports. The address spaces to capture for [`Judge::observe`] are those of
    /// [`Judge::roots`] afterwards.
    pub fn apply(&mut self, event: &Event) {
        self.counters = event.counters;
        self.engine.apply(event);
    }

    /// The address spaces that exist, as far as the guest reported.
    pub fn roots(&self) -> &[(RootLabel, PhysAddr)] {
        self.engine.roots()
    }

    /// Judges the moment of the event that was applied last. Of the guest's CPUs, number `reporting` told it.
    pub fn observe<M: PhysicalMemory + ?Sized>(
        &mut self,
        event: &Event,
        cpus: &[CpuState],
        reporting: usize,
        snapshot: &Snapshot,
        memory: &M,
    ) {
        self.engine
            .observe(event, cpus, reporting, snapshot, memory);
        self.excerpt = Excerpt::choose(self.excerpt.take(), &self.engine, event);
    }

    /// Judges the tables of a moment between two events; see [`Engine::look`](crate::engine::Engine::look).
    pub(crate) fn look(&mut self, snapshot: &Snapshot) {
        self.engine.look(snapshot);
    }

    /// Reads what judging reads beside tables, and does not judge: see
    /// [`pass_over`](crate::engine::Engine::pass_over).
    pub fn pass_over<M: PhysicalMemory + ?Sized>(
        &mut self,
        cpus: usize,
        snapshot: &Snapshot,
        memory: &M,
    ) {
        self.engine.pass_over(cpus, snapshot, memory);
    }

    /// What is known of the guest: what the host knew before, and what the guest reported since.
    pub fn model(&self) -> &Model {
        self.engine.model()
    }

    /// The tables of the moment that was judged last.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.engine.snapshot()
    }

    /// What each rule found so far.
    pub fn verdicts(&self) -> &[Verdict] {
        self.engine.verdicts()
    }

    /// Whether every rule holds and at least one moment was judged.
    pub fn all_hold(&self) -> bool {
        self.engine.all_hold()
    }

    /// Whether no rule is broken, but not everything was held against one that should have been, because
    /// that was too much.
    pub fn is_given_up(&self) -> bool {
        self.engine.is_given_up()
    }

    /// What the run showed; `None` if nothing was judged.
    pub fn report(&self) -> Option<Report> {
        let excerpt = self.excerpt.as_ref()?;
        Some(Report::new(&self.engine, excerpt, self.counters))
    }
}
