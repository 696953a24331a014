//! All state of the kernel in one place, behind one lock.

use crate::arch::cpu::Features;
use crate::boot::memory_map::Ranges;
use crate::boot::modules::Modules;
use crate::mm::frame::FrameAllocator;
use crate::mm::kernel_space::KernelSpace;
use crate::mm::user_access;
use crate::mm::user_space::Access;
use crate::process::cells::Cells;
use crate::process::scheduler::ReadyQueue;
use crate::process::table::Processes;
use crate::process::{Pid, Process};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use heirloom_abi::event::KERNEL_PID;
use heirloom_abi::layout::USER_END;
use heirloom_abi::options::CommandLine;
use heirloom_abi::syscall::Errno;

/// Everything that changes while the kernel runs, but counters and console.
pub struct Kernel {
    pub frames: FrameAllocator,
    pub space: KernelSpace,
    pub modules: Modules,
    pub processes: Processes,
    pub ready: ReadyQueue,
    pub cells: Cells,
    /// Whose address space is loaded.
    pub current: Pid,
    pub command_line: CommandLine<'static>,
    /// What the kernel found and uses: `event::machine` bits.
    pub machine: u64,
    /// What of CPUID's offers the kernel uses.
    pub features: Features,
    /// All of RAM.
    pub ram: Ranges,
}

impl Kernel {
    /// Before the boot has filled it in. A constant, because a kernel is too large for a stack.
    const BEFORE_BOOT: Kernel = Kernel {
        frames: FrameAllocator::new(0, Ranges::new(), false),
        space: KernelSpace::BEFORE_BOOT,
        modules: Modules::new(),
        processes: Processes::new(),
        ready: ReadyQueue::new(),
        cells: Cells::new(),
        current: KERNEL_PID,
        command_line: CommandLine::EMPTY,
        machine: 0,
        features: Features::NONE,
        ram: Ranges::new(),
    };
}

impl Kernel {
    /// The process whose address space is loaded.
    ///
    /// # Panics
    /// In the kernel's own address space.
    pub fn current_process(&mut self) -> &mut Process {
        self.processes
            .get_mut(self.current)
            .expect("a process is loaded")
    }

    /// Copies user memory of the current process, putting pages into place as needed.
    pub fn read_user(&mut self, user: u64, to: &mut [u8]) -> Result<(), Errno> {
        check_user_range(user, to.len())?;
        let mut done = 0;
        while done < to.len() {
            done += user_access::copy_from_user(&mut to[done..], user + done as u64);
            if done < to.len() {
                self.resolve_user(self.current, user + done as u64, Access::Read)?;
            }
        }
        Ok(())
    }

    /// Copies to user memory of the current process, putting pages into place as needed.
    pub fn write_user(&mut self, user: u64, from: &[u8]) -> Result<(), Errno> {
        self.write_user_as(self.current, user, from)
    }

    /// The same for process `pid`, whose address space is loaded.
    pub fn write_user_as(&mut self, pid: Pid, user: u64, from: &[u8]) -> Result<(), Errno> {
        check_user_range(user, from.len())?;
        let mut done = 0;
        while done < from.len() {
            // SAFETY: the range was checked to be in the user half.
            done += unsafe { user_access::copy_to_user(user + done as u64, &from[done..]) };
            if done < from.len() {
                self.resolve_user(pid, user + done as u64, Access::Write)?;
            }
        }
        Ok(())
    }

    fn resolve_user(&mut self, pid: Pid, address: u64, access: Access) -> Result<(), Errno> {
        let process = self.processes.get_mut(pid).ok_or(Errno::Fault)?;
        process
            .space
            .resolve(
                crate::mm::VirtAddr(address),
                access,
                &self.modules,
                &mut self.frames,
            )
            .map_err(|_| Errno::Fault)
    }
}

fn check_user_range(user: u64, length: usize) -> Result<(), Errno> {
    match user.checked_add(length as u64) {
        Some(end) if end <= USER_END => Ok(()),
        _ => Err(Errno::Fault),
    }
}

/// The kernel's lock: taken at the way in, released at the way out. Interrupts are off in between,
/// so on one CPU it is always free; finding it taken means that the kernel entered itself.
pub struct BigLock {
    taken: AtomicBool,
    kernel: UnsafeCell<Kernel>,
}

// SAFETY: `kernel` is only reached through the guard, of which `taken` allows one.
unsafe impl Sync for BigLock {}

/// The one kernel.
pub static KERNEL: BigLock = BigLock {
    taken: AtomicBool::new(false),
    kernel: UnsafeCell::new(Kernel::BEFORE_BOOT),
};

/// The kernel, locked.
pub struct Guard(());

impl BigLock {
    /// Takes the lock.
    ///
    /// # Panics
    /// If the kernel holds it already.
    pub fn lock(&self) -> Guard {
        let was_taken = self.taken.swap(true, Ordering::Acquire);
        assert!(!was_taken, "the kernel entered itself");
        Guard(())
    }
}

impl Deref for Guard {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        // SAFETY: there is one guard at a time.
        unsafe { &*KERNEL.kernel.get() }
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Kernel {
        // SAFETY: there is one guard at a time, and it is borrowed mutably.
        unsafe { &mut *KERNEL.kernel.get() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        KERNEL.taken.store(false, Ordering::Release);
    }
}
