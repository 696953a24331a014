//! The attributes that this kernel gives its entries; what each bit means is [`Entry`]'s business.

use super::Entry;
use heirloom_abi::syscall::{PROT_EXEC, PROT_WRITE};

/// A table of kernel mappings; permissions are the leaves' business.
pub const KERNEL_TABLE: Entry = Entry::PRESENT.with(Entry::WRITABLE);
/// A table of user mappings.
pub const USER_TABLE: Entry = KERNEL_TABLE.with(Entry::USER);
/// Kernel code.
pub const KERNEL_TEXT: Entry = Entry::PRESENT.with(Entry::GLOBAL);
/// Kernel constants.
pub const KERNEL_READ_ONLY: Entry = KERNEL_TEXT.with(Entry::NO_EXECUTE);
/// Kernel data.
pub const KERNEL_DATA: Entry = KERNEL_READ_ONLY.with(Entry::WRITABLE);
/// Registers of a device: PWT and PCD together are uncached by the PAT of reset.
pub const KERNEL_DEVICE: Entry = KERNEL_DATA
    .with(Entry::WRITE_THROUGH)
    .with(Entry::CACHE_DISABLE);
/// Read-only until a write copies the page; Linux keeps this in the VMA, we have a bit to spare.
pub const COPY_ON_WRITE: Entry = Entry::SOFTWARE_9;

/// A kernel page with `PROT_*` permissions.
pub const fn kernel_page(protection: u64) -> Entry {
    with_permissions(KERNEL_TEXT, protection)
}

/// A user page with `PROT_*` permissions, owned by one process alone.
pub const fn user_page(protection: u64) -> Entry {
    with_permissions(Entry::PRESENT.with(Entry::USER), protection)
}

const fn with_permissions(mut attributes: Entry, protection: u64) -> Entry {
    if protection & PROT_WRITE != 0 {
        attributes = attributes.with(Entry::WRITABLE);
    }
    if protection & PROT_EXEC == 0 {
        attributes = attributes.with(Entry::NO_EXECUTE);
    }
    attributes
}
