//! The direct map: every frame of RAM has a kernel virtual address ("every PFN has a direct mapped
//! kernel virtual address", the lecture).

use super::boot_value::BootValue;
use super::{Frame, PhysAddr, VirtAddr};
use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::{KERNEL_IMAGE_OFFSET, Region};
use heirloom_paging::Depth;

/// Where it begins: a value of its own, because every access to a page table needs it.
static BASE: BootValue<u64> = BootValue::new(Region::DirectMap.start(Depth::Four));

/// Takes over how many levels the page tables have.
///
/// # Safety
/// As for [`BootValue::set`].
pub unsafe fn set_base(depth: Depth) {
    // SAFETY: the caller's.
    unsafe { BASE.set(Region::DirectMap.start(depth)) };
}

/// Where the direct map shows physical address `physical`.
#[inline]
pub fn address_of(physical: PhysAddr) -> VirtAddr {
    VirtAddr::new(BASE.get() + physical.get())
}

/// The physical address of something in the kernel image.
pub fn physical_in_image(address: VirtAddr) -> PhysAddr {
    PhysAddr::new(address.get() - KERNEL_IMAGE_OFFSET)
}

/// The physical address of something in the kernel image or the direct map.
pub fn physical_of(address: VirtAddr) -> PhysAddr {
    if address.get() >= KERNEL_IMAGE_OFFSET {
        physical_in_image(address)
    } else {
        PhysAddr::new(address.get() - BASE.get())
    }
}

/// A frame's bytes in the direct map, as u64 words.
#[inline]
pub fn words(frame: Frame) -> *mut u64 {
    address_of(frame.start()).get() as *mut u64
}

/// Fills a frame with zeros.
///
/// # Safety
/// 1. `frame` is RAM that nobody refers to.
pub unsafe fn zero(frame: Frame) {
    // SAFETY: the frame is RAM, hence in the direct map, and by obligation 1 unused. `rep stosq` is
    // the shortest way where kernel code is emulated.
    unsafe {
        core::arch::asm!(
            "rep stosq",
            inout("rcx") PAGE_SIZE / 8 => _,
            inout("rdi") words(frame) => _,
            in("rax") 0,
            options(nostack, preserves_flags)
        );
    }
}

/// Copies a whole frame.
///
/// # Safety
/// 1. Both are RAM; nobody refers to `to`, nobody writes to `from`.
pub unsafe fn copy(from: Frame, to: Frame) {
    // SAFETY: both frames are in the direct map, and by obligation 1 the copy disturbs nobody.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            inout("rcx") PAGE_SIZE / 8 => _,
            inout("rsi") words(from) => _,
            inout("rdi") words(to) => _,
            options(nostack, preserves_flags)
        );
    }
}

/// `length` bytes of physical memory that never change after boot.
///
/// # Safety
/// 1. The range is RAM in the direct map, and nobody writes to it while the kernel runs.
pub unsafe fn bytes(start: PhysAddr, length: usize) -> &'static [u8] {
    // SAFETY: the caller's obligation 1.
    unsafe { core::slice::from_raw_parts(address_of(start).get() as *const u8, length) }
}
