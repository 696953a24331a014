//! The CPU entry area: all that the CPU needs to get from ring 3 into the kernel, mapped in every
//! address space, whatever else of the kernel is ("in X86, a small part of the kernel can not be
//! isolated as HW does not perform MM context switch", the lecture).
//!
//! ```text
//! 0xfffffe0000000000 ┬─ data: CpuLocal, GDT, TSS     rw
//!               1000 ├─ IDT                          rw
//!               2000 ├─ (guard)
//!               3000 ├─ entry stack                  rw
//!               4000 ├─ (guard)
//!               5000 ├─ double-fault stack           rw
//!               6000 ├─ (guard)
//!               7000 ├─ entry text                   rx
//!              10000 ├─ the second CPU's data, its stacks at the same distances
//!              20000 ├─ the third CPU's, and so on; IDT and text are the same for all
//! ```
//!
//! The memory of the first CPU's part is the kernel image's own: each piece is a page or more of it, seen at
//! a second address. The boot uses the first address until its tables stand. That of the others' parts is
//! taken when the tables are built.

use super::descriptors::{Data, Idt};
use super::entry::{entry_text, restore};
use crate::mm::{Entry, VirtAddr, protection};
use core::cell::UnsafeCell;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::CPU_ENTRY_AREA;

/// A page of stack.
#[repr(C, align(4096))]
pub struct StackPage(UnsafeCell<[u8; 4096]>);

// SAFETY: only ever used as the stack of the first CPU.
unsafe impl Sync for StackPage {}

impl StackPage {
    const fn empty() -> StackPage {
        StackPage(UnsafeCell::new([0; 4096]))
    }
}

/// The area's parts, in the kernel image.
static FIRST_DATA: Data = Data::empty();
pub static IDT: Idt = Idt::empty();
static FIRST_ENTRY_STACK: StackPage = StackPage::empty();
static FIRST_DOUBLE_FAULT_STACK: StackPage = StackPage::empty();

const IDT_AT: u64 = CPU_ENTRY_AREA + 0x1000;
const TEXT_AT: u64 = CPU_ENTRY_AREA + 0x7000;
/// From one CPU's part to the next.
const PART: u64 = 0x1_0000;
/// Where in a CPU's part its pages are.
const ENTRY_STACK: u64 = 0x3000;
const DOUBLE_FAULT_STACK: u64 = 0x5000;

/// Where CPU `cpu`'s part begins, with its data.
const fn part(cpu: usize) -> u64 {
    CPU_ENTRY_AREA + cpu as u64 * PART
}

/// Where the parts are used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the kernel image: by the first CPU, before the kernel's own tables stand.
    Image,
    /// In the CPU entry area.
    Area,
}

impl Place {
    /// CPU `cpu`'s data.
    pub fn data(self, cpu: usize) -> u64 {
        self.choose(&raw const FIRST_DATA as u64, part(cpu))
    }

    pub fn idt(self) -> u64 {
        self.choose(&raw const IDT as u64, IDT_AT)
    }

    /// The end of the stack that the CPU switches to when it leaves ring 3.
    pub fn entry_stack_top(self, cpu: usize) -> u64 {
        self.choose(&raw const FIRST_ENTRY_STACK as u64, part(cpu) + ENTRY_STACK) + PAGE_SIZE
    }

    pub fn double_fault_stack_top(self, cpu: usize) -> u64 {
        let in_area = part(cpu) + DOUBLE_FAULT_STACK;
        self.choose(&raw const FIRST_DOUBLE_FAULT_STACK as u64, in_area) + PAGE_SIZE
    }

    /// The address of a piece of entry text.
    pub fn text(self, function: extern "C" fn()) -> u64 {
        let in_image = function as *const () as u64;
        self.choose(in_image, TEXT_AT + (in_image - entry_text().0.get()))
    }

    fn choose(self, image: u64, area: u64) -> u64 {
        match self {
            Place::Image => image,
            Place::Area => area,
        }
    }
}

/// The first CPU's data.
pub fn first_data() -> &'static Data {
    &FIRST_DATA
}

/// The data of CPU `cpu`, which has been started.
pub fn data_of(cpu: usize) -> &'static Data {
    // SAFETY: every started CPU has its data there, mapped in every address space; all that changes in it
    // while others may look is atomic.
    unsafe { &*(part(cpu) as *const Data) }
}

/// The address of [`restore`] that is mapped in every address space.
pub fn restore_in_area() -> u64 {
    Place::Area.text(restore)
}

/// Each part of the first CPU: its address in the area, its pages in the image, and its permissions.
pub fn parts() -> [(VirtAddr, VirtAddr, u64, Entry); 5] {
    let (text, text_end) = entry_text();
    let page = |symbol: u64, at: u64| {
        (
            VirtAddr::new(at),
            VirtAddr::new(symbol),
            PAGE_SIZE,
            protection::KERNEL_DATA,
        )
    };
    let first = part(0);
    [
        page(&raw const FIRST_DATA as u64, first),
        page(&raw const IDT as u64, IDT_AT),
        page(&raw const FIRST_ENTRY_STACK as u64, first + ENTRY_STACK),
        page(
            &raw const FIRST_DOUBLE_FAULT_STACK as u64,
            first + DOUBLE_FAULT_STACK,
        ),
        (
            VirtAddr::new(TEXT_AT),
            text,
            text_end.get() - text.get(),
            protection::KERNEL_TEXT,
        ),
    ]
}

/// Where the three pages of another CPU's part are mapped: its data and its two stacks.
pub fn pages_of(cpu: usize) -> [VirtAddr; 3] {
    [0, ENTRY_STACK, DOUBLE_FAULT_STACK].map(|at| VirtAddr::new(part(cpu) + at))
}
