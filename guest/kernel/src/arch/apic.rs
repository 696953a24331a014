//! The local APIC's timer, which takes the CPU from a process when its time is up.

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
const TIMER: u32 = 0x32;
const TIMER_INITIAL_COUNT: u32 = 0x38;
const TIMER_DIVIDE: u32 = 0x3e;
const X2APIC_MSRS: u32 = 0x800;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const PERIODIC: u32 = 1 << 17;
const DIVIDE_BY_16: u32 = 3;
/// 10 ms at the 1 GHz that KVM and QEMU give the timer.
const TIME_SLICE: u32 = 1_000_000_000 / 16 / 100;

static X2APIC: AtomicBool = AtomicBool::new(false);

/// The physical page of the registers when they are memory.
pub fn memory_mapped_at() -> u64 {
    ApicBase::read_raw().0.start_address().as_u64()
}

/// Starts the timer. Where there is no x2APIC, [`REGISTERS`] must be mapped by then.
pub fn start(features: Features) {
    // The two old interrupt controllers stay quiet.
    for port in [0x21, 0xa1] {
        // SAFETY: masks every line of a controller that this kernel does not use.
        unsafe { PortWriteOnly::<u8>::new(port).write(0xff) };
    }
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

/// Register numbers are those of the x2APIC; the memory-mapped ones lie 16 bytes apart.
fn write(register: u32, value: u32) {
    if X2APIC.load(Relaxed) {
        // SAFETY: an APIC register by its number.
        unsafe { Msr::new(X2APIC_MSRS + register).write(value.into()) };
    } else {
        let address = REGISTERS.get() + u64::from(register) * 16;
        // SAFETY: the boot mapped the registers there, uncached.
        unsafe { (address as *mut u32).write_volatile(value) };
    }
}
