//! Who runs next: round robin over one queue, from which every CPU takes.

use super::table::Processes;
use super::{FloatState, Pid, State};
use crate::arch::cpu;
use crate::arch::entry::TrapFrame;
use crate::fault_injection::inject;
use crate::kernel::{KERNEL, Kernel};
use crate::smp::{self, shootdown};
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;
use heirloom_abi::event::KERNEL_PID;

/// Whether there is somebody in the queue, for those who have no lock.
static SOMEBODY_IS_READY: AtomicBool = AtomicBool::new(false);

/// Whether a process wants a CPU; without the kernel's lock, so that is soon over.
#[inline]
pub fn is_somebody_ready() -> bool {
    SOMEBODY_IS_READY.load(Relaxed)
}

/// Runnable processes that are on no CPU, first come first served.
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
        let last = self.last.replace(pid);
        if let Some(last) = last.and_then(|last| processes.get_mut(last)) {
            last.next_in_queue = Some(pid);
        } else {
            self.first = Some(pid);
            SOMEBODY_IS_READY.store(true, Relaxed);
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn pop(&mut self, processes: &mut Processes) -> Option<Pid> {
        let pid = self.first?;
        self.first = processes
            .get_mut(pid)
            .and_then(|process| process.next_in_queue.take());
        if self.first.is_none() {
            self.last = None;
            SOMEBODY_IS_READY.store(false, Relaxed);
        }
        Some(pid)
    }
}

/// In the vector of a frame that belongs to no process: the CPU has nothing to run.
pub const NOTHING_TO_RUN: u64 = u64::MAX;

impl Kernel {
    /// Adds a process that has become ready, and wakes a CPU that sleeps.
    pub fn make_ready(&mut self, pid: Pid) {
        self.ready.push(pid, &mut self.processes);
        smp::wake_one();
    }

    /// Takes the CPU from the current process, which stays runnable, if another one is ready.
    pub fn yield_now(&mut self, frame: &mut TrapFrame) {
        if !self.ready.is_empty() {
            self.ready.push(cpu::current(), &mut self.processes);
            self.run_next(frame);
        }
    }

    /// Gives the CPU to the next ready process. The current one has been queued, or waits for
    /// something, or is gone. If nobody is ready, `frame` says so by [`NOTHING_TO_RUN`].
    ///
    /// # Panics
    /// If nobody is ready and all other CPUs sleep: all processes wait for each other, and nothing from outside
    /// wakes any.
    pub fn run_next(&mut self, frame: &mut TrapFrame) {
        if let Some(process) = self.processes.get_mut(cpu::current())
            && !matches!(process.state, State::Zombie { .. })
        {
            process.frame = *frame;
            // SAFETY: the area is 512 bytes, 16-byte aligned.
            unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut process.float, options(nostack)) };
        }
        if let Some(next) = self.ready.pop(&mut self.processes) {
            self.load(next, frame);
            return;
        }
        // Nobody may find this CPU on the root of a process that others can end.
        cpu::set_current(KERNEL_PID);
        if !inject(Bug::IdleKeepsRoot) {
            self.use_kernel_space();
        }
        smp::fall_asleep();
        frame.vector = NOTHING_TO_RUN;
    }

    /// Takes a process that is ready, after the CPU has slept; if there is none, it is to sleep on.
    fn wakes_up(&mut self, frame: &mut TrapFrame) -> bool {
        shootdown::drop_what_is_stale();
        let Some(next) = self.ready.pop(&mut self.processes) else {
            smp::fall_asleep();
            return false;
        };
        self.load(next, frame);
        true
    }

    /// Loads a process: its address space, and its registers into `frame`.
    fn load(&mut self, next: Pid, frame: &mut TrapFrame) {
        cpu::set_current(next);
        let process = self.current_process();
        *frame = process.frame;
        // SAFETY: the area was filled by `fxsave64` or is a valid initial state.
        unsafe { load_float(&process.float) };
        cpu::load_fs_base(process.fs_base);
        self.use_current_space();
    }
}

/// Sleeps until there is a process for this CPU, which has none: `frame` are its registers then.
pub fn sleep_until_ready(frame: &mut TrapFrame) {
    loop {
        smp::sleep();
        if KERNEL.lock().wakes_up(frame) {
            return;
        }
    }
}

/// # Safety
/// 1. `state` is what `fxsave64` wrote, or [`FloatState::new`].
pub unsafe fn load_float(state: &FloatState) {
    // SAFETY: obligation 1.
    unsafe { asm!("fxrstor64 [{}]", in(reg) state, options(nostack, readonly)) };
}
