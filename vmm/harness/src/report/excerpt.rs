//! The one moment of a run that is shown in full.

use heirloom_inspect::Snapshot;
use heirloom_inspect::judge::Judge;

use crate::event::{Event, describe};

/// The moment that tells most: the first one that broke a rule, or else the last one at which most
/// processes lived with most kernel memory mapped.
#[derive(Clone, Debug)]
pub struct Excerpt {
    pub snapshot: Snapshot,
    pub event: u64,
    /// What happened then, in words.
    pub what: String,
    broken: bool,
    weight: (usize, u64),
}

impl Excerpt {
    /// Keeps `before` or takes the moment that `judge` has just judged.
    #[must_use]
    pub fn choose(before: Option<Excerpt>, judge: &Judge, event: &Event) -> Option<Excerpt> {
        let snapshot = judge.snapshot()?;
        let world = judge.world();
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
