//! Kernel virtual memory on behalf of this process: the kernel does the accesses, in kernel mode, in
//! this process's address space.

use crate::eventcount::Eventcount;
use crate::{Result, raw};
use heirloom_abi::syscall as number;
use heirloom_abi::syscall::{WATCH_GOES_ON, WATCH_SUCCEEDED, WATCH_WRITES, Watched};

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

/// Has the kernel access `address` again and again, reading it, or writing `value` if there is one, at the same time as
/// whatever others do, until `over` is at least `at_least`; the host is told of the last access. When it has
/// begun, it adds 1 to the eventcount behind `over`.
///
/// # Errors
/// The address is not of the kernel's vmalloc area.
pub fn watch(
    address: u64,
    value: Option<u64>,
    (over, at_least): (Eventcount, u64),
) -> Result<Watched> {
    let mut how = if value.is_some() { WATCH_WRITES } else { 0 };
    let mut all = Watched::default();
    while !all.is_over {
        let arguments = [
            address,
            over.number(),
            at_least,
            how,
            value.unwrap_or_default(),
            0,
        ];
        // SAFETY: as above.
        let result = unsafe { raw::call_with_six(number::KERNEL_WATCH, arguments) }?;
        let more = Watched::from_result(result);
        all = Watched {
            succeeded: all.succeeded.saturating_add(more.succeeded),
            turns: all.turns.saturating_add(more.turns),
            ..more
        };
        how = how & WATCH_WRITES | WATCH_GOES_ON;
        if more.last_succeeded {
            how |= WATCH_SUCCEEDED;
        }
    }
    Ok(all)
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
