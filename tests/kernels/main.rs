//! The inspector on kernels: Xen, UEFI firmware, a memory test and Linux as firmware boots it, under QEMU's emulated
//! CPU, and our own on our own machine. Each is known for what it is, a core and the live guest of one moment give one
//! verdict, and each rule that is broken there on purpose is reported.

#[path = "../common/mod.rs"]
mod common;

mod booted;
mod breaks;
mod firmware;
mod linux;
mod ours;
mod xen;
