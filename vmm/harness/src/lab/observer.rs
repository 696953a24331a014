//! Follows the guest of one cell through its phases. Page tables are captured only where a phase begins or
//! ends.

use std::time::Duration;

use heirloom_inspect::Snapshot;

use super::cell::{Cell, Counted, Phase, Step, TableFrames};
use super::plan::CellName;
use super::written::Written;
use crate::error::RunError;
use crate::event::{Counters, Event, EventKind};
use crate::run::{ExitStatus, Run};

/// What the program says at its checkpoints: the first begins the first step, each other one ends a step.
const CHECKPOINTS: [&str; Step::ALL.len() + 1] = [
    "settled",
    "mapped",
    "read",
    "mapped with a new PGD entry",
    "read below the new PGD entry",
    "freed",
];

/// A moment between two phases.
struct Boundary {
    counters: Counters,
    snapshot: Snapshot,
    guest_time: Duration,
}

/// Follows a guest through the phases.
pub(crate) struct Observer {
    processes: u64,
    allocations: u64,
    /// The checkpoint passed last.
    boundary: Option<Boundary>,
    phases: Vec<Phase>,
    /// The counters of the event before, and the guest time then.
    previous: (Counters, Duration),
    /// The fewest CR3 loads of a system call that mapped or unmapped …
    least_cr3_loads: Option<u64>,
    /// … and the least guest time, and guest cycles, of one that mapped.
    least_time: Option<Duration>,
    least_cycles: Option<u64>,
    /// Mappings made and ended, and reads, in the running phase, and those that went wrong …
    mappings: u64,
    reads: u64,
    lost: u64,
    /// … in each that has ended.
    lost_in: Vec<u64>,
    table_frames: Option<TableFrames>,
}

impl Observer {
    pub(crate) fn new(processes: u64, allocations: u64) -> Observer {
        Observer {
            processes,
            allocations,
            boundary: None,
            phases: Vec::new(),
            previous: (Counters::default(), Duration::ZERO),
            least_cr3_loads: None,
            least_time: None,
            least_cycles: None,
            mappings: 0,
            reads: 0,
            lost: 0,
            lost_in: Vec::new(),
            table_frames: None,
        }
    }

    /// Follows the guest to its end.
    pub(crate) fn follow(&mut self, run: &mut Run) -> Result<ExitStatus, RunError> {
        while let Some(event) = run.next_event()?.map(|seen| seen.event.clone()) {
            if let Err(error) = self.see(run, &event) {
                return Err(run.fail(error));
            }
        }
        run.status()
            .ok_or_else(|| astray("it ended without a status"))
    }

    fn see(&mut self, run: &mut Run, event: &Event) -> Result<(), RunError> {
        match &event.claim {
            EventKind::Checkpoint { text } => self.pass(run, event, text)?,
            EventKind::KernelMapped { .. } | EventKind::KernelUnmapped { .. } => {
                self.mappings += 1;
                self.sample_call(event, run.guest_time());
            }
            EventKind::KernelAccess {
                address,
                value,
                write: false,
                fault,
            } => {
                self.reads += 1;
                self.lost += u64::from(fault.is_some() || value != address);
            }
            _ => {}
        }
        self.previous = (event.counters, run.guest_time());
        Ok(())
    }

    /// The step that is being carried out, once the first checkpoint is passed.
    fn step(&self) -> Option<Step> {
        self.boundary.as_ref()?;
        Step::ALL.get(self.phases.len()).copied()
    }

    /// Looks at one system call: between two mappings, or two that end, there is one.
    fn sample_call(&mut self, event: &Event, guest_time: Duration) {
        let (counters, before) = &self.previous;
        let since = Counted::between(counters, &event.counters);
        if since.system_calls != 1 {
            return;
        }
        let step = self.step();
        if matches!(step, Some(Step::Map | Step::Unmap)) {
            let least = self.least_cr3_loads.unwrap_or(u64::MAX);
            self.least_cr3_loads = Some(least.min(since.cr3_loads));
        }
        if step == Some(Step::Map) {
            let least = self.least_time.unwrap_or(Duration::MAX);
            self.least_time = Some(least.min(guest_time.saturating_sub(*before)));
            let cycles = event.counters.cycles.saturating_sub(counters.cycles);
            self.least_cycles = Some(self.least_cycles.unwrap_or(u64::MAX).min(cycles));
        }
    }

    /// The guest says that a phase is over.
    fn pass(&mut self, run: &mut Run, event: &Event, text: &str) -> Result<(), RunError> {
        let expected = match self.boundary {
            None => CHECKPOINTS.first(),
            Some(_) => CHECKPOINTS.get(self.phases.len() + 1),
        };
        if expected != Some(&text) {
            return Err(astray(&format!(
                "it says `{text}` where `{}` was expected",
                expected.unwrap_or(&"its end")
            )));
        }
        // Taken before the host looks around.
        let guest_time = run.guest_time();
        let (_, snapshot) = run.capture()?;
        let address_spaces = snapshot.roots().len() as u64;
        if address_spaces != 1 + self.processes {
            return Err(astray(&format!(
                "it event of {address_spaces} address spaces, where there must be the kernel's and \
                 {} more",
                self.processes
            )));
        }
        let boundary = Boundary {
            counters: event.counters,
            snapshot,
            guest_time,
        };
        if let Some(step) = self.step() {
            self.end(step, &boundary)?;
        }
        // What came before the first checkpoint is not measured.
        (self.mappings, self.reads, self.lost) = (0, 0, 0);
        self.boundary = Some(boundary);
        Ok(())
    }

    fn end(&mut self, step: Step, now: &Boundary) -> Result<(), RunError> {
        let Some(before) = self.boundary.take() else {
            return Ok(());
        };
        self.phases.push(Phase {
            guest: Counted::between(&before.counters, &now.counters),
            tables: Written::between(&before.snapshot, &now.snapshot),
            nanoseconds: nanoseconds(now.guest_time.saturating_sub(before.guest_time)),
        });
        self.lost_in.push(self.lost);
        let (expected, happened, what) = match step {
            Step::Map | Step::Unmap => (self.allocations, self.mappings, "mappings made or ended"),
            Step::MapNew => (1, self.mappings, "mappings made or ended"),
            Step::Read | Step::ReadNew => (self.processes, self.reads, "reads"),
        };
        if happened != expected {
            return Err(astray(&format!(
                "it event of {happened} {what}, where there must be {expected}"
            )));
        }
        if step == Step::ReadNew {
            let found = now.snapshot.table_frames();
            self.table_frames = Some(TableFrames {
                guest: now.counters.frames_table,
                tables: found.total as u64,
                kernel_half: found.kernel_half as u64,
            });
        }
        Ok(())
    }

    pub(crate) fn finish(self, name: CellName) -> Result<Cell, RunError> {
        let (
            &[map, read, map_new, read_new, unmap],
            &[_, reads_lost, _, reads_lost_below_new_entry, _],
            Some(table_frames),
            Some(cr3_loads_per_system_call),
            Some(fastest),
            Some(fastest_mapping_cycles),
        ) = (
            self.phases.as_slice(),
            self.lost_in.as_slice(),
            self.table_frames,
            self.least_cr3_loads,
            self.least_time,
            self.least_cycles,
        )
        else {
            return Err(astray("it ended before it had passed all checkpoints"));
        };
        Ok(Cell {
            name,
            map,
            read,
            map_new,
            read_new,
            unmap,
            cr3_loads_per_system_call,
            fastest_mapping_nanoseconds: nanoseconds(fastest),
            fastest_mapping_cycles,
            table_frames,
            reads_lost,
            reads_lost_below_new_entry,
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The guest does not do what its program does.
fn astray(what: &str) -> RunError {
    RunError::Unexpected(format!("the lab's program does not do its part: {what}"))
}
