//! A virtual machine for x86-64 guests that boot by PVH, Multiboot or Linux's 64-bit boot protocol: on KVM, or
//! in a QEMU process.
//!
//! A room per thing, each usable from the ones below it:
//!
//! - [`kvm`]: the host's KVM, what it can do and how to get what is missing; [`cpuid`]: the CPU it offers;
//! - [`memory`]: how much RAM the guest has and where it lies; [`vm`]: KVM's own object over it, and the
//!   log of what the guest writes ([`Machine::take_written_frames`]);
//! - [`image`]: a kernel file, checked; [`boot`]: kernel, modules and what tells of them put into memory;
//! - [`cpus`]: how many CPUs; [`vcpu`]: one of them, its state at entry and its [`registers`]; [`devices`]: the
//!   serial port;
//! - [`watchdog`]: what stops a CPU that will not stop by itself; [`run`]: the loop that drives it, and `vcpu_threads`: the
//!   threads of all but the first;
//! - [`gdb`]: a debugger attached to it;
//! - [`machine`]: all of it put together; [`qemu`]: the same with QEMU's CPUs, and [`virtual_machine`]: what
//!   both can do; [`symbols`]: which function an address is in.
//!
//! The guest is hostile: whatever its memory, its kernel file or its port writes hold, the host
//! neither panics nor allocates without bound, and [`Machine::run`] returns by its deadline.

#![deny(missing_docs)]

pub mod address;
pub mod boot;
pub mod cpuid;
pub mod cpus;
pub mod devices;
pub mod gdb;
pub mod image;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod qemu;
pub mod registers;
pub mod run;
pub mod symbols;
pub mod vcpu;
mod vcpu_threads;
pub mod virtual_machine;
pub mod vm;
pub mod watchdog;
mod write_log;

pub use address::GuestVirtual;
pub use boot::{BootError, Module};
pub use cpus::{CpuCount, Cpus};
pub use image::{ImageError, KernelImage, Segment};
pub use kvm::{Host, KvmError};
pub use machine::{Config, Machine};
pub use memory::{MemoryError, MemorySize, RamRange};
pub use qemu::{Qemu, QemuError};
pub use registers::Registers;
pub use run::{RunError, Stop};
pub use symbols::{Inlined, Location, Symbols, SymbolsError};
pub use virtual_machine::{Doorbell, Platform, VirtualMachine};
pub use vm_memory::{GuestAddress, GuestMemoryMmap};
pub use watchdog::Interrupter;

/// Bytes in a base page (Intel SDM vol. 3A, 4.5).
pub const PAGE_SIZE: u64 = 4096;
