//! Who runs next: round robin over a queue.

use super::table::Processes;
use super::{FloatState, Pid, State};
use crate::arch::entry::TrapFrame;
use crate::kernel::Kernel;
use core::arch::asm;

/// Runnable processes that are not on the CPU, first come first served.
pub struct ReadyQueue {
    first: Option<Pid>,
    last: Option<Pid>,
}

impl ReadyQueue {
    pub const fn new() -> ReadyQueue {
        ReadyQueue {
            first: None,
            last: None,
        }
    }

    /// Adds a process at the end.
    pub fn push(&mut self, pid: Pid, processes: &mut Processes) {
        match self
            .last
            .replace(pid)
            .and_then(|last| processes.get_mut(last))
        {
            Some(last) => last.next_in_queue = Some(pid),
            None => self.first = Some(pid),
        }
    }

    fn pop(&mut self, processes: &mut Processes) -> Option<Pid> {
        let pid = self.first?;
        self.first = processes
            .get_mut(pid)
            .and_then(|process| process.next_in_queue.take());
        if self.first.is_none() {
            self.last = None;
        }
        Some(pid)
    }
}

impl Kernel {
    /// Takes the CPU from the current process, which stays runnable, if another one is ready.
    pub fn yield_now(&mut self, frame: &mut TrapFrame) {
        self.ready.push(self.current, &mut self.processes);
        self.run_next(frame);
    }

    /// Gives the CPU to the next ready process. The current one has been queued, or waits for
    /// something, or is gone.
    ///
    /// # Panics
    /// If nobody is ready: all processes wait for each other, and nothing from outside wakes any.
    pub fn run_next(&mut self, frame: &mut TrapFrame) {
        let Some(next) = self.ready.pop(&mut self.processes) else {
            panic!("deadlock: every process waits, and none is left to wake it");
        };
        if next == self.current {
            return;
        }
        if let Some(process) = self.processes.get_mut(self.current)
            && !matches!(process.state, State::Zombie { .. })
        {
            process.frame = *frame;
            // SAFETY: the area is 512 bytes, 16-byte aligned.
            unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut process.float, options(nostack)) };
        }
        self.current = next;
        let process = self.current_process();
        *frame = process.frame;
        // SAFETY: the area was filled by `fxsave64` or is a valid initial state.
        unsafe { load_float(&process.float) };
        self.use_current_space();
    }
}

/// # Safety
/// 1. `state` is what `fxsave64` wrote, or [`FloatState::new`].
pub unsafe fn load_float(state: &FloatState) {
    // SAFETY: obligation 1.
    unsafe { asm!("fxrstor64 [{}]", in(reg) state, options(nostack, readonly)) };
}
