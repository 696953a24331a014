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
//! ```
//!
//! The memory is the kernel image's own: each part is a page or more of it, seen at a second
//! address. The boot uses the first address until its tables stand.

use super::descriptors::{Data, Idt};
use super::entry::{entry_text, restore};
use crate::mm::{Entry, VirtAddr, protection};
use core::cell::UnsafeCell;
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::CPU_ENTRY_AREA;

/// A page of stack.
#[repr(C, align(4096))]
pub struct StackPage(UnsafeCell<[u8; 4096]>);

// SAFETY: only ever used as the stack of the one CPU.
unsafe impl Sync for StackPage {}

impl StackPage {
    const fn empty() -> StackPage {
        StackPage(UnsafeCell::new([0; 4096]))
    }
}

/// The area's parts, in the kernel image.
pub static DATA: Data = Data::empty();
pub static IDT: Idt = Idt::empty();
static ENTRY_STACK: StackPage = StackPage::empty();
static DOUBLE_FAULT_STACK: StackPage = StackPage::empty();

const DATA_AT: u64 = CPU_ENTRY_AREA;
const IDT_AT: u64 = DATA_AT + 0x1000;
const ENTRY_STACK_AT: u64 = DATA_AT + 0x3000;
const DOUBLE_FAULT_STACK_AT: u64 = DATA_AT + 0x5000;
const TEXT_AT: u64 = DATA_AT + 0x7000;

/// Where the parts are used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the kernel image: before the kernel's own tables stand.
    Image,
    /// In the CPU entry area.
    Area,
}

impl Place {
    pub fn data(self) -> u64 {
        self.choose(&raw const DATA as u64, DATA_AT)
    }

    pub fn idt(self) -> u64 {
        self.choose(&raw const IDT as u64, IDT_AT)
    }

    /// The end of the stack that the CPU switches to when it leaves ring 3.
    pub fn entry_stack_top(self) -> u64 {
        self.choose(&raw const ENTRY_STACK as u64, ENTRY_STACK_AT) + PAGE_SIZE
    }

    pub fn double_fault_stack_top(self) -> u64 {
        self.choose(&raw const DOUBLE_FAULT_STACK as u64, DOUBLE_FAULT_STACK_AT) + PAGE_SIZE
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

/// The address of [`restore`] that is mapped in every address space.
pub fn restore_in_area() -> u64 {
    Place::Area.text(restore)
}

/// Each part: its address in the area, its pages in the image, and its permissions.
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
    [
        page(&raw const DATA as u64, DATA_AT),
        page(&raw const IDT as u64, IDT_AT),
        page(&raw const ENTRY_STACK as u64, ENTRY_STACK_AT),
        page(&raw const DOUBLE_FAULT_STACK as u64, DOUBLE_FAULT_STACK_AT),
        (
            VirtAddr::new(TEXT_AT),
            text,
            text_end.get() - text.get(),
            protection::KERNEL_TEXT,
        ),
    ]
}
