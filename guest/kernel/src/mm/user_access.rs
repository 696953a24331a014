//! Kernel-mode accesses that may fault: to user memory, and to kernel memory that may not be mapped
//! here.
//!
//! The accesses are a few instructions with names. When one of them faults and nothing can be put
//! into place, the page-fault handler goes on at its fix-up, and the caller learns how much was left.
//! The accesses to user memory are the only ones made with SMAP lifted.

use crate::arch::cpu;
use core::arch::global_asm;

global_asm!(
    ".section .text.access, \"ax\"",
    // access_read(address: rdi, out: rsi) -> rax: 0, or the fault that the handler puts there
    ".global access_read, access_read_at, access_write, access_write_at",
    "access_read:",
    "access_read_at:",
    "mov rdx, [rdi]",
    "mov [rsi], rdx",
    "xor eax, eax",
    "ret",
    // access_write(address: rdi, value: rsi) -> rax
    "access_write:",
    "access_write_at:",
    "mov [rdi], rsi",
    "xor eax, eax",
    "ret",
    // access_copy(to: rdi, from: rsi, length: rdx) -> rax: bytes left
    ".global access_copy, access_copy_words_at, access_copy_bytes_at",
    ".global access_copy_words_fixup, access_copy_bytes_fixup, access_fixup",
    "access_copy:",
    "mov rcx, rdx",
    "shr rcx, 3",
    "and edx, 7",
    "access_copy_words_at:",
    "rep movsq",
    "mov ecx, edx",
    "access_copy_bytes_at:",
    "rep movsb",
    "xor eax, eax",
    "ret",
    "access_copy_words_fixup:",
    "lea rax, [rdx + rcx * 8]",
    "ret",
    "access_copy_bytes_fixup:",
    "mov rax, rcx",
    "access_fixup:",
    "ret",
    ".text",
);

unsafe extern "C" {
    fn access_read(address: u64, out: *mut u64) -> u64;
    fn access_write(address: u64, value: u64) -> u64;
    fn access_copy(to: u64, from: u64, length: u64) -> u64;
    static access_read_at: u8;
    static access_write_at: u8;
    static access_copy_words_at: u8;
    static access_copy_bytes_at: u8;
    static access_copy_words_fixup: u8;
    static access_copy_bytes_fixup: u8;
    static access_fixup: u8;
}

/// The CPU refused an access, with this page-fault error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faulted {
    pub error_code: u64,
}

/// Where to go on when the instruction at `rip` faults, and what RAX shall then hold if it is not
/// to stay as it is.
pub fn fixup(rip: u64, error_code: u64) -> Option<(u64, Option<u64>)> {
    let at = |symbol: *const u8| symbol as u64;
    if rip == at(&raw const access_read_at) || rip == at(&raw const access_write_at) {
        Some((at(&raw const access_fixup), Some(error_code << 1 | 1)))
    } else if rip == at(&raw const access_copy_words_at) {
        Some((at(&raw const access_copy_words_fixup), None))
    } else if rip == at(&raw const access_copy_bytes_at) {
        Some((at(&raw const access_copy_bytes_fixup), None))
    } else {
        None
    }
}

/// Loads a u64 from anywhere.
pub fn read(address: u64) -> Result<u64, Faulted> {
    let mut value = 0;
    // SAFETY: a load changes nothing, and a fault comes back as a result.
    let fault = unsafe { access_read(address, &raw mut value) };
    if fault == 0 {
        Ok(value)
    } else {
        Err(Faulted {
            error_code: fault >> 1,
        })
    }
}

/// Stores a u64.
///
/// # Safety
/// 1. Whatever is mapped writable at `address` is nothing that Rust code of the kernel relies on.
pub unsafe fn write(address: u64, value: u64) -> Result<(), Faulted> {
    // SAFETY: obligation 1; a fault comes back as a result.
    let fault = unsafe { access_write(address, value) };
    if fault == 0 {
        Ok(())
    } else {
        Err(Faulted {
            error_code: fault >> 1,
        })
    }
}

/// Copies from user memory until a page is missing; the bytes copied.
pub fn copy_from_user(to: &mut [u8], user: u64) -> usize {
    let length = to.len() as u64;
    cpu::with_user_access(|| {
        // SAFETY: `to` is a whole slice of the kernel's, and a load from user memory changes
        // nothing; a fault ends the copy.
        let left = unsafe { access_copy(to.as_mut_ptr() as u64, user, length) };
        usize::try_from(length - left).unwrap_or(0)
    })
}

/// Copies to user memory until a page is missing or read-only; the bytes copied.
///
/// # Safety
/// 1. `user` and as many bytes as `from` has lie in the user half.
pub unsafe fn copy_to_user(user: u64, from: &[u8]) -> usize {
    let length = from.len() as u64;
    cpu::with_user_access(|| {
        // SAFETY: by obligation 1 only user memory is written; a fault ends the copy.
        let left = unsafe { access_copy(user, from.as_ptr() as u64, length) };
        usize::try_from(length - left).unwrap_or(0)
    })
}
