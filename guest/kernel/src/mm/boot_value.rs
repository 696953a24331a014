//! Values that the boot sets before anybody asks, and that never change afterwards.
//!
//! They are no atomics: the compiler may keep a copy as it would of a constant. Where kernel code is emulated
//! each load costs a microsecond, and these are part of every access to a page table.

use core::cell::UnsafeCell;

/// A value that is set once at most, by the boot.
pub struct BootValue<T>(UnsafeCell<T>);

// SAFETY: `set` promises that nobody reads at that time; all else only reads.
unsafe impl<T: Sync> Sync for BootValue<T> {}

impl<T: Copy> BootValue<T> {
    /// What it is unless the boot sets it.
    pub const fn new(value: T) -> BootValue<T> {
        BootValue(UnsafeCell::new(value))
    }

    #[inline]
    pub fn get(&self) -> T {
        // SAFETY: nobody writes while others read, as `set` promises.
        unsafe { *self.0.get() }
    }

    /// # Safety
    /// 1. Called by the boot, once: one CPU runs, and nothing that follows from the value before is used
    ///    any more.
    pub unsafe fn set(&self, value: T) {
        // SAFETY: obligation 1: nobody reads meanwhile.
        unsafe { *self.0.get() = value };
    }
}
