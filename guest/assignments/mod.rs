//! What students write: each answer is a strategy, and takes the place of one of the kernel's own.
//!
//! Part of the kernel only when it is built for assignments: see README.md in this folder.

#[cfg_attr(not(feature = "solutions"), path = "isolate/answer.rs")]
#[cfg_attr(feature = "solutions", path = "isolate/solution.rs")]
mod isolate;
#[cfg_attr(not(feature = "solutions"), path = "reach/answer.rs")]
#[cfg_attr(feature = "solutions", path = "reach/solution.rs")]
mod reach;
#[cfg_attr(not(feature = "solutions"), path = "revoke/answer.rs")]
#[cfg_attr(feature = "solutions", path = "revoke/solution.rs")]
mod revoke;
#[cfg_attr(not(feature = "solutions"), path = "share/answer.rs")]
#[cfg_attr(feature = "solutions", path = "share/solution.rs")]
mod share;

use super::Propagation;
use heirloom_abi::propagation::Strategy;

/// The answer that takes the place of a strategy.
pub const fn instead_of(strategy: Strategy) -> Option<&'static dyn Propagation> {
    match strategy {
        Strategy::Prealloc => Some(&share::Share),
        Strategy::Sync => Some(&reach::Reach),
        Strategy::CopyAll => Some(&revoke::Revoke),
        Strategy::Isolated => Some(&isolate::Isolate),
        Strategy::Fault | Strategy::None => None,
    }
}
