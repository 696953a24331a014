//! What the CPU offers and how it is set up: control registers, model-specific registers.

pub use super::local::{current, id, number, set_current};

use super::flush_log;
use super::pcid::{self, Pcid};
use crate::counters::{COUNTERS, Counter};
use crate::fault_injection::inject;
use crate::mm::{Frame, PhysAddr, Root, VirtAddr};
use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use heirloom_abi::bugs::Bug;
use heirloom_abi::event::machine;
use heirloom_abi::options::MAX_CPUS;
use heirloom_paging::Depth;
use x86_64::registers::control::{Cr3, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{FsBase, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;

/// What CPUID offers of what this kernel can use.
// Each is a bit of CPUID, and independent of the others.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy)]
pub struct Features {
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub pcid: bool,
    /// Only with PCIDs.
    pub invpcid: bool,
    pub gigabyte_pages: bool,
    pub x2apic: bool,
    /// On since the boot, or not at all.
    pub la57: bool,
    /// The CPU has it, and the command line refused it.
    pub la57_refused: bool,
}

/// CR4.LA57 (Intel SDM vol. 3A, 2.5).
const CR4_LA57: u64 = 1 << 12;

/// Whether SMAP is on, for code that must lift it.
static SMAP: AtomicBool = AtomicBool::new(false);

impl Features {
    /// Nothing beyond what every 64-bit CPU has.
    pub const NONE: Features = Features {
        smep: false,
        smap: false,
        umip: false,
        pcid: false,
        invpcid: false,
        gigabyte_pages: false,
        x2apic: false,
        la57: false,
        la57_refused: false,
    };

    /// Asks CPUID (Intel SDM vol. 2A, CPUID).
    pub fn detect() -> Features {
        let highest = __cpuid(0).eax;
        let basic = __cpuid(1);
        let structured = if highest >= 7 { __cpuid(7) } else { basic };
        let (protection, more) = if highest >= 7 {
            (structured.ebx, structured.ecx)
        } else {
            (0, 0)
        };
        let extended = __cpuid(0x8000_0001);
        Features {
            smep: protection & 1 << 7 != 0,
            smap: protection & 1 << 20 != 0,
            umip: more & 1 << 2 != 0,
            pcid: basic.ecx & 1 << 17 != 0,
            invpcid: protection & 1 << 10 != 0,
            gigabyte_pages: extended.edx & 1 << 26 != 0,
            x2apic: basic.ecx & 1 << 21 != 0,
            la57: depth() == Depth::Five,
            la57_refused: more & 1 << 16 != 0 && depth() == Depth::Four,
        }
    }

    /// Without the features that `names`, separated by commas, lists.
    #[must_use]
    pub fn without(mut self, names: &str) -> Features {
        for name in names.split(',') {
            match name {
                "smep" => self.smep = false,
                "smap" => self.smap = false,
                "umip" => self.umip = false,
                "pcid" => self.pcid = false,
                "invpcid" => self.invpcid = false,
                "1gib-pages" => self.gigabyte_pages = false,
                "x2apic" => self.x2apic = false,
                _ => {}
            }
        }
        self.invpcid &= self.pcid;
        self
    }

    /// As bits of the boot event.
    pub fn machine_bits(self) -> u64 {
        let bit = |on, bit| if on { bit } else { 0 };
        machine::NX
            | bit(self.smep, machine::SMEP)
            | bit(self.smap, machine::SMAP)
            | bit(self.umip, machine::UMIP)
            | bit(self.pcid, machine::PCID)
            | bit(self.invpcid, machine::INVPCID)
            | bit(self.gigabyte_pages, machine::GIGABYTE_PAGES)
            | bit(self.x2apic, machine::X2APIC)
            | bit(self.la57, machine::LA57)
    }

    /// Turns on what there is, on each CPU. Runs after the kernel's own root is loaded: PCIDE needs a CR3 whose
    /// low bits are clear (SDM vol. 3A, 4.10.1).
    pub fn enable(self) {
        let mut flags = Cr4::read();
        flags |= Cr4Flags::PAGE_GLOBAL | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
        flags.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, self.smep);
        flags.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, self.smap);
        flags.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, self.umip);
        flags.set(Cr4Flags::PCID, self.pcid);
        // SAFETY: CPUID offers each of them, and the kernel is written for them: user memory is
        // only touched inside `with_user_access`, user pages are never executed in ring 0.
        unsafe { Cr4::write(flags) };
        SMAP.store(self.smap, Relaxed);
        if self.pcid {
            pcid::enable(self.invpcid);
        }
    }
}

/// How many levels of page tables the CPU walks.
pub fn depth() -> Depth {
    if Cr4::read_raw() & CR4_LA57 != 0 {
        Depth::Five
    } else {
        Depth::Four
    }
}

/// Makes `base`, an address of ring 3's, the base of FS. The kernel itself uses none, and ring 3 cannot change it by itself
/// (CR4.FSGSBASE is off).
pub fn load_fs_base(base: u64) {
    /// What each CPU has.
    static LOADED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
    // Loading it takes long on some virtual machines, and most programs have none.
    if LOADED[id()].swap(base, Relaxed) != base {
        FsBase::write(x86_64::VirtAddr::new_truncate(base));
    }
}

/// Sets up the `syscall` instruction to enter at `entry` with interrupts off.
pub fn enable_syscall(entry: u64, kernel_code: u16) {
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::NESTED_TASK
            | RFlags::IOPL_LOW
            | RFlags::IOPL_HIGH,
    );
    LStar::write(x86_64::VirtAddr::new_truncate(entry));
    // SAFETY: `syscall` loads CS = kernel_code and SS = kernel_code + 8, as the GDT has them. The
    // kernel returns by `iretq`, so the half for `sysret` is not used.
    unsafe { Star::write_raw(0, kernel_code) };
}

/// Loads an address space, whose PCID is `pcid`, and drops of what the CPU remembers of that what may be wrong; where
/// there are no PCIDs, everything that is not global.
///
/// # Safety
/// 1. The kernel half below `root` maps the kernel as it is running.
pub unsafe fn load_root(root: Root, pcid: Pcid) {
    COUNTERS.add(Counter::Cr3Loads);
    // SAFETY: obligation 1.
    unsafe { load_cr3(pcid.load_value(root)) };
}

/// Loads the root that is loaded once more: drops what is not global, of its PCID.
pub fn reload_root() {
    COUNTERS.add(Counter::Cr3Loads);
    let value = cr3();
    pcid::note_load(value);
    // SAFETY: it is what is loaded.
    unsafe { load_cr3(value) };
}

/// Loads the kernel's root on a CPU that has just come up, before it has data of its own.
///
/// # Safety
/// 1. It maps the kernel as it is running.
pub unsafe fn enter_root(root: Root) {
    // SAFETY: obligation 1.
    unsafe { load_cr3(root.frame().start().get()) };
}

/// # Safety
/// 1. The root in `value` maps the kernel as it is running, and what else is in it has a meaning for this CPU.
unsafe fn load_cr3(value: u64) {
    // SAFETY: obligation 1. Not `nomem`: what the compiler wrote to page tables before must be there.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// CR3 as it is; bit 63 is never read as set.
fn cr3() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The PCID that is loaded, where there are any.
pub fn loaded_pcid() -> u16 {
    Cr3::read_pcid().1.value()
}

/// Drops the CPU's translations of one page.
#[inline]
pub fn flush_page(page: VirtAddr) {
    flush_log::page(invalidate(page));
}

/// As [`flush_page`], and nothing is noted. (The crate's own function knows addresses of 48 bits only.)
#[inline]
pub fn invalidate(page: VirtAddr) -> u64 {
    let address = if inject(Bug::FlushCutsAddress) {
        let unused = 64 - crate::mm::Root::level().shift();
        (page.get() << unused).cast_signed() >> unused
    } else {
        page.get().cast_signed()
    };
    // SAFETY: `invlpg` takes any address, mapped or not, and changes no memory. Not `nomem`: what the compiler
    // wrote to page tables before must be there.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
    address.cast_unsigned()
}

/// Drops all translations of the CPU, global ones and those of every PCID (Intel SDM vol. 3A, 4.10.4.1).
pub fn flush_all() {
    if !pcid::drop_everything() {
        let flags = Cr4::read();
        // SAFETY: the same features as before; what changes is that nothing is remembered.
        unsafe {
            Cr4::write(flags - Cr4Flags::PAGE_GLOBAL);
            Cr4::write(flags);
        }
    }
    flush_log::everything();
}

/// The root that the CPU uses.
pub fn loaded_root() -> Frame {
    let address = PhysAddr::new(Cr3::read_raw().0.start_address().as_u64());
    // SAFETY: a root in use is in RAM.
    unsafe { Frame::new(address.pfn()) }
}

/// Runs `access` with user memory accessible to the kernel.
pub fn with_user_access<T>(access: impl FnOnce() -> T) -> T {
    let smap = SMAP.load(Relaxed);
    if smap {
        // SAFETY: sets RFLAGS.AC; exists because CPUID offers SMAP. Not `nomem`: the compiler must not
        // move the access to user memory out of the pair.
        unsafe { asm!("stac", options(nostack)) };
    }
    let result = access();
    if smap {
        // SAFETY: clears RFLAGS.AC; as for `stac`.
        unsafe { asm!("clac", options(nostack)) };
    }
    result
}

/// The time-stamp counter (Intel SDM vol. 3B, 18.17): cycles at a fixed rate.
pub fn cycles() -> u64 {
    // SAFETY: every 64-bit CPU has the counter, and the kernel does not forbid it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The most cycles between two looks at the counter that [`wait`] believes this CPU ran for: about half a millisecond,
/// far more than it takes to look even where the kernel is emulated.
const RUNNING_CYCLES: u64 = 1 << 20;

/// Lets this CPU run for so many cycles; `meanwhile` is called again and again. What passes while the whole guest, or this
/// CPU of it, stands still hardly counts, so that on a busy host other CPUs come as far as on an idle one.
pub fn wait(cycles: u64, meanwhile: impl Fn()) {
    let (mut left, mut last) = (cycles, self::cycles());
    while left > 0 {
        meanwhile();
        core::hint::spin_loop();
        let now = self::cycles();
        left = left.saturating_sub(now.saturating_sub(last).min(RUNNING_CYCLES));
        last = now;
    }
}

/// The address of the last page fault.
pub fn fault_address() -> u64 {
    x86_64::registers::control::Cr2::read_raw()
}

/// Halts until an interrupt has been answered. With interrupts off when it is called, and afterwards again, none
/// that was due before is missed: `sti` takes effect behind `hlt` (Intel SDM vol. 2B, STI).
pub fn sleep() {
    // SAFETY: interrupts are answered on the stack that is in use, and change nothing that is borrowed.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Stops for ever.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing wakes the CPU but the machine's end.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
