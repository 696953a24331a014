//! The local APIC of each CPU: the timer, which takes the CPU from a process when its time is up, and the
//! interrupts that CPUs send each other (Intel SDM vol. 3A, 11.5 and 11.6).

use super::cpu::Features;
use super::entry::{SPURIOUS_VECTOR, TIMER_VECTOR};
use crate::mm::VirtAddr;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use x86_64::instructions::port::PortWriteOnly;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

/// Where the registers are mapped when they are memory: Linux's fixmap for the same.
pub const REGISTERS: VirtAddr = VirtAddr::new(0xffff_ffff_ff5f_d000);

const END_OF_INTERRUPT: u32 = 0xb;
const SPURIOUS: u32 = 0xf;
/// The interrupt command register: in memory two words of 32 bits, as an MSR one of 64.
const COMMAND: u32 = 0x30;
const COMMAND_DESTINATION: u32 = 0x31;
const TIMER: u32 = 0x32;
const TIMER_INITIAL_COUNT: u32 = 0x38;
const TIMER_DIVIDE: u32 = 0x3e;
const X2APIC_MSRS: u32 = 0x800;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const PERIODIC: u32 = 1 << 17;
const DIVIDE_BY_16: u32 = 3;
/// Bits of a command: INIT, start-up, and that a line is asserted; in memory, that it is not yet sent.
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const SENDING: u32 = 1 << 12;
/// 10 ms at the 1 GHz that KVM and QEMU give the timer.
const TIME_SLICE: u32 = 1_000_000_000 / 16 / 100;

static X2APIC: AtomicBool = AtomicBool::new(false);

/// The physical page of the registers when they are memory.
pub fn memory_mapped_at() -> u64 {
    ApicBase::read_raw().0.start_address().as_u64()
}

/// Silences the two old interrupt controllers.
pub fn silence_old_controllers() {
    for port in [0x21, 0xa1] {
        // SAFETY: masks every line of a controller that this kernel does not use.
        unsafe { PortWriteOnly::<u8>::new(port).write(0xff) };
    }
}

/// Starts this CPU's timer. Where there is no x2APIC, [`REGISTERS`] must be mapped by then.
pub fn start(features: Features) {
    if features.x2apic {
        let (frame, flags) = ApicBase::read();
        let flags = flags | ApicBaseFlags::LAPIC_ENABLE | ApicBaseFlags::X2APIC_ENABLE;
        // SAFETY: CPUID offers the x2APIC; the address stays.
        unsafe { ApicBase::write(frame, flags) };
        X2APIC.store(true, Relaxed);
    }
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(TIMER_DIVIDE, DIVIDE_BY_16);
    write(TIMER, PERIODIC | u32::from(TIMER_VECTOR));
    write(TIMER_INITIAL_COUNT, TIME_SLICE);
}

/// Tells the APIC that its interrupt was handled.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Interrupts CPU `cpu` with `vector`.
pub fn interrupt(cpu: usize, vector: u8) {
    command(cpu, ASSERT | u32::from(vector));
}

/// Puts CPU `cpu`, which has not been started, into the state in which it waits for [`start_up`].
pub fn initialize(cpu: usize) {
    command(cpu, INIT | ASSERT);
}

/// Starts a CPU that waits, in real mode at the beginning of `page`, the number of a page below 1 MiB. One
/// that does not wait takes no notice.
pub fn start_up(cpu: usize, page: u8) {
    command(cpu, START_UP | ASSERT | u32::from(page));
}

/// Numbers of CPUs are their APIC ids: there is one package, and its CPUs have no threads.
fn command(cpu: usize, command: u32) {
    let destination = u32::try_from(cpu).expect("there are few CPUs");
    if X2APIC.load(Relaxed) {
        let command = u64::from(destination) << 32 | u64::from(command);
        // SAFETY: the register's number; what other CPUs do with it is theirs to survive.
        unsafe { Msr::new(X2APIC_MSRS + COMMAND).write(command) };
        return;
    }
    write(COMMAND_DESTINATION, destination << 24);
    write(COMMAND, command);
    // SAFETY: as in `write`; reading changes nothing.
    while unsafe { register(COMMAND).read_volatile() } & SENDING != 0 {
        core::hint::spin_loop();
    }
}

/// Register numbers are those of the x2APIC; the memory-mapped ones lie 16 bytes apart.
fn write(register: u32, value: u32) {
    if X2APIC.load(Relaxed) {
        // SAFETY: an APIC register by its number.
        unsafe { Msr::new(X2APIC_MSRS + register).write(value.into()) };
    } else {
        // SAFETY: the boot mapped the registers there, uncached.
        unsafe { self::register(register).write_volatile(value) };
    }
}

/// Where a register is when they are memory.
fn register(number: u32) -> *mut u32 {
    (REGISTERS.get() + u64::from(number) * 16) as *mut u32
}
