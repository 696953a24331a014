//! The `syscall` instruction.

use crate::{Failed, Result};
use core::arch::asm;

/// The highest errno.
const MOST_ERRNO: u64 = 4095;

/// Makes system call `number`.
///
/// # Safety
/// 1. The call does nothing to this process's memory that Rust does not expect.
pub unsafe fn call(number: u64, arguments: [u64; 4]) -> Result<u64> {
    let [a, b, c, d] = arguments;
    let result: u64;
    // SAFETY: obligation 1; RCX and R11 are lost, as the ABI says.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    let negated = result.wrapping_neg();
    if (1..=MOST_ERRNO).contains(&negated) {
        Err(Failed(negated))
    } else {
        Ok(result)
    }
}
