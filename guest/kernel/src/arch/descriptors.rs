//! GDT, TSS and IDT of the one CPU (Intel SDM vol. 3A, 3.5, 6.14, 7.7).

use super::entry::{CpuLocal, TRAP_STUBS, VECTORS};
use super::entry_area::{DATA, IDT, Place};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use x86_64::VirtAddr;
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::model_specific::GsBase;
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

/// The page of the CPU's own data.
#[repr(C, align(4096))]
pub struct Data {
    local: CpuLocal,
    tables: UnsafeCell<Tables>,
}

#[repr(C, align(16))]
struct Tables {
    gdt: [u64; 7],
    tss: TaskStateSegment,
}

/// The page of the interrupt descriptor table.
#[repr(C, align(4096))]
pub struct Idt(UnsafeCell<[Gate; VECTORS]>);

// SAFETY: the tables are only written by `load`, at boot, before there is a second CPU or an
// interrupt.
unsafe impl Sync for Data {}

// SAFETY: as for `Data`.
unsafe impl Sync for Idt {}

const _: () = assert!(size_of::<Data>() == 4096 && size_of::<Idt>() == 4096);

impl Data {
    /// A page that [`load`] will fill in.
    pub const fn empty() -> Data {
        Data {
            local: CpuLocal::new(),
            tables: UnsafeCell::new(Tables {
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
            }),
        }
    }

    /// This CPU's own data.
    pub fn local(&self) -> &CpuLocal {
        &self.local
    }
}

impl Idt {
    /// A page that [`load`] will fill in.
    pub const fn empty() -> Idt {
        Idt(UnsafeCell::new([Gate { low: 0, high: 0 }; VECTORS]))
    }
}

/// Fills in and loads the tables, and GS, as they are seen at `place`.
///
/// # Safety
/// 1. Called at boot, with interrupts off, and `place` is mapped.
pub unsafe fn load(place: Place) {
    // SAFETY: obligation 1 makes these the only references.
    let (tables, idt) = unsafe { (&mut *DATA.tables.get(), &mut *IDT.0.get()) };
    tables.tss.privilege_stack_table[0] = VirtAddr::new_truncate(place.entry_stack_top());
    tables.tss.interrupt_stack_table[0] = VirtAddr::new_truncate(place.double_fault_stack_top());
    for (vector, gate) in idt.iter_mut().enumerate() {
        let stack = if vector == DOUBLE_FAULT_VECTOR {
            DOUBLE_FAULT_IST
        } else {
            0
        };
        *gate = Gate::new(place.text(TRAP_STUBS[vector]), stack);
    }

    let at = place.data() + offset_of!(Data, tables) as u64;
    let tss = at + offset_of!(Tables, tss) as u64;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    tables.gdt[5] = limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    tables.gdt[6] = tss >> 32;

    let pointer = |base: u64, bytes: usize| DescriptorTablePointer {
        base: VirtAddr::new_truncate(base),
        limit: u16::try_from(bytes - 1).unwrap_or(u16::MAX),
    };
    // SAFETY: the tables are static, complete, mapped by obligation 1, and have the segments that
    // are in use in their old places.
    unsafe {
        lgdt(&pointer(
            at + offset_of!(Tables, gdt) as u64,
            size_of_val(&tables.gdt),
        ));
        lidt(&pointer(place.idt(), size_of_val(idt)));
        load_tss(SegmentSelector(TSS_SELECTOR));
    }
    GsBase::write(VirtAddr::new_truncate(
        place.data() + offset_of!(Data, local) as u64,
    ));
}
