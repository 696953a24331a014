//! Real Linux guests: Debian's cloud kernel with processes of many kinds, booted under QEMU's emulated
//! CPU, which needs no KVM and has what a real one has.
//!
//! A guest is booted, tells on its console what processes it has, and from then on stands still:
//! nothing is born, nothing ends.

pub(crate) mod artifacts;
pub(crate) mod core;
pub(crate) mod gdb;
pub(crate) mod initramfs;
pub(crate) mod kernel_data;
pub(crate) mod listing;
pub(crate) mod qemu;
pub(crate) mod qmp;
pub(crate) mod registers;
pub(crate) mod tlb;

#[allow(unused_imports, reason = "each test file uses its own part")]
pub(crate) use {
    listing::Listing,
    qemu::{Guest, Variant},
};
