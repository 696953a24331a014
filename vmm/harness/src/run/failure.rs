//! Why a run cannot go on, or should not begin.

use std::time::Instant;

use heirloom_abi::event::machine;
use heirloom_machine::Stop;

use super::Run;
use crate::backtrace::{self, Frame};
use crate::crash_report;
use crate::error::RunError;
use crate::event::{Event, EventKind};

impl Run {
    /// That the CPU has what the deliberate bug is made with, once the kernel tells what it has.
    pub(super) fn may_be_tried(&self, event: &Event) -> Result<(), RunError> {
        let (EventKind::Boot { machine, .. }, Some(bug)) = (&event.claim, self.bug) else {
            return Ok(());
        };
        let needed = machine::NAMES
            .iter()
            .filter(|(_, bit)| bug.machine() & bit != 0);
        let lacking = needed
            .map(|(name, _)| *name)
            .filter(|name| !machine.contains(name));
        let lacking: Vec<&str> = lacking.collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(RunError::Untried {
            bug: bug.info().name,
            lacking,
        })
    }

    /// That capturing and judging were done in time: else what was found is not all that there is.
    pub(super) fn within_budget(&self) -> Result<(), RunError> {
        if !self.budget.is_spent() {
            return Ok(());
        }
        Err(self.stopped(&if Instant::now() >= self.deadline() {
            Stop::TimeLimit
        } else {
            Stop::Interrupted
        }))
    }

    /// The guest kernel says that it cannot go on; it has printed its own account.
    pub(super) fn crashed(&self, event: &Event) -> RunError {
        let EventKind::Crash {
            vector,
            error_code,
            rip,
            rbp,
            address,
        } = event.claim
        else {
            return RunError::Guest {
                report: "the guest kernel crashed".into(),
            };
        };
        let what = match vector {
            None => "the guest kernel panicked".to_owned(),
            Some(vector) => format!(
                "the guest kernel took exception {vector} (error code {error_code:#x}, address {address})"
            ),
        };
        let frame = Frame {
            rip: rip.get(),
            rbp: rbp.get(),
        };
        RunError::Guest {
            report: what + &backtrace::text(&*self.machine, frame),
        }
    }

    /// Every CPU halted where no interrupt can wake it.
    pub(super) fn halted(&self) -> RunError {
        let place = crash_report::place(&*self.machine);
        RunError::Guest {
            report: format!("the guest halted with interrupts off: nothing wakes it{place}"),
        }
    }

    /// The machine stopped, and not for an event.
    pub(super) fn stopped(&self, stop: &Stop) -> RunError {
        match stop {
            Stop::TimeLimit => RunError::TimeLimit {
                limit: self.time_limit,
                place: crash_report::place(&*self.machine),
            },
            stop => RunError::Guest {
                report: crash_report::text(&*self.machine, stop),
            },
        }
    }
}
