//! The one event of a run that its report shows in full.

use crate::engine::Engine;
use heirloom_inspect::Snapshot;

use crate::event::{Event, describe};

/// The event that shows most: the first one that broke a rule, or else the last one at which the most
/// processes were alive with the most kernel memory mapped.
#[derive(Clone, Debug)]
pub struct Excerpt {
    /// Its page tables.
    pub snapshot: Snapshot,
    /// Its event's number.
    pub event: u64,
    /// What happened then, in words.
    pub what: String,
    broken: bool,
    weight: (usize, u64),
}

impl Excerpt {
    /// Keeps `before` or takes the event that `judge` has just judged.
    #[must_use]
    pub fn choose(before: Option<Excerpt>, judge: &Engine, event: &Event) -> Option<Excerpt> {
        let snapshot = judge.snapshot()?;
        let world = judge.model();
        let mapped = world
            .allocations()
            .map(|allocation| allocation.range.bytes())
            .sum();
        let weight = (snapshot.roots().len(), mapped);
        let broken = judge
            .verdicts()
            .iter()
            .any(|verdict| verdict.violations > 0);
        if let Some(before) = before
            && (before.broken || !broken && before.weight > weight)
        {
            return Some(before);
        }
        Some(Excerpt {
            snapshot: snapshot.clone(),
            event: event.sequence,
            what: describe(event),
            broken,
            weight,
        })
    }
}
