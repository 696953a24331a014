//! GDT, TSS and IDT of the one CPU (Intel SDM vol. 3A, 3.5, 6.14, 7.7).

use super::entry::{TRAP_STUBS, VECTORS};
use core::cell::UnsafeCell;
use x86_64::VirtAddr;
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::tss::TaskStateSegment;

pub const KERNEL_CODE: u16 = 0x08;
pub const USER_DATA: u16 = 0x18 | 3;
pub const USER_CODE: u16 = 0x20 | 3;
const TSS_SELECTOR: u16 = 0x28;

/// Double faults get a stack of their own, because the kernel's may be what is broken.
const DOUBLE_FAULT_VECTOR: usize = 8;
const DOUBLE_FAULT_IST: u64 = 1;
const DOUBLE_FAULT_STACK: usize = 8192;

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    const fn new(handler: u64, stack: u64) -> Gate {
        // Present, DPL 0, 64-bit interrupt gate: interrupts are off inside.
        const ATTRIBUTES: u64 = 0x8e00 << 32;
        Gate {
            low: handler & 0xffff
                | (KERNEL_CODE as u64) << 16
                | stack << 32
                | ATTRIBUTES
                | (handler >> 16 & 0xffff) << 48,
            high: handler >> 32,
        }
    }
}

#[repr(C, align(16))]
struct Tables {
    gdt: [u64; 7],
    tss: TaskStateSegment,
    idt: [Gate; VECTORS],
    double_fault_stack: [u8; DOUBLE_FAULT_STACK],
}

struct Shared(UnsafeCell<Tables>);

// SAFETY: written once by `load`, before there is a second CPU or an interrupt.
unsafe impl Sync for Shared {}

static TABLES: Shared = Shared(UnsafeCell::new(Tables {
    gdt: [
        0,
        0x00af_9b00_0000_ffff, // kernel code, 64 bit
        0x00cf_9300_0000_ffff, // kernel data
        0x00cf_f300_0000_ffff, // user data
        0x00af_fb00_0000_ffff, // user code, 64 bit
        0,
        0,
    ],
    tss: TaskStateSegment::new(),
    idt: [Gate { low: 0, high: 0 }; VECTORS],
    double_fault_stack: [0; DOUBLE_FAULT_STACK],
}));

/// Fills in and loads the tables; traps from ring 3 will use the stack that ends at `stack_top`.
///
/// # Safety
/// 1. Called once, at boot, with interrupts off.
/// 2. `stack_top` is the end of a stack that nothing uses when ring 3 runs.
pub unsafe fn load(stack_top: u64) {
    // SAFETY: obligation 1 makes this the only reference.
    let tables = unsafe { &mut *TABLES.0.get() };
    tables.tss.privilege_stack_table[0] = VirtAddr::new_truncate(stack_top);
    let double_fault_top = &raw const tables.double_fault_stack as u64 + DOUBLE_FAULT_STACK as u64;
    tables.tss.interrupt_stack_table[0] = VirtAddr::new_truncate(double_fault_top);

    for (vector, gate) in tables.idt.iter_mut().enumerate() {
        let stack = if vector == DOUBLE_FAULT_VECTOR {
            DOUBLE_FAULT_IST
        } else {
            0
        };
        *gate = Gate::new(TRAP_STUBS[vector] as *const () as u64, stack);
    }

    let tss = &raw const tables.tss as u64;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    tables.gdt[5] = limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    tables.gdt[6] = tss >> 32;

    let pointer = |base: u64, bytes: usize| DescriptorTablePointer {
        base: VirtAddr::new_truncate(base),
        limit: u16::try_from(bytes - 1).unwrap_or(u16::MAX),
    };
    // SAFETY: the tables are static, complete, and have the segments that are in use in their old
    // places.
    unsafe {
        lgdt(&pointer(
            &raw const tables.gdt as u64,
            size_of_val(&tables.gdt),
        ));
        lidt(&pointer(
            &raw const tables.idt as u64,
            size_of_val(&tables.idt),
        ));
        load_tss(SegmentSelector(TSS_SELECTOR));
    }
}
