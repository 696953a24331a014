//! Kernel virtual memory on behalf of this process: the kernel does the accesses, in kernel mode, in
//! this process's address space.

use crate::{Result, raw};
use heirloom_abi::syscall as number;

/// Allocates `pages` pages of kernel memory; their virtual address.
///
/// # Errors
/// No memory.
pub fn allocate(pages: u64) -> Result<u64> {
    // SAFETY: nothing of this process's memory changes; as for all calls here.
    unsafe { raw::call(number::KERNEL_ALLOC, [pages, 0, 0, 0]) }
}

/// Frees what [`allocate`] gave.
///
/// # Errors
/// No allocation starts there.
pub fn free(address: u64) -> Result<()> {
    // SAFETY: as above.
    unsafe { raw::call(number::KERNEL_FREE, [address, 0, 0, 0]) }.map(|_| ())
}

/// Makes an allocation writable or read-only.
///
/// # Errors
/// No allocation starts there.
pub fn protect(address: u64, writable: bool) -> Result<()> {
    // SAFETY: as above.
    unsafe { raw::call(number::KERNEL_PROTECT, [address, writable.into(), 0, 0]) }.map(|_| ())
}

/// Has the kernel store `value` at `address`.
///
/// # Errors
/// The kernel faulted, or the address is not of its vmalloc area.
pub fn write(address: u64, value: u64) -> Result<()> {
    // SAFETY: as above.
    unsafe { raw::call(number::KERNEL_WRITE, [address, value, 0, 0]) }.map(|_| ())
}

/// Has the kernel load the value at `address`.
///
/// # Errors
/// The kernel faulted, or the address is not of its vmalloc area.
pub fn read(address: u64) -> Result<u64> {
    let mut value = 0_u64;
    // SAFETY: the kernel writes eight bytes to `value`.
    unsafe { raw::call(number::KERNEL_READ, [address, &raw mut value as u64, 0, 0]) }?;
    Ok(value)
}
