//! Guest-virtual addresses; guest-physical ones are vm-memory's [`GuestAddress`](vm_memory::GuestAddress).

use std::fmt;

/// An address as guest code uses it, translated by the guest's own tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestVirtual(pub u64);

impl fmt::Display for GuestVirtual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}
