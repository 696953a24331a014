//! The guest at an event, as it was captured.

use heirloom_inspect::{CpuState, PhysicalMemory, Snapshot};
use heirloom_machine::VirtualMachine;

use crate::event::Event;
use crate::judge::Judge;

/// The guest at an event: it is paused, and has been judged.
#[derive(Clone, Copy)]
pub struct Seen<'r> {
    /// What the guest reports.
    pub event: &'r Event,
    /// With the verdicts so far, this event's included.
    pub judge: &'r Judge,
    /// As it stands.
    pub machine: &'r dyn VirtualMachine,
    pub(super) captured: Option<&'r Captured>,
}

impl<'r> Seen<'r> {
    /// The registers of the CPU that reports; `None` if nothing was captured, because nothing is judged, or
    /// because the kernel never came up.
    pub fn cpu(&self) -> Option<&'r CpuState> {
        let captured = self.captured?;
        captured.cpus.get(captured.reporting)
    }

    /// The registers of every CPU, by its number; none as for [`Seen::cpu`].
    pub fn cpus(&self) -> &'r [CpuState] {
        self.captured.map_or(&[], |captured| &captured.cpus)
    }

    /// The page tables of every address space; `None` as for [`Seen::cpu`].
    pub fn snapshot(&self) -> Option<&'r Snapshot> {
        self.captured.map(|captured| &captured.snapshot)
    }
}

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

/// Has `judge` judge what was captured.
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
    judge.observe(event, cpus, *reporting, snapshot, memory);
}
