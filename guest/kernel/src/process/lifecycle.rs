//! Birth, change and end of processes.

use super::program::{self, Arguments};
use super::table::Processes;
use super::{FloatState, Pid, Process, State, scheduler};
use crate::arch::cpu;
use crate::arch::entry::TrapFrame;
use crate::kernel::Kernel;
use crate::mm::entry::Level;
use crate::mm::table::Table;
use crate::mm::user_space::UserSpace;
use core::arch::asm;
use heirloom_abi::event::{Done, KERNEL_PID, ProcessCreated, ProcessExecuted, ProcessExited};
use heirloom_abi::syscall::Errno;

/// The process that inherits orphans, and whose end is the end of the run.
pub const FIRST: Pid = 1;

impl Kernel {
    /// A new address space whose kernel half comes from `parent`'s.
    fn new_space(&mut self, parent: Table) -> Result<UserSpace, Errno> {
        let root = Table::allocate(Level::Pgd, &mut self.frames).map_err(|_| Errno::NoMemory)?;
        self.space.propagation().inherit(parent, root);
        Ok(UserSpace::new(root))
    }

    /// Frees an address space that no CPU has loaded.
    fn drop_space(&mut self, mut space: UserSpace) {
        space.clear(&mut self.frames);
        let root = space.root();
        self.space.propagation().disinherit(root);
        self.frames.free_table(root.frame());
    }

    /// Makes a process without memory, as child of `parent`, whose address space the kernel half
    /// comes from.
    pub fn new_process(&mut self, pid: Pid, parent: Pid) -> Result<(), Errno> {
        let parent_root = self
            .processes
            .get(parent)
            .map_or(self.space.root(), |p| p.space.root());
        let space = self.new_space(parent_root)?;
        let Ok(frame) = Processes::allocate_frame(&mut self.frames) else {
            self.drop_space(space);
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
        self.tell_created(FIRST, KERNEL_PID);
        self.current = FIRST;
        let process = self.current_process();
        let (root, tag) = (process.space.root(), process.tag());
        // SAFETY: the root has just inherited the kernel half; the float state is a new one.
        unsafe {
            cpu::load_root(root, tag);
            scheduler::load_float(&FloatState::new());
        }
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
        let pid = self.current;
        let process = self.processes.get_mut(pid).expect("the current process");
        process.space.clear(&mut self.frames);
        process.space.vmas = layout.vmas;
        process.float = FloatState::new();
        // SAFETY: a new state; the process's own root once more, to flush the old program.
        unsafe {
            scheduler::load_float(&process.float);
            cpu::load_root(process.space.root(), process.tag());
        }
        let stack = self.build_stack(pid, arguments).ok();
        self.tell(&ProcessExecuted { pid: pid.into() }, &[]);
        Ok(stack.map(|stack| TrapFrame::for_program(layout.entry, stack)))
    }

    /// A copy of the current process, which was interrupted with `frame`. The child's number.
    pub fn fork(&mut self, frame: &TrapFrame) -> Result<Pid, Errno> {
        let pid = self.processes.free_pid().ok_or(Errno::TryAgain)?;
        let parent = self.current;
        let parent_root = self.current_process().space.root();
        let mut space = self.new_space(parent_root)?;
        let process = self.processes.get_mut(parent).expect("the current process");
        let copied = process.space.fork_into(&mut space, &mut self.frames);
        // The parent's pages are read-only now, whatever the TLB remembers.
        // SAFETY: the root that is loaded already.
        unsafe { cpu::load_root(parent_root, process.tag()) };
        // SAFETY: the area is 512 bytes, 16-byte aligned.
        unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut process.float, options(nostack)) };
        let float = process.float;
        let frame_for_child = match copied {
            Ok(()) => Processes::allocate_frame(&mut self.frames),
            Err(error) => Err(error),
        };
        let Ok(place) = frame_for_child else {
            self.drop_space(space);
            return Err(Errno::NoMemory);
        };
        let registers = TrapFrame { rax: 0, ..*frame };
        let mut child = Process::new(pid, parent, space, registers);
        child.float = float;
        self.processes.insert(child, place);
        self.ready.push(pid, &mut self.processes);
        self.tell_created(pid, parent);
        Ok(pid)
    }

    /// Ends the current process. Afterwards the kernel's own address space is loaded, and another
    /// process must be run.
    pub fn exit(&mut self, status: u64) {
        let pid = self.current;
        let root = self.leave_space();
        if pid != FIRST {
            self.processes.hand_over_children(pid, FIRST);
        }
        self.processes.make_zombie(pid, status);
        self.tell(
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
        // SAFETY: the kernel's own root.
        unsafe { cpu::load_root(kernel_root, 0) };
        let process = self.current_process();
        // The handle that stays behind points to the kernel's root, never to a freed frame.
        let space = core::mem::replace(&mut process.space, UserSpace::new(kernel_root));
        let root = space.root().frame().start().0;
        self.drop_space(space);
        self.current = KERNEL_PID;
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
        let parent = self.current;
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
            self.ready.push(pid, &mut self.processes);
        }
    }

    fn tell_created(&mut self, pid: Pid, parent: Pid) {
        let root = self
            .processes
            .get(pid)
            .map_or(0, |process| process.space.root().frame().start().0);
        self.tell(
            &ProcessCreated {
                pid: pid.into(),
                parent: parent.into(),
                root,
            },
            &[],
        );
    }
}
