//! A run's report: everything that is shown, as data.

mod address_spaces;
mod excerpt;

use std::time::{Duration, Instant};

pub use address_spaces::{AddressSpace, EntryGroup, KernelHalf};
pub use excerpt::Excerpt;

use crate::engine::Engine;
use address_spaces::{address_spaces, entry_groups};
use heirloom_inspect::Budget;
use heirloom_inspect::history::ProcessRecord;
use heirloom_inspect::rules::{GIVEN_UP, Verdict, how_many_hold, not_tried};
use serde::Serialize;

use crate::event::Counters;

/// How long comparing the address spaces that are shown may take.
const TIME: Duration = Duration::from_millis(400);

/// Version of the JSON form; grows when a field changes its meaning or goes.
pub const REPORT_VERSION: u32 = 1;

/// What a CPU of the guest did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cpu {
    /// Events that it says it has told.
    pub events: u64,
}

/// What a run showed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The strategy that the guest was held to.
    pub propagation: &'static str,
    /// What the guest kernel says it found and uses of the CPU.
    pub machine: Vec<&'static str>,
    /// Its CPUs.
    pub cpus: Vec<Cpu>,
    /// Processes that have told something on more than one of them.
    pub migrated: usize,
    /// Whether every rule holds, at the events that there were.
    pub holds: bool,
    /// Whether the run came to its own end; else it crashed or was stopped.
    pub complete: bool,
    /// Events judged.
    pub events: u64,
    /// All processes that ever lived.
    pub processes: Vec<ProcessRecord>,
    /// The moment that is shown in full.
    pub shown_event: u64,
    /// What happened then.
    pub shown_event_text: String,
    /// Its address spaces, the kernel's own first.
    pub address_spaces: Vec<AddressSpace>,
    /// Its kernel-half PGD entries.
    pub kernel_entries: Vec<EntryGroup>,
    /// Page-table frames then: in all, below kernel halves, below user halves.
    pub table_frames: heirloom_inspect::TableFrames,
    /// The verdict of each rule.
    pub rules: Vec<Verdict>,
    /// The guest's last counters: claims.
    pub counters: Counters,
}

impl Report {
    /// The report of a run that `judge` has judged, with `excerpt` shown in full.
    pub fn new(judge: &Engine, excerpt: &Excerpt, counters: Counters) -> Report {
        let world = judge.model();
        // The run may have used up its own time.
        let snapshot = excerpt
            .snapshot
            .with_budget(Budget::until(Instant::now() + TIME));
        Report {
            version: REPORT_VERSION,
            propagation: world.expectation().strategy.name(),
            machine: world.machine().to_vec(),
            cpus: (0..)
                .take(judge.cpus())
                .map(|cpu| Cpu {
                    events: world.events_of(cpu),
                })
                .collect(),
            migrated: world.migrated(),
            holds: judge.all_hold(),
            complete: judge.model().is_done(),
            events: world.events(),
            processes: world.processes().copied().collect(),
            shown_event: excerpt.event,
            shown_event_text: excerpt.what.clone(),
            address_spaces: address_spaces(&snapshot),
            kernel_entries: entry_groups(&snapshot),
            table_frames: snapshot.table_frames(),
            rules: judge.verdicts().to_vec(),
            counters,
        }
    }
}

impl Report {
    /// The verdict in a sentence.
    pub fn verdict(&self) -> String {
        let Report {
            rules,
            events,
            propagation,
            ..
        } = self;
        let checks: u64 = rules.iter().map(|verdict| verdict.checks).sum();
        let broken: Vec<&str> = rules
            .iter()
            .filter(|verdict| verdict.violations > 0)
            .map(|verdict| verdict.rule.name)
            .collect();
        if !broken.is_empty() {
            return format!(
                "BROKEN: with propagation={propagation} {} of {} rules are broken: {}.",
                broken.len(),
                rules.len(),
                broken.join(", ")
            );
        }
        let given_up = rules.iter().filter(|verdict| verdict.is_given_up()).count();
        if given_up > 0 {
            return format!(
                "NOT ALL COMPARED: with propagation={propagation} no rule was broken at the {events} \
                 events as far as they were compared ({checks} checks), but {given_up} of {} rules were \
                 not tried: {GIVEN_UP}.",
                rules.len()
            );
        }
        if !self.complete {
            return format!(
                "BROKEN OFF: with propagation={propagation} no rule was broken at the {events} \
                 events ({checks} checks) until the run broke off."
            );
        }
        let hold = how_many_hold(rules);
        let not_tried = match not_tried(rules).as_str() {
            "" => String::new(),
            not_tried => format!("; {not_tried}"),
        };
        format!(
            "HOLDS: with propagation={propagation} {hold} rules hold at all {events} events \
             ({checks} checks){not_tried}."
        )
    }
}
