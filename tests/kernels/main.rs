//! The inspector on kernels that nobody here wrote, under QEMU's emulated CPU: Xen, UEFI firmware, a memory test,
//! and Linux as firmware boots it. Each is known for what it is, and a core and the live guest of one moment
//! give one verdict.

#[path = "../common/mod.rs"]
mod common;

mod booted;
mod breaks;
mod firmware;
mod linux;
mod xen;
