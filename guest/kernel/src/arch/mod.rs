//! The x86-64 CPU: its registers, tables, ways into the kernel, interrupts and console.

pub mod apic;
pub mod cpu;
pub mod descriptors;
pub mod entry;
pub mod entry_area;
pub mod flush_log;
pub mod local;
pub mod pcid;
pub mod serial;
