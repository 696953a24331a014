//! Looks between events: a kernel could have its tables right at events alone.
//!
//! Wherever the guest happens to be after a slice of time, the host looks: if ring 3 runs, the kernel has done
//! its work, and all that must hold at events must hold then. What ring 3 runs on is what counts.

use std::time::Duration;

use super::Run;
use crate::error::RunError;

/// From one look to the next.
pub(super) const SLICE: Duration = Duration::from_micros(150);
/// Roots that are listed, at most.
const MAX_LISTED: usize = 4;

/// What was seen between events.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    /// How many times ring 3 ran when the host looked.
    pub made: u64,
    /// What ring 3 ran on though nobody told of it, in sentences.
    pub hidden: Vec<String>,
}

impl Run {
    /// What was seen between events; `None` if nobody looks.
    pub fn looks(&self) -> Option<&Looks> {
        self.looks.as_ref()
    }

    /// Looks, if that is wanted and ring 3 runs.
    pub(super) fn look(&mut self) -> Result<(), RunError> {
        // Before the first event, no address space is known.
        if self.looks.is_none() || self.event.is_none() {
            return Ok(());
        }
        let registers = self.machine.registers()?;
        if registers.cpl != 3 {
            return Ok(());
        }
        let captured = self.capture();
        self.captured = None;
        let (cpu, snapshot) = captured?;
        let root = cpu.cr3.root();
        let is_known = snapshot.roots().iter().any(|known| known.address == root);
        if let Some(looks) = &mut self.looks {
            looks.made += 1;
            if !is_known && looks.hidden.len() < MAX_LISTED {
                let event = self.event.as_ref().map_or(0, |event| event.sequence);
                looks.hidden.push(format!(
                    "after event {event}, ring 3 runs on the root {root}, of which nothing was told"
                ));
            }
        }
        self.judge.look(&snapshot);
        Ok(())
    }
}
