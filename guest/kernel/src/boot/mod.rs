//! From the loader's entry to the first process.

pub mod memory_map;
pub mod modules;
pub mod multiboot;
pub mod options;
pub mod self_test;
pub mod start_info;
