//! What is looked at while the guest is paused.

use heirloom_inspect::{CpuState, PhysicalMemory, Snapshot};

use crate::event::Event;
use crate::judge::Judge;

/// What was captured while the guest was paused.
#[derive(Clone)]
pub struct Captured {
    /// The registers of every CPU, by its number.
    pub cpus: Vec<CpuState>,
    /// The number of the CPU that reported.
    pub reporting: usize,
    /// The page tables of every address space.
    pub snapshot: Snapshot,
}

impl Captured {
    /// The registers of the CPU that reported.
    pub fn cpu(&self) -> CpuState {
        self.cpus.get(self.reporting).copied().unwrap_or_default()
    }
}

/// Judges an event by what was captured at it.
pub(super) fn judge<M: PhysicalMemory + ?Sized>(
    judge: &mut Judge,
    event: &Event,
    captured: &Captured,
    memory: &M,
) {
    let Captured {
        cpus,
        reporting,
        snapshot,
    } = captured;
    judge.observe_all(event, cpus, *reporting, snapshot, memory);
}
