//! The fixed part of each event's payload.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The kernel is up: its own address space stands, no process exists.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Boot {
    /// Guest-physical address of the kernel's own PGD, from which the first process inherits.
    pub root: u64,
    /// Where vmalloc starts to give out addresses.
    pub vmalloc_start: u64,
    /// An index into `Strategy::ALL`.
    pub strategy: u64,
    /// [`machine`] bits.
    pub machine: u64,
    /// Guest-physical address of the first CPU's [`FlushLog`](crate::flush_log::FlushLog), behind which the
    /// others' follow; 0 if the kernel keeps none.
    pub flush_log: u64,
}

/// Bits of [`Boot::machine`]: what the kernel found and uses.
pub mod machine {
    /// EFER.NXE: entries have NX.
    pub const NX: u64 = 1 << 0;
    /// CR4.SMEP: the kernel executes no user page.
    pub const SMEP: u64 = 1 << 1;
    /// CR4.SMAP: the kernel accesses user pages only where it means to.
    pub const SMAP: u64 = 1 << 2;
    /// CR4.UMIP: ring 3 does not see where descriptor tables are.
    pub const UMIP: u64 = 1 << 3;
    /// CR4.PCIDE: translations are tagged.
    pub const PCID: u64 = 1 << 4;
    /// 1 GiB pages.
    pub const GIGABYTE_PAGES: u64 = 1 << 5;
    /// The local APIC by MSRs.
    pub const X2APIC: u64 = 1 << 6;
    /// `syscall` leaves CPL at 3: the page-fault handler serves system calls.
    pub const SYSCALL_QUIRK: u64 = 1 << 7;
    /// CR4.LA57: five levels of page tables.
    pub const LA57: u64 = 1 << 8;
    /// The instruction `invpcid`.
    pub const INVPCID: u64 = 1 << 9;
    /// Name and bit, for people.
    pub const NAMES: [(&str, u64); 10] = [
        ("nx", NX),
        ("smep", SMEP),
        ("smap", SMAP),
        ("umip", UMIP),
        ("pcid", PCID),
        ("invpcid", INVPCID),
        ("1gib-pages", GIGABYTE_PAGES),
        ("x2apic", X2APIC),
        ("la57", LA57),
        ("syscall-quirk", SYSCALL_QUIRK),
    ];
}

/// A process has its address space, and has not run yet.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessCreated {
    /// The new process.
    pub pid: u64,
    /// [`KERNEL_PID`](super::KERNEL_PID) for the first process.
    pub parent: u64,
    /// Guest-physical address of its PGD.
    pub root: u64,
}

/// A process replaced its program and, with it, its user half; the root stays.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessExecuted {
    /// The process.
    pub pid: u64,
}

/// A process has ended and its address space is gone.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessExited {
    /// The process.
    pub pid: u64,
    /// As `wait4` reports it: exit code × 256, or the number of the signal-like cause.
    pub status: u64,
    /// The root it had.
    pub root: u64,
}

/// The kernel will end a process for what it did in ring 3; `ProcessExited` follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessKilled {
    /// The process.
    pub pid: u64,
    /// Exception vector.
    pub vector: u64,
    /// What the CPU pushed, or 0.
    pub error_code: u64,
    /// The instruction that did it.
    pub rip: u64,
    /// CR2 for a page fault, else 0.
    pub address: u64,
}

/// Kernel memory was mapped; the list holds the frame numbers of its first pages.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KernelMapped {
    /// Where it begins.
    pub address: u64,
    /// How many pages.
    pub pages: u64,
    /// `PROT_*` bits.
    pub protection: u64,
}

/// Kernel memory was unmapped.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KernelUnmapped {
    /// Where it began.
    pub address: u64,
    /// How many pages.
    pub pages: u64,
}

/// Kernel memory has other permissions.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KernelProtected {
    /// Where it begins.
    pub address: u64,
    /// How many pages.
    pub pages: u64,
    /// `PROT_*` bits.
    pub protection: u64,
}

/// The kernel accessed kernel memory in the address space of process `header.pid`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct KernelAccess {
    /// What was accessed.
    pub address: u64,
    /// What was read, or was to be written.
    pub value: u64,
    /// 1 for a write.
    pub write: u64,
    /// 1 if the CPU faulted.
    pub faulted: u64,
    /// The fault's error code.
    pub error_code: u64,
}

/// A user page fault was handled: a page was put into place, or copied on write. Told only with
/// `probe-faults` on the command line. A table that the handler made new had no entry before: 0.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PageFaultHandled {
    /// Whose.
    pub pid: u64,
    /// CR2.
    pub address: u64,
    /// What the CPU pushed.
    pub error_code: u64,
    /// Where in the direct map the leaf entry stands that was written.
    pub entry_address: u64,
    /// The leaf entry when the fault came.
    pub before: u64,
    /// The leaf entry that the kernel wrote.
    pub after: u64,
}

/// The program says how far it is; the list holds the text, 8 bytes a word.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Checkpoint {
    /// Bytes of text.
    pub length: u64,
}

/// The kernel itself cannot go on.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Crash {
    /// Exception vector, or [`Crash::PANIC`].
    pub vector: u64,
    /// What the CPU pushed, or 0.
    pub error_code: u64,
    /// The instruction.
    pub rip: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// The frame pointer: from here the host walks the stack.
    pub rbp: u64,
    /// CR2.
    pub address: u64,
}

impl Crash {
    /// `vector` of a Rust panic.
    pub const PANIC: u64 = u64::MAX;
}

/// The first process has ended.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Done {
    /// As `wait4` would report it.
    pub status: u64,
}
