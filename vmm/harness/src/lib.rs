//! heirloom's own guest under judgement, as a library.
//!
//! The guest kernel and its programs are built into this crate. A [`session::Session`] boots them on a KVM
//! machine, stops at every event that the guest reports, captures the page tables of all address spaces, and
//! has them judged. What is made of such runs stands beside it: the [`lecture`]'s claims, the [`lab`]'s
//! measurements, and the matrix of the deliberate [`bugs`].

pub mod backtrace;
pub mod bugs;
pub mod cancel;
pub mod cpio;
pub mod crash_report;
pub mod error;
pub mod event;
pub mod file;
pub mod guest;
pub mod judge;
pub mod lab;
pub mod lecture;
pub mod machine_target;
pub mod program;
pub mod recorder;
pub mod replay;
pub mod report;
pub mod run;
