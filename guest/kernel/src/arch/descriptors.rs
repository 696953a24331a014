//! GDT and TSS of each CPU, and the IDT of all (Intel SDM vol. 3A, 3.5, 6.14, 7.7).

use super::entry::{TRAP_STUBS, VECTORS};
use super::entry_area::{self, IDT, Place};
use super::local::CpuLocal;
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

/// The page of a CPU's own data.
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

// SAFETY: the tables are only written by `load`, by the CPU whose they are, before it takes an interrupt.
unsafe impl Sync for Data {}

// SAFETY: it is only written by `load_first`, before there is a second CPU or an interrupt.
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

    /// What GS points to.
    pub fn local(&self) -> &CpuLocal {
        &self.local
    }
}

impl Idt {
    /// A page that [`load_first`] will fill in.
    pub const fn empty() -> Idt {
        Idt(UnsafeCell::new([Gate { low: 0, high: 0 }; VECTORS]))
    }
}

/// Fills in the IDT, and all tables of the first CPU, as they are seen at `place`, and loads them.
///
/// # Safety
/// 1. Called at boot, with interrupts off, and `place` is mapped.
pub unsafe fn load_first(place: Place) {
    // SAFETY: obligation 1 makes this the only reference.
    let idt = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in idt.iter_mut().enumerate() {
        let stack = if vector == DOUBLE_FAULT_VECTOR {
            DOUBLE_FAULT_IST
        } else {
            0
        };
        *gate = Gate::new(place.text(TRAP_STUBS[vector]), stack);
    }
    // SAFETY: obligation 1.
    unsafe { load_at(place, 0, entry_area::first_data()) };
}

/// Fills in and loads the tables of CPU `cpu`, another than the first.
///
/// # Safety
/// 1. Called on that CPU, with interrupts off, when [`load_first`] has been with [`Place::Area`], and its
///    pages are mapped.
pub unsafe fn load(cpu: usize) {
    // SAFETY: obligation 1.
    unsafe { load_at(Place::Area, cpu, entry_area::data_of(cpu)) };
}

/// # Safety
/// 1. Called on CPU `cpu`, with interrupts off; `data` is its data, `place` is mapped, and the IDT is filled in.
unsafe fn load_at(place: Place, cpu: usize, data: &Data) {
    // SAFETY: obligation 1 makes this the only reference.
    let tables = unsafe { &mut *data.tables.get() };
    let stack = |top| VirtAddr::new_truncate(top);
    tables.tss.privilege_stack_table[0] = stack(place.entry_stack_top(cpu));
    tables.tss.interrupt_stack_table[0] = stack(place.double_fault_stack_top(cpu));

    let at = place.data(cpu) + offset_of!(Data, tables) as u64;
    let tss = at + offset_of!(Tables, tss) as u64;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    tables.gdt[5] = limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    tables.gdt[6] = tss >> 32;

    let pointer = |base: u64, bytes: usize| DescriptorTablePointer {
        base: VirtAddr::new_truncate(base),
        limit: u16::try_from(bytes - 1).unwrap_or(u16::MAX),
    };
    // SAFETY: the tables are complete, stay, are mapped by obligation 1, and have the segments that are in
    // use in their old places.
    unsafe {
        lgdt(&pointer(
            at + offset_of!(Tables, gdt) as u64,
            size_of_val(&tables.gdt),
        ));
        lidt(&pointer(place.idt(), VECTORS * size_of::<Gate>()));
        load_tss(SegmentSelector(TSS_SELECTOR));
    }
    GsBase::write(VirtAddr::new_truncate(
        place.data(cpu) + offset_of!(Data, local) as u64,
    ));
}
