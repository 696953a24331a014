//! heirloom's own guest under judgement, as a library.
//!
//! The guest kernel and its programs are built into this crate. A [`Run`] boots them on a KVM machine and
//! goes from event to event: at each one the guest is paused, what it reports is applied, the page tables of
//! all address spaces are captured, the rules are held against them, and the event is recorded if that is
//! wanted. What the guest reports is a claim; only CR3 and the page tables prove it.
//!
//! - [`run`]: a run, built, started, and read event by event or to its end;
//! - [`replay`]: a recording, judged like the run that it is of;
//! - [`judge`], [`report`]: the verdicts, and what a run showed as data;
//! - [`lecture`]: the lecture's claims, each tried by experiments;
//! - [`lab`]: what a kernel mapping costs under each strategy, as the processes get many;
//! - [`grade`]: a kernel that a student wrote, and the points that it gets;
//! - [`bugs`]: the deliberate bugs of the kernel, and whether each is caught.
//!
//! ```
//! use heirloom_harness::lecture::{Runner, claims};
//! use heirloom_harness::Host;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Claim 5: a child's page table inherits the kernel mappings of its parent.
//! let mut runner = Runner::new(Host::open()?, Duration::from_secs(120));
//! let result = claims()[4].judge(&mut runner)?;
//! assert!(result.holds, "{:?}", result.objections);
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod backtrace;
pub mod bugs;
pub mod cancel;
pub mod cpio;
pub mod crash_report;
pub mod engine;
pub mod error;
pub mod event;
pub mod file;
mod flush_log;
pub mod grade;
pub mod guest;
pub mod judge;
pub mod lab;
pub mod lecture;
pub mod machine_target;
pub mod model;
pub mod program;
pub mod recorder;
pub mod region;
pub mod replay;
pub mod report;
pub mod run;

pub use cancel::CancelToken;
pub use error::{Cause, RunError};
pub use event::{Event, EventKind};
pub use heirloom_abi::bugs::Bug;
pub use heirloom_abi::options::Strategy;
pub use heirloom_machine::{Host, MemorySize, Platform, Qemu};
pub use judge::Judge;
pub use run::{ExitStatus, Run, RunBuilder, Seen};
