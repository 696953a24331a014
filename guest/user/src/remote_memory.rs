//! The memory of another process, by way of the kernel. Addresses are the other process's own.

use crate::{Result, raw};
use heirloom_abi::syscall as number;

/// A `struct iovec`.
#[repr(C)]
struct IoVec {
    base: u64,
    length: u64,
}

/// Copies from `remote` in process `pid` to `here`: the bytes copied, fewer than `here` has where a
/// page is missing.
///
/// # Errors
/// No such process, or not even the first byte could be copied.
pub fn read(pid: u32, remote: u64, here: &mut [u8]) -> Result<u64> {
    let length = here.len() as u64;
    // SAFETY: the kernel writes to `here`, and to nothing else of this process.
    unsafe {
        copy(
            number::PROCESS_VM_READV,
            pid,
            here.as_mut_ptr() as u64,
            remote,
            length,
        )
    }
}

/// Copies `here` to `remote` in process `pid`: the bytes copied, fewer than `here` has where a page
/// is missing or read-only.
///
/// # Safety
/// 1. If `pid` is this process, nothing refers to the bytes at `remote`.
///
/// # Errors
/// As for [`read`].
pub unsafe fn write(pid: u32, remote: u64, here: &[u8]) -> Result<u64> {
    let length = here.len() as u64;
    // SAFETY: obligation 1.
    unsafe {
        copy(
            number::PROCESS_VM_WRITEV,
            pid,
            here.as_ptr() as u64,
            remote,
            length,
        )
    }
}

/// # Safety
/// 1. Whatever of this process's memory the call writes to may be written to.
unsafe fn copy(number: u64, pid: u32, local: u64, remote: u64, length: u64) -> Result<u64> {
    let local = IoVec {
        base: local,
        length,
    };
    let remote = IoVec {
        base: remote,
        length,
    };
    let arguments = [
        pid.into(),
        &raw const local as u64,
        1,
        &raw const remote as u64,
        1,
        0,
    ];
    // SAFETY: obligation 1.
    unsafe { raw::call_with_six(number, arguments) }
}
