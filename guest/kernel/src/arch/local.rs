//! What GS points to in the kernel: the data of the CPU that runs.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A CPU's own data. The entry text reads it before there is a stack.
#[repr(C)]
pub struct CpuLocal {
    /// Ring 3's stack pointer while `syscall` is between stacks.
    pub(super) user_rsp: AtomicU64,
    /// End of the stack that traps from ring 3 first use.
    pub(super) entry_stack_top: AtomicU64,
    /// End of the kernel stack.
    pub(super) kernel_stack_top: AtomicU64,
    /// What to load into CR3 on the way in; 0 if the address space stays.
    pub(super) kernel_cr3: AtomicU64,
    /// What to load into CR3 on the way out; 0 if the address space stays.
    pub(super) user_cr3: AtomicU64,
    /// What that has more when it has been loaded once: that nothing is dropped, where there are PCIDs.
    pub(super) user_cr3_kept: AtomicU64,
    /// The CPU's probe page, in the direct map or the image.
    probe_page: AtomicU64,
    /// The CPU's number.
    id: AtomicU32,
    /// The process whose address space it has; see [`current`].
    current: AtomicU32,
}

impl CpuLocal {
    pub const fn new() -> CpuLocal {
        CpuLocal {
            user_rsp: AtomicU64::new(0),
            entry_stack_top: AtomicU64::new(0),
            kernel_stack_top: AtomicU64::new(0),
            kernel_cr3: AtomicU64::new(0),
            user_cr3: AtomicU64::new(0),
            user_cr3_kept: AtomicU64::new(0),
            probe_page: AtomicU64::new(0),
            id: AtomicU32::new(0),
            current: AtomicU32::new(0),
        }
    }

    /// Sets the ends of the two stacks.
    pub fn set_stacks(&self, entry: u64, kernel: u64) {
        self.entry_stack_top.store(entry, Relaxed);
        self.kernel_stack_top.store(kernel, Relaxed);
    }

    /// Sets what tells this CPU from others: its number, and the address of its probe page.
    pub fn set_identity(&self, id: u32, probe_page: u64) {
        self.id.store(id, Relaxed);
        self.probe_page.store(probe_page, Relaxed);
    }

    /// From now on the kernel runs on a root of its own: CR3 values for the way in and the way out, and what the
    /// latter has more when it has been loaded once.
    pub fn set_roots(&self, (kernel, user, kept): (u64, u64, u64)) {
        self.kernel_cr3.store(kernel, Relaxed);
        self.user_cr3.store(user, Relaxed);
        self.user_cr3_kept.store(kept, Relaxed);
    }

    /// The value of CR3 for the way out; 0 if the address space stays.
    pub fn ring_3_root(&self) -> u64 {
        self.user_cr3.load(Relaxed)
    }

    /// Changes what [`CpuLocal::ring_3_root`] says.
    pub fn set_ring_3_root(&self, value: u64) {
        self.user_cr3.store(value, Relaxed);
    }

    /// The end of the CPU's kernel stack.
    pub fn kernel_stack_top(&self) -> u64 {
        self.kernel_stack_top.load(Relaxed)
    }

    /// The process that it runs, asked by another CPU.
    pub fn current(&self) -> u32 {
        self.current.load(Relaxed)
    }
}

/// The number of the CPU that asks, as an index.
#[inline]
pub fn id() -> usize {
    number() as usize
}

/// The number of the CPU that asks.
#[inline]
pub fn number() -> u32 {
    let id: u32;
    // SAFETY: reads the field of the CPU's own data. It never changes, and kernel code stays on its CPU.
    unsafe {
        asm!(
            "mov {id:e}, gs:[{at}]",
            id = out(reg) id,
            at = const offset_of!(CpuLocal, id),
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    id
}

/// The process whose address space the CPU that asks has loaded, or gives ring 3.
#[inline]
pub fn current() -> u32 {
    let current: u32;
    // SAFETY: reads the field of the CPU's own data.
    unsafe {
        asm!(
            "mov {current:e}, gs:[{at}]",
            current = out(reg) current,
            at = const offset_of!(CpuLocal, current),
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    current
}

/// Changes what [`current`] says on this CPU.
#[inline]
pub fn set_current(pid: u32) {
    // SAFETY: writes the field of the CPU's own data, which is an atomic.
    unsafe {
        asm!(
            "mov gs:[{at}], {pid:e}",
            pid = in(reg) pid,
            at = const offset_of!(CpuLocal, current),
            options(nostack, preserves_flags)
        );
    }
}

/// The address of this CPU's probe page.
pub fn probe_page() -> u64 {
    let address: u64;
    // SAFETY: reads the field of the CPU's own data.
    unsafe {
        asm!(
            "mov {address}, gs:[{at}]",
            address = out(reg) address,
            at = const offset_of!(CpuLocal, probe_page),
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    address
}
