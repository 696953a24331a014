//! The memory below 640 KiB.

use vm_memory::GuestAddress;

use super::BootError;
use crate::memory::LOW_END;

/// Gives out the low memory that what a guest is told of its boot shares.
pub(super) struct LowMemory {
    next: u64,
    modules: usize,
}

impl LowMemory {
    /// From `start` on; `modules` is how many there are to tell of.
    pub(super) fn new(start: GuestAddress, modules: usize) -> LowMemory {
        LowMemory {
            next: start.0,
            modules,
        }
    }

    /// So many bytes, at a multiple of 8.
    ///
    /// # Errors
    /// [`BootError::NoRoomForStartInfo`] from 640 KiB on.
    pub(super) fn take(&mut self, bytes: usize) -> Result<GuestAddress, BootError> {
        let start = self.next.next_multiple_of(8);
        let end = start.saturating_add(bytes as u64);
        if end > LOW_END {
            return Err(BootError::NoRoomForStartInfo {
                count: self.modules,
            });
        }
        self.next = end;
        Ok(GuestAddress(start))
    }
}
