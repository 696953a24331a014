//! Birth, change and end of processes.

use super::program::{self, Arguments};
use super::table::Processes;
use super::{FloatState, Pid, Process, State, scheduler};
use crate::arch::cpu;
use crate::arch::entry::TrapFrame;
use crate::arch::pcid::Pcid;
use crate::fault_injection::inject;
use crate::kernel::Kernel;
use crate::mm::user_space::UserSpace;
use core::arch::asm;
use heirloom_abi::bugs::Bug;
use heirloom_abi::event::{Done, KERNEL_PID, ProcessCreated, ProcessExecuted, ProcessExited};
use heirloom_abi::syscall::Errno;

/// The process that inherits orphans, and whose end is the end of the run.
pub const FIRST: Pid = 1;

impl Kernel {
    /// Frees an address space.
    ///
    /// # Safety
    /// 1. No CPU uses it or remembers translations of it.
    unsafe fn drop_space(&mut self, mut space: UserSpace) {
        space.clear(&mut self.frames);
        // SAFETY: obligation 1; the user half is empty now, and the handle goes with `space`.
        unsafe { self.space.drop_root(space.root(), &mut self.frames) };
        space.pcid().give_back();
    }

    /// Makes a process without memory, as child of `parent`, whose address space the kernel half
    /// comes from.
    pub fn new_process(&mut self, pid: Pid, parent: Pid) -> Result<(), Errno> {
        let parent_root = self.processes.get(parent).map(|parent| parent.space.root());
        let root = self
            .space
            .new_root(parent_root, &mut self.frames)
            .map_err(|_| Errno::NoMemory)?;
        let space = UserSpace::new(root, Pcid::allocate());
        let Ok(frame) = Processes::allocate_frame(&mut self.frames) else {
            // SAFETY: it was never loaded.
            unsafe { self.drop_space(space) };
            return Err(Errno::NoMemory);
        };
        let registers = TrapFrame::for_program(0, 0);
        self.processes
            .insert(Process::new(pid, parent, space, registers), frame);
        Ok(())
    }

    /// Makes the first process from boot module `module`, loads it, and returns its registers.
    pub fn start_first_process(
        &mut self,
        module: usize,
        arguments: &Arguments,
    ) -> Result<TrapFrame, Errno> {
        self.new_process(FIRST, KERNEL_PID)?;
        self.emit_created(FIRST, KERNEL_PID);
        cpu::set_current(FIRST);
        self.use_current_space();
        // SAFETY: a new state.
        unsafe { scheduler::load_float(&FloatState::new()) };
        self.execute(module, arguments)?.ok_or(Errno::NoMemory)
    }

    /// Replaces the current process's program by boot module `module`, and returns the registers
    /// to start with; `None` if memory ran out when the old program was gone already. On an error
    /// the old program is whole.
    pub fn execute(
        &mut self,
        module: usize,
        arguments: &Arguments,
    ) -> Result<Option<TrapFrame>, Errno> {
        let layout = program::layout(module, self.modules.get(module).bytes)?;
        let process = self
            .processes
            .get_mut(cpu::current())
            .expect("the current process");
        process.space.clear(&mut self.frames);
        process.space.vmas = layout.vmas;
        process.float = FloatState::new();
        process.fs_base = 0;
        // SAFETY: a new state.
        unsafe { scheduler::load_float(&process.float) };
        cpu::load_fs_base(0);
        self.flush_current_space();
        let stack = self.build_stack(arguments).ok();
        let pid = cpu::current().into();
        self.emit(&ProcessExecuted { pid }, &[]);
        Ok(stack.map(|stack| TrapFrame::for_program(layout.entry, stack)))
    }

    /// A copy of the current process, which was interrupted with `frame`. The child's number.
    pub fn fork(&mut self, frame: &TrapFrame) -> Result<Pid, Errno> {
        let pid = self.processes.free_pid().ok_or(Errno::TryAgain)?;
        let parent = cpu::current();
        let parent_root = self.current_process().space.root();
        let root = self
            .space
            .new_root(Some(parent_root), &mut self.frames)
            .map_err(|_| Errno::NoMemory)?;
        let mut space = UserSpace::new(root, Pcid::allocate());
        let process = self.processes.get_mut(parent).expect("the current process");
        let copied = process.space.fork_into(&mut space, &mut self.frames);
        // SAFETY: the area is 512 bytes, 16-byte aligned.
        unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut process.float, options(nostack)) };
        let (float, fs_base) = (process.float, process.fs_base);
        // The parent's pages are read-only now, whatever the TLB remembers.
        if !inject(Bug::ForkWithoutFlush) {
            self.flush_current_space();
        }
        let frame_for_child = match copied {
            Ok(()) => Processes::allocate_frame(&mut self.frames),
            Err(error) => Err(error),
        };
        let Ok(place) = frame_for_child else {
            // SAFETY: it was never loaded.
            unsafe { self.drop_space(space) };
            return Err(Errno::NoMemory);
        };
        let registers = TrapFrame { rax: 0, ..*frame };
        let mut child = Process::new(pid, parent, space, registers);
        child.float = float;
        child.fs_base = fs_base;
        self.processes.insert(child, place);
        self.make_ready(pid);
        self.emit_created(pid, parent);
        Ok(pid)
    }

    /// Ends the current process. Afterwards the kernel's own address space is loaded, and another
    /// process must be run.
    pub fn exit(&mut self, status: u64) {
        let pid = cpu::current();
        let root = self.leave_space();
        if pid != FIRST {
            self.processes.reparent_children(pid, FIRST);
        }
        self.processes.make_zombie(pid, status);
        self.emit(
            &ProcessExited {
                pid: pid.into(),
                status,
                root,
            },
            &[],
        );
        if pid == FIRST {
            self.finish(Done { status });
        }
        let parent = self
            .processes
            .get(pid)
            .map_or(FIRST, |process| process.parent);
        for waiting in [parent, FIRST] {
            self.wake_from_waiting_for_child(waiting);
        }
    }

    /// Drops the address space of the current process; its old root.
    fn leave_space(&mut self) -> u64 {
        let kernel_root = self.space.root();
        if inject(Bug::ExitKeepsCr3) {
            let process = self.current_process();
            let space = core::mem::replace(&mut process.space, UserSpace::of_kernel(kernel_root));
            cpu::set_current(KERNEL_PID);
            return space.root().frame().start().get();
        }
        self.use_kernel_space();
        let process = self.current_process();
        // The handle that stays behind points to the kernel's root, never to a freed frame.
        let space = core::mem::replace(&mut process.space, UserSpace::of_kernel(kernel_root));
        let root = space.root().frame().start().get();
        // SAFETY: this CPU uses the kernel's root, and no other has used the process's since it was loaded here.
        // What a CPU remembers it drops at the next load of CR3, or, where there are PCIDs, of its PCID; and global
        // translations are the kernel's alone.
        unsafe { self.drop_space(space) };
        cpu::set_current(KERNEL_PID);
        root
    }

    /// Ends the process that made the boot's self-test.
    pub fn end_self_test(&mut self) {
        self.leave_space();
        self.processes.remove_orphan(KERNEL_PID, &mut self.frames);
    }

    /// A child of the current process that has ended: `Ok(None)` if none has yet.
    ///
    /// # Errors
    /// [`Errno::NoChild`] if there is none to wait for.
    pub fn reap(&mut self, wanted: Option<Pid>) -> Result<Option<(Pid, u64)>, Errno> {
        let parent = cpu::current();
        if let Some(ended) = self.processes.reap(parent, wanted, &mut self.frames) {
            return Ok(Some(ended));
        }
        let may_come = match wanted {
            Some(pid) => self
                .processes
                .get(pid)
                .is_some_and(|child| child.parent == parent),
            None => self.current_process().first_child.is_some(),
        };
        if may_come {
            Ok(None)
        } else {
            Err(Errno::NoChild)
        }
    }

    fn wake_from_waiting_for_child(&mut self, pid: Pid) {
        if let Some(process) = self.processes.get_mut(pid)
            && process.state == State::WaitsForChild
        {
            process.state = State::Runnable;
            self.make_ready(pid);
        }
    }

    fn emit_created(&mut self, pid: Pid, parent: Pid) {
        let root = self
            .processes
            .get(pid)
            .map_or(0, |process| process.space.root().frame().start().get());
        self.emit(
            &ProcessCreated {
                pid: pid.into(),
                parent: parent.into(),
                root,
            },
            &[],
        );
    }
}
