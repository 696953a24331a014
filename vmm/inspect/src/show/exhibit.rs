//! The one moment of a run that is shown in full.

use crate::judge::{Claim, Judge, Told};
use crate::snapshot::{RootLabel, Snapshot};

/// The moment that tells most: the first one that broke a rule, or else the last one at which most
/// processes lived with most kernel memory mapped.
#[derive(Clone, Debug)]
pub struct Exhibit {
    pub snapshot: Snapshot,
    pub event: u64,
    /// What happened then, in words.
    pub what: String,
    broken: bool,
    weight: (usize, u64),
}

impl Exhibit {
    /// Keeps `before` or takes the moment that `judge` has just judged.
    #[must_use]
    pub fn choose(before: Option<Exhibit>, judge: &Judge, told: &Told) -> Option<Exhibit> {
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
        Some(Exhibit {
            snapshot: snapshot.clone(),
            event: told.sequence,
            what: describe(told),
            broken,
            weight,
        })
    }
}

/// An event in words: `process 6 read kernel memory at 0xffffc98000009000`.
pub fn describe(told: &Told) -> String {
    let who = match told.label() {
        RootLabel::Process(pid) => format!("process {pid}"),
        _ => "the kernel".into(),
    };
    match &told.claim {
        Claim::Boot { .. } => "the kernel is up".into(),
        Claim::ProcessCreated {
            child, parent: 0, ..
        } => format!("process {child} is the first"),
        Claim::ProcessCreated { child, parent, .. } => {
            format!("process {parent} has a child, process {child}")
        }
        Claim::ProcessExecuted { process } => format!("process {process} starts its program"),
        Claim::ProcessExited { process, .. } => format!("process {process} has ended"),
        Claim::ProcessKilled { process, .. } => format!("process {process} is killed"),
        Claim::KernelMapped { address, pages, .. } => {
            format!("{who} allocated {pages} pages of kernel memory at {address}")
        }
        Claim::KernelUnmapped { address, .. } => format!("{who} freed kernel memory at {address}"),
        Claim::KernelProtected {
            address, writable, ..
        } => {
            let rights = if *writable { "writable" } else { "read-only" };
            format!("{who} made kernel memory at {address} {rights}")
        }
        Claim::KernelAccess {
            address,
            write,
            fault,
            ..
        } => {
            let did = match (write, fault) {
                (false, None) => "read",
                (true, None) => "wrote to",
                (false, Some(_)) => "could not read",
                (true, Some(_)) => "could not write to",
            };
            format!("{who} {did} kernel memory at {address:#x}")
        }
        Claim::PageFaultHandled {
            process, address, ..
        } => format!("process {process} faulted at {address}, and goes on"),
        Claim::Checkpoint { text } => text.clone(),
        Claim::Crash { .. } => "the kernel crashed".into(),
        Claim::Done { .. } => "the run is over".into(),
    }
}
