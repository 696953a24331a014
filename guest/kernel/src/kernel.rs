//! All state of the kernel in one place, behind one lock; [`crate::smp`] says what may be done without it.

use crate::arch::apic;
use crate::arch::cpu::{self, Features};
use crate::arch::entry::WAKE_VECTOR;
use crate::arch::entry_area::data_of;
use crate::arch::pcid::Pcid;
use crate::boot::memory_map::Ranges;
use crate::boot::modules::Modules;
use crate::boot::options::Options;
use crate::mm::frame::FrameAllocator;
use crate::mm::kernel_space::KernelSpace;
use crate::mm::user_space::Access;
use crate::mm::{VirtAddr, depth, page_down, user_access};
use crate::process::eventcount::Eventcounts;
use crate::process::scheduler::ReadyQueue;
use crate::process::table::Processes;
use crate::process::{Pid, Process};
use crate::{crash, smp};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use heirloom_abi::layout::user_end;
use heirloom_abi::options::CommandLine;
use heirloom_abi::syscall::Errno;
use smp::shootdown;

/// Everything that changes while the kernel runs, but counters and console.
pub struct Kernel {
    pub frames: FrameAllocator,
    pub space: KernelSpace,
    pub modules: Modules,
    pub processes: Processes,
    pub ready: ReadyQueue,
    pub eventcounts: Eventcounts,
    /// What the command line asks for.
    pub options: Options,
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
        // SAFETY: an allocator of nothing.
        frames: unsafe { FrameAllocator::new(0, Ranges::new(), false) },
        space: KernelSpace::BEFORE_BOOT,
        modules: Modules::new(),
        processes: Processes::new(),
        ready: ReadyQueue::new(),
        eventcounts: Eventcounts::new(),
        options: Options::NONE,
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
            .get_mut(cpu::current())
            .expect("a process is loaded")
    }

    /// Gives ring 3 the current process's address space: now, or, if the kernel has its own, on the way out.
    /// What the CPU remembers of it and may be wrong is dropped.
    pub fn use_current_space(&mut self) {
        let kernel = self.space.root();
        let isolates = self.space.isolates();
        let process = self.current_process();
        let (root, pcid) = (process.space.root(), process.space.pcid());
        if isolates {
            let roots = pcid.ways(kernel, root);
            data_of(cpu::id()).local().set_roots(roots);
        } else {
            // SAFETY: every process's root has the kernel half, by the strategy's `inherit`.
            unsafe { cpu::load_root(root, pcid) };
        }
    }

    /// As [`Kernel::use_current_space`], when something has been taken from the user half: no CPU uses what it
    /// remembers of it.
    pub fn flush_current_space(&mut self) {
        self.current_process().space.pcid().drop_all();
        self.use_current_space();
    }

    /// Loads the kernel's own address space, if it is not loaded anyway.
    pub fn use_kernel_space(&mut self) {
        if !self.space.isolates() {
            // SAFETY: the kernel's own root.
            unsafe { cpu::load_root(self.space.root(), Pcid::KERNEL) };
        }
    }

    /// Copies user memory of the current process, putting pages into place as needed.
    pub fn read_user(&mut self, user: u64, to: &mut [u8]) -> Result<(), Errno> {
        if self.space.isolates() {
            return self.read_process(cpu::current(), user, to);
        }
        check_user_range(user, to.len())?;
        let mut done = 0;
        while done < to.len() {
            done += user_access::copy_from_user(&mut to[done..], user + done as u64);
            if done < to.len() {
                self.resolve_user(cpu::current(), user + done as u64, Access::Read)?;
            }
        }
        Ok(())
    }

    /// Copies to user memory of the current process, putting pages into place as needed.
    pub fn write_user(&mut self, user: u64, from: &[u8]) -> Result<(), Errno> {
        if self.space.isolates() {
            return self.write_process(cpu::current(), user, from);
        }
        check_user_range(user, from.len())?;
        let mut done = 0;
        while done < from.len() {
            // SAFETY: the range was checked to be in the user half.
            done += unsafe { user_access::copy_to_user(user + done as u64, &from[done..]) };
            if done < from.len() {
                self.resolve_user(cpu::current(), user + done as u64, Access::Write)?;
            }
        }
        Ok(())
    }

    /// Copies user memory of any process, through its tables and the direct map, whichever address
    /// space is loaded.
    pub fn read_process(&mut self, pid: Pid, user: u64, to: &mut [u8]) -> Result<(), Errno> {
        check_user_range(user, to.len())?;
        let mut done = 0;
        while done < to.len() {
            let (from, room) = self.user_bytes(pid, user + done as u64, Access::Read)?;
            let piece = room.min(to.len() - done);
            // SAFETY: `room` bytes from `from` are in a user page of that process. If it runs elsewhere and
            // writes to them meanwhile, these are the old bytes or the new ones.
            unsafe { from.copy_to_nonoverlapping(to[done..].as_mut_ptr(), piece) };
            done += piece;
        }
        Ok(())
    }

    /// Copies to user memory of any process, in the same way.
    pub fn write_process(&mut self, pid: Pid, user: u64, from: &[u8]) -> Result<(), Errno> {
        check_user_range(user, from.len())?;
        let mut done = 0;
        while done < from.len() {
            let (to, room) = self.user_bytes(pid, user + done as u64, Access::Write)?;
            let piece = room.min(from.len() - done);
            // SAFETY: as in `read_process`, and the page is that process's own to write.
            unsafe { to.copy_from_nonoverlapping(from[done..].as_ptr(), piece) };
            done += piece;
        }
        Ok(())
    }

    /// Where the direct map shows the byte at user address `user` of a process, and how many follow
    /// in its page.
    fn user_bytes(
        &mut self,
        pid: Pid,
        user: u64,
        access: Access,
    ) -> Result<(*mut u8, usize), Errno> {
        let user = VirtAddr::new(user);
        let process = self.processes.get_mut(pid).ok_or(Errno::NoSuchProcess)?;
        if let Some(bytes) = process.space.bytes(user, access) {
            return Ok(bytes);
        }
        process
            .space
            .resolve(user, access, &self.modules, &mut self.frames)
            .map_err(|_| Errno::Fault)?;
        let bytes = process.space.bytes(user, access).ok_or(Errno::Fault);
        if access == Access::Write && pid != cpu::current() {
            // The page may have been copied; where the process runs, the old one may be remembered.
            for other in (0..smp::count()).filter(|other| *other != cpu::id()) {
                if data_of(other).local().current() == pid {
                    shootdown::one(VirtAddr::new(page_down(user.get())), other);
                }
            }
        }
        bytes
    }

    fn resolve_user(&mut self, pid: Pid, address: u64, access: Access) -> Result<(), Errno> {
        let process = self.processes.get_mut(pid).ok_or(Errno::Fault)?;
        process
            .space
            .resolve(
                VirtAddr::new(address),
                access,
                &self.modules,
                &mut self.frames,
            )
            .map_err(|_| Errno::Fault)
    }
}

fn check_user_range(user: u64, length: usize) -> Result<(), Errno> {
    match user.checked_add(length as u64) {
        Some(end) if end <= user_end(depth()) => Ok(()),
        _ => Err(Errno::Fault),
    }
}

/// The kernel's lock: taken at the way in, released at the way out, with interrupts off in between.
pub struct BigLock {
    /// The number of the CPU that holds it plus one, or 0; and, [`RESERVED`] bits higher, of the one that nobody may take
    /// it before.
    holder: AtomicU32,
    /// The CPUs that wait for it, a bit for each …
    waiters: AtomicU32,
    /// … and those of them that sleep.
    sleepers: AtomicU32,
    kernel: UnsafeCell<Kernel>,
}

/// Nobody holds it, nobody is before others.
const FREE: u32 = 0;
const RESERVED: u32 = 8;
const HOLDER: u32 = (1 << RESERVED) - 1;
/// How often a CPU sleeps for it before it is its turn: one that does nothing but system calls would take it again
/// and again before another one is awake.
const PATIENCE: u32 = 3;
/// How many cycles a CPU looks for the lock before it sleeps, about as long as it takes to be woken; if another one looks
/// already, it sleeps at once. They may share a CPU of the host with its holder.
const LOOK_CYCLES: u64 = 200_000;

// SAFETY: `kernel` is only reached through the guard, of which `holder` allows one.
unsafe impl Sync for BigLock {}

/// The one kernel.
pub static KERNEL: BigLock = BigLock {
    holder: AtomicU32::new(FREE),
    waiters: AtomicU32::new(0),
    sleepers: AtomicU32::new(0),
    kernel: UnsafeCell::new(Kernel::BEFORE_BOOT),
};

/// The kernel, locked.
pub struct Guard(());

impl BigLock {
    /// Takes the lock, waiting while another CPU has it.
    ///
    /// # Panics
    /// If this CPU holds it already: the kernel entered itself.
    #[inline]
    pub fn lock(&self) -> Guard {
        let own = cpu::number() + 1;
        if !self.take(own) {
            self.wait(own);
        }
        Guard(())
    }

    /// Whether this CPU holds it.
    pub fn is_held_here(&self) -> bool {
        self.holder.load(Ordering::Relaxed) & HOLDER == cpu::number() + 1
    }

    #[inline]
    fn take(&self, own: u32) -> bool {
        self.holder
            .compare_exchange(FREE, own, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[cold]
    fn wait(&self, own: u32) {
        assert!(!self.is_held_here(), "the kernel entered itself");
        let bit = 1 << cpu::number();
        self.waiters.fetch_or(bit, Ordering::SeqCst);
        let (mut begun, mut sleeps) = (cpu::cycles(), 0);
        while !self.look(own) {
            let others_look = self.lookers() & !bit != 0;
            if others_look || cpu::cycles() - begun > LOOK_CYCLES {
                self.sleep(own, bit);
                begun = cpu::cycles();
                sleeps += 1;
                if sleeps >= PATIENCE {
                    self.reserve(own);
                }
            }
        }
        self.waiters.fetch_and(!bit, Ordering::SeqCst);
        shootdown::drop_what_is_stale();
    }

    /// Has nobody else take it before this CPU, if nobody is before others yet.
    fn reserve(&self, own: u32) {
        let holder = self.holder.load(Ordering::Relaxed);
        if holder >> RESERVED == 0 {
            let reserved = holder | own << RESERVED;
            // If it has just changed hands, it is asked for again later.
            let _ =
                self.holder
                    .compare_exchange(holder, reserved, Ordering::SeqCst, Ordering::Relaxed);
        }
    }

    /// The CPUs that wait for it: what they are to drop, they drop when they have it.
    pub fn waiters(&self) -> u32 {
        self.waiters.load(Ordering::SeqCst)
    }

    /// Those of them that do not sleep.
    fn lookers(&self) -> u32 {
        let sleepers = self.sleepers.load(Ordering::SeqCst);
        self.waiters.load(Ordering::SeqCst) & !sleepers
    }

    /// One look for the lock; whether it is taken now.
    fn look(&self, own: u32) -> bool {
        // The holder may have asked this CPU before it was seen to wait.
        shootdown::serve();
        crash::stop_if_another_crashed();
        core::hint::spin_loop();
        match self.holder.load(Ordering::Relaxed) {
            FREE => self.take(own),
            reserved if reserved == own << RESERVED => {
                let taken = self.holder.compare_exchange(
                    reserved,
                    own,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                );
                taken.is_ok()
            }
            _ => false,
        }
    }

    /// Sleeps until an interrupt: of the one who gives the lock back, or of the timer.
    fn sleep(&self, own: u32, bit: u32) {
        self.sleepers.fetch_or(bit, Ordering::SeqCst);
        // Whoever gave it back before the bit was there has woken nobody.
        let holder = self.holder.load(Ordering::SeqCst);
        if holder != FREE && holder != own << RESERVED {
            cpu::sleep();
        }
        self.sleepers.fetch_and(!bit, Ordering::SeqCst);
    }

    /// Gives the lock away for some time in the middle of the work: the mistake of `lost-entry`.
    ///
    /// # Safety
    /// 1. Whoever holds the guard relies on nothing that others change.
    pub unsafe fn let_others_in(&self) {
        /// Long enough for every other CPU to come in several times, on a busy host, too.
        const CYCLES: u64 = 500_000_000;
        drop(Guard(()));
        cpu::wait(CYCLES, shootdown::serve);
        core::mem::forget(self.lock());
    }

    /// It has been given back: wakes one of those who sleep for it, if nobody who looks may take it.
    #[cold]
    fn wake_one(&self, sleepers: u32) {
        let reserved = self.holder.load(Ordering::SeqCst) >> RESERVED;
        let candidates = if reserved == 0 {
            // One that looks takes it, or sees that it is free before it sleeps.
            if self.lookers() != 0 {
                return;
            }
            sleepers
        } else {
            sleepers & 1 << (reserved - 1)
        };
        if candidates == 0 {
            return;
        }
        // The first one after this CPU, so that all have their turn.
        let later = candidates & !(u32::MAX >> (31 - cpu::number()));
        let number = if later == 0 { candidates } else { later }.trailing_zeros();
        self.sleepers.fetch_and(!(1 << number), Ordering::SeqCst);
        apic::interrupt(number as usize, WAKE_VECTOR);
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
        KERNEL.holder.fetch_and(!HOLDER, Ordering::SeqCst);
        let sleepers = KERNEL.sleepers.load(Ordering::SeqCst);
        if sleepers != 0 {
            KERNEL.wake_one(sleepers);
        }
    }
}
