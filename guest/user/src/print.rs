//! The console, without formatting machinery.

use crate::raw;
use heirloom_abi::syscall as number;

/// Prints text.
pub fn text(text: &str) {
    // SAFETY: the kernel reads the text; the console takes everything.
    let _ = unsafe {
        raw::call(
            number::WRITE,
            [1, text.as_ptr() as u64, text.len() as u64, 0],
        )
    };
}

/// Prints a decimal number.
pub fn number(value: u64) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len() - 1;
    let mut rest = value;
    loop {
        // One digit always fits.
        #[allow(clippy::cast_possible_truncation)]
        {
            digits[start] = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
        start -= 1;
    }
    text(core::str::from_utf8(&digits[start..]).unwrap_or_default());
}
