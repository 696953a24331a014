//! The `syscall` instruction.

use crate::{Failed, Result};
use core::arch::asm;

/// The highest errno.
const MAX_ERRNO: u64 = 4095;

/// Makes system call `number`.
///
/// # Safety
/// 1. The call does nothing to this process's memory that Rust does not expect.
pub unsafe fn call(number: u64, arguments: [u64; 4]) -> Result<u64> {
    let [a, b, c, d] = arguments;
    // SAFETY: obligation 1.
    unsafe { call_with_six(number, [a, b, c, d, 0, 0]) }
}

/// Makes system call `number`, which has more than four arguments.
///
/// # Safety
/// 1. As for [`call`].
pub unsafe fn call_with_six(number: u64, arguments: [u64; 6]) -> Result<u64> {
    let result: u64;
    // SAFETY: obligation 1; RCX and R11 are lost, as the ABI says.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    let negated = result.wrapping_neg();
    if (1..=MAX_ERRNO).contains(&negated) {
        Err(Failed(negated))
    } else {
        Ok(result)
    }
}
