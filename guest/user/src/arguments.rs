//! A program's arguments, as the kernel lays them on the first stack.

/// The argument strings; the first one is the program's name.
#[derive(Clone, Copy)]
pub struct Arguments {
    stack: *const u64,
}

impl Arguments {
    /// The arguments of the program whose first stack pointer was `stack`.
    ///
    /// # Safety
    /// 1. `stack` is that stack pointer: a count, as many pointers to zero-terminated strings, 0.
    #[must_use]
    pub unsafe fn new(stack: *const u64) -> Arguments {
        Arguments { stack }
    }

    /// Argument `index`, if there are so many and it is UTF-8.
    #[must_use]
    pub fn get(self, index: usize) -> Option<&'static str> {
        // SAFETY: `new` promised this layout, and nobody writes to the texts.
        let bytes = unsafe {
            if index as u64 >= *self.stack {
                return None;
            }
            let text = *self.stack.add(1 + index) as *const core::ffi::c_char;
            core::ffi::CStr::from_ptr(text).to_bytes()
        };
        core::str::from_utf8(bytes).ok()
    }

    /// Argument `index` as a decimal number.
    #[must_use]
    pub fn number(self, index: usize) -> Option<u64> {
        self.get(index)?.parse().ok()
    }
}
