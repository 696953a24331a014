//! The CPUs beside the first: how they are started, how they sleep and are woken, and how they are made to drop
//! translations ([`shootdown`]).
//!
//! **Locks.** There is one, the kernel's ([`crate::kernel::BigLock`]): all of [`Kernel`], page tables, counters,
//! console and doorbell are its holder's. Ring 3 runs on all CPUs at once, and so does what is outside of
//! it:
//!
//! - the entry text, which touches the CPU's own data only;
//! - waiting for the lock: interrupts are off, so a CPU that was asked to drop translations before it was seen to
//!   wait looks itself ([`shootdown::serve`]), or the holder would wait for it for ever;
//! - watching ([`crate::watch`]), which looks for such requests, too;
//! - answering another CPU's interrupt, which the lock's holder may be waiting for;
//! - the timer's interrupt in ring 3, if nobody else wants the CPU;
//! - sleeping, with interrupts on.
//!
//! Of those who wait for the lock one looks for it, and the others sleep; one that has slept often comes before all.
//! Whoever holds the lock may wait for another CPU's answer, and for nothing else; an answer waits for nothing.
//! So there is no circle. Nobody takes the lock twice: the same CPU would find itself as its holder, and panic.
//!
//! Interrupts are taken in ring 3 and in `sti; hlt; cli` alone, never between a short `sti` and `cli`: a KVM that
//! emulates kernel code in batches takes none there.

pub mod shootdown;

use crate::arch::cpu::{self, Features};
use crate::arch::entry::{TrapFrame, WAKE_VECTOR, leave_with, syscall_entry};
use crate::arch::entry_area::{Place, data_of};
use crate::arch::{apic, descriptors};
use crate::kernel::Kernel;
use crate::mm::boot_value::BootValue;
use crate::mm::{Depth, PhysAddr, Root, VirtAddr, depth, direct_map};
use crate::process::{FloatState, scheduler};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use heirloom_abi::options::MAX_CPUS;

core::arch::global_asm!(include_str!("../boot/ap.s"), options(att_syntax));

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static ap_stack_top: AtomicU64;
    static ap_cr3: AtomicU64;
    static ap_cr4: AtomicU64;
    static ap_number: AtomicU64;
    static boot_pgd: u8;
    static boot_pml5: u8;
}

/// The page that a CPU begins in: in the low memory that the allocator leaves alone, far above what a loader puts
/// there.
const TRAMPOLINE: PhysAddr = PhysAddr::new(0x8_0000);
/// Cycles after which a CPU that waits takes a start-up interrupt, and after which it gets another one.
const INIT_CYCLES: u64 = 500_000;
const AGAIN_CYCLES: u64 = 20_000_000;
/// Cycles after which a CPU has not come: some seconds on any machine.
const NEVER_CYCLES: u64 = 10_000_000_000;

/// The kernel's root and the features that it uses, for CPUs that come up.
static HANDED_OVER: BootValue<Option<(Root, Features)>> = BootValue::new(None);
/// How many CPUs run.
static COUNT: AtomicUsize = AtomicUsize::new(1);
/// The CPU that has just come up.
static CAME: AtomicU32 = AtomicU32::new(0);
/// The CPUs that sleep, a bit for each. Only the holder of the kernel's lock changes it.
static SLEEPERS: AtomicU32 = AtomicU32::new(0);
/// Which CPUs have work, or shall look for some.
static WOKEN: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// How many CPUs run.
#[inline]
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// The CPUs that sleep, a bit for each.
#[inline]
fn sleepers() -> u32 {
    SLEEPERS.load(Ordering::Relaxed)
}

impl Kernel {
    /// Starts all CPUs but the first, one after the other. They sleep until there is work.
    ///
    /// # Panics
    /// If one does not come.
    pub fn start_other_cpus(&mut self, cpus: usize) {
        if cpus == 1 {
            return;
        }
        self.place_trampoline();
        for number in 1..cpus {
            // Before it runs: whoever changes a mapping from now on must reckon with it.
            COUNT.store(number + 1, Ordering::SeqCst);
            SLEEPERS.fetch_or(1 << number, Ordering::Relaxed);
            start(number, cpus);
        }
    }

    /// Copies the trampoline to its page, and says what is the same for all CPUs.
    fn place_trampoline(&self) {
        let page = TRAMPOLINE.pfn().get();
        assert!(
            self.ram
                .iter()
                .any(|range| (range.start..range.end).contains(&page)),
            "there is no RAM at {:#x}, where other CPUs begin",
            TRAMPOLINE.get()
        );
        let (first, end) = (&raw const ap_trampoline, &raw const ap_trampoline_end);
        let (root, cr4) = match depth() {
            Depth::Four => (&raw const boot_pgd, 0xa0),
            Depth::Five => (&raw const boot_pml5, 0x10a0),
        };
        let root = direct_map::physical_in_image(VirtAddr::new(root as u64));
        let to = direct_map::address_of(TRAMPOLINE).get() as *mut u8;
        // SAFETY: the trampoline is part of the image, less than a page, and the page is low memory, which is
        // nobody's. The words are read by CPUs that have not been started.
        unsafe {
            to.copy_from_nonoverlapping(first, end as usize - first as usize);
            ap_cr3.store(root.get(), Ordering::Relaxed);
            ap_cr4.store(cr4, Ordering::Relaxed);
            HANDED_OVER.set(Some((self.space.root(), self.features)));
        }
    }
}

/// Puts this CPU to sleep, in the books; it holds the kernel's lock.
///
/// # Panics
/// If it is the last one that was awake: all processes wait for each other, and nothing from outside wakes any.
pub fn fall_asleep() {
    let others = SLEEPERS.fetch_or(1 << cpu::id(), Ordering::Relaxed);
    assert!(
        others.count_ones() as usize + 1 != count(),
        "deadlock: every process waits, and none is left to wake it"
    );
}

/// There is one more process ready: a CPU that sleeps shall take it. For the holder of the kernel's lock.
#[inline]
pub fn wake_one() {
    let sleepers = sleepers();
    if sleepers != 0 {
        wake(sleepers.trailing_zeros() as usize);
    }
}

#[cold]
fn wake(number: usize) {
    SLEEPERS.fetch_and(!(1 << number), Ordering::Relaxed);
    WOKEN[number].store(true, Ordering::Release);
    apic::interrupt(number, WAKE_VECTOR);
}

/// Sleeps until this CPU is woken, outside of the lock.
pub fn sleep() {
    let woken = &WOKEN[cpu::id()];
    while !woken.swap(false, Ordering::Acquire) {
        cpu::sleep();
    }
}

/// Has CPU `number` come up.
fn start(number: usize, cpus: usize) {
    let stack = data_of(number).local().kernel_stack_top();
    // SAFETY: nobody else reads them but the CPU that is started next.
    unsafe {
        ap_stack_top.store(stack, Ordering::Relaxed);
        ap_number.store(number as u64, Ordering::SeqCst);
    }
    let page = u8::try_from(TRAMPOLINE.pfn().get()).expect("below 1 MiB");
    let came = || CAME.load(Ordering::Acquire) as usize == number;
    apic::initialize(number);
    wait_for(INIT_CYCLES, came);
    let begun = cpu::cycles();
    while !came() {
        assert!(
            cpu::cycles() - begun < NEVER_CYCLES,
            "CPU {number} of {cpus} does not start: it takes no notice of INIT and start-up interrupts"
        );
        apic::start_up(number, page);
        wait_for(AGAIN_CYCLES, came);
    }
}

/// Waits so many cycles, or until it has come.
fn wait_for(cycles: u64, came: impl Fn() -> bool) {
    let begun = cpu::cycles();
    while !came() && cpu::cycles() - begun < cycles {
        core::hint::spin_loop();
    }
}

/// Another CPU's Rust entry, on its own stack and the boot's tables, in the upper half.
///
/// # Safety
/// 1. Called once on CPU `number`, by the assembly, when the first CPU has set all up.
#[unsafe(no_mangle)]
unsafe extern "C" fn ap_main(number: u32) -> ! {
    let (root, features) = HANDED_OVER.get().expect("the first CPU starts this one");
    // SAFETY: the kernel's root maps the image where it runs, this stack, and the CPU entry area.
    unsafe {
        cpu::enter_root(root);
        features.enable();
        descriptors::load(number as usize);
    }
    cpu::enable_syscall(Place::Area.text(syscall_entry), descriptors::KERNEL_CODE);
    // SAFETY: a new state.
    unsafe { scheduler::load_float(&FloatState::new()) };
    apic::start(features);
    CAME.store(number, Ordering::Release);
    let mut frame = TrapFrame::default();
    scheduler::sleep_until_ready(&mut frame);
    leave_with(&frame)
}
