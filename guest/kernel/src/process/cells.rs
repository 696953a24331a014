//! Counters at which processes meet: an eventcount each (Reed and Kanodia, 1979).

use super::{Pid, State};
use crate::kernel::Kernel;
use heirloom_abi::syscall::{CELLS, Errno};

#[allow(clippy::cast_possible_truncation)]
const COUNT: usize = CELLS as usize;

/// All cells, and who waits at each.
pub struct Cells {
    values: [u64; COUNT],
    waiting: [Option<Pid>; COUNT],
}

impl Cells {
    pub const fn new() -> Cells {
        Cells {
            values: [0; COUNT],
            waiting: [None; COUNT],
        }
    }

    pub fn load(&self, cell: u64) -> Result<u64, Errno> {
        Ok(self.values[index(cell)?])
    }
}

impl Kernel {
    /// Sets a cell and wakes those whose wait is over; the value before.
    pub fn cell_update(&mut self, cell: u64, new: impl Fn(u64) -> u64) -> Result<u64, Errno> {
        let cell = index(cell)?;
        let before = self.cells.values[cell];
        let value = new(before);
        self.cells.values[cell] = value;

        // Take the whole list and put back those who go on waiting; order is kept.
        let mut next = self.cells.waiting[cell].take();
        let mut last_kept: Option<Pid> = None;
        while let Some(pid) = next {
            let Some(process) = self.processes.get_mut(pid) else {
                break;
            };
            next = process.next_in_queue.take();
            let State::WaitsForCell { at_least, .. } = process.state else {
                continue;
            };
            if value >= at_least {
                process.state = State::Runnable;
                process.frame.rax = value;
                self.ready.push(pid, &mut self.processes);
            } else {
                match last_kept.and_then(|last| self.processes.get_mut(last)) {
                    Some(last) => last.next_in_queue = Some(pid),
                    None => self.cells.waiting[cell] = Some(pid),
                }
                last_kept = Some(pid);
            }
        }
        Ok(before)
    }

    /// The cell's value if it is at least that, or else `None`, and the current process waits.
    pub fn cell_wait(&mut self, cell: u64, at_least: u64) -> Result<Option<u64>, Errno> {
        let cell = index(cell)?;
        let value = self.cells.values[cell];
        if value >= at_least {
            return Ok(Some(value));
        }
        let pid = self.current;
        let first = self.cells.waiting[cell].replace(pid);
        let process = self.current_process();
        process.next_in_queue = first;
        process.state = State::WaitsForCell { cell, at_least };
        Ok(None)
    }
}

fn index(cell: u64) -> Result<usize, Errno> {
    usize::try_from(cell)
        .ok()
        .filter(|cell| *cell < COUNT)
        .ok_or(Errno::Invalid)
}
