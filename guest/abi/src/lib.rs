//! The one contract that the guest kernel, the ring-3 programs and the host share.
//!
//! - [`layout`]: where things lie in the guest's virtual address space;
//! - [`syscall`]: what a ring-3 program may ask of the kernel;
//! - [`options`]: what the kernel's command line may say;
//! - [`propagation`]: the strategies, and what each promises;
//! - [`bugs`]: the deliberate mistakes that the kernel can be told to make;
//! - [`event`]: what the kernel tells the host through its probe page;
//! - [`flush_log`]: which translations it dropped.
//!
//! Everything the kernel says here is a *claim* to the host: it is checked against CR3 and the page
//! tables, never believed.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod bugs;
pub mod event;
pub mod flush_log;
pub mod layout;
pub mod options;
pub mod propagation;
pub mod syscall;

pub use heirloom_paging::PAGE_SIZE;
