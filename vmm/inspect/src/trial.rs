//! A run under judgement, live or from a recording: the judge, and what of the run will be shown.

use crate::PhysAddr;
use crate::PhysicalMemory;
use crate::judge::{Counters, Expectation, GroundTruth, Judge, Told};
use crate::show::{Exhibit, Report};
use crate::snapshot::{RootLabel, Snapshot};
use heirloom_paging::mode::CpuState;

/// Judges a run event by event. The same events with the same tables give the same report, wherever
/// they come from.
pub struct Trial {
    judge: Judge,
    exhibit: Option<Exhibit>,
    counters: Counters,
}

impl Trial {
    /// Before the guest has told anything.
    pub fn new(truth: GroundTruth, expectation: Expectation) -> Trial {
        Trial {
            judge: Judge::new(truth, expectation),
            exhibit: None,
            counters: Counters::default(),
        }
    }

    /// Takes in what the guest told.
    pub fn hear(&mut self, told: &Told) {
        self.counters = told.counters;
        self.judge.hear(told);
    }

    /// The address spaces that exist, as far as the guest told.
    pub fn roots(&self) -> Vec<(RootLabel, PhysAddr)> {
        self.judge.roots()
    }

    /// Judges the moment of the event that was heard last.
    pub fn observe<M: PhysicalMemory + ?Sized>(
        &mut self,
        told: &Told,
        cpu: &CpuState,
        snapshot: &Snapshot,
        memory: &M,
    ) {
        self.judge.observe(told, cpu, snapshot, memory);
        self.exhibit = Exhibit::choose(self.exhibit.take(), &self.judge, told);
    }

    /// The judge, with its verdicts so far.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// What the run showed; `None` if nothing was judged.
    pub fn report(&self) -> Option<Report> {
        let exhibit = self.exhibit.as_ref()?;
        Some(Report::new(&self.judge, exhibit, self.counters))
    }
}
