//! Every claim of the lecture as an experiment on KVM, judged from the host.
//!
//! A claim gathers proof from the traces of experiments that a [`Runner`] makes. Each holds only if
//! facts were looked at and none spoke against it; where the claim is that something is broken, the facts
//! are those of exactly that failure.

mod attempts;
mod borders;
mod churn;
mod direct_map;
mod entries;
mod fault_handler;
mod inheritance;
mod isolated_context;
mod isolation;
mod new_entry;
mod picture;
mod proof;
mod propagation;
mod remote_memory;
mod runner;
pub mod slides;
mod trace;
mod update_all;

use std::time::Instant;

use crate::error::{Cause, RunError};

pub use picture::Picture;
pub use proof::{ClaimError, ClaimResult};
pub use runner::Runner;

use proof::Proof;

/// Something that the lecture says.
pub struct Claim {
    /// From 1, in the lecture's order.
    pub number: u8,
    /// In the lecture's words, shortened.
    pub statement: &'static str,
    /// How it is tried.
    pub experiment: &'static str,
    prove: fn(&mut Runner, &mut Proof) -> Result<(), ClaimError>,
}

static CLAIMS: [Claim; 13] = [
    isolated_context::CLAIM,
    remote_memory::CLAIM,
    propagation::SEEN_BY_ALL,
    update_all::CLAIM,
    inheritance::CLAIM,
    entries::CLAIM,
    propagation::BELOW_E1,
    new_entry::CLAIM,
    borders::CLAIM,
    direct_map::CLAIM,
    fault_handler::CLAIM,
    churn::CLAIM,
    isolation::CLAIM,
];

/// All claims, in the lecture's order.
pub fn claims() -> &'static [Claim] {
    &CLAIMS
}

impl Claim {
    /// Makes the experiments, and proves or disproves the claim. One that runs out of its time is not
    /// judged, and costs no other claim its own.
    ///
    /// # Errors
    /// [`RunError`]: an experiment was not made, or was cancelled. A guest that crashes speaks against the
    /// claim instead.
    pub fn judge(&self, runner: &mut Runner) -> Result<ClaimResult, RunError> {
        let start = Instant::now();
        let mut proof = Proof::default();
        let mut out_of_time = false;
        runner.begin_claim(self.number);
        match (self.prove)(runner, &mut proof) {
            Ok(()) => {}
            Err(ClaimError::Missing(what)) => proof.object(|| what),
            Err(ClaimError::Run(RunError::TimeLimit { .. })) => {
                out_of_time = true;
                log::info!(
                    "claim {}: not done after {} s",
                    self.number,
                    runner.budget().as_secs()
                );
            }
            // A kernel that cannot make the experiment does not do what is claimed of it.
            Err(ClaimError::Run(error))
                if error.cause() == Cause::Guest && !runner.is_cancelled() =>
            {
                proof.object(|| error.to_string());
            }
            Err(ClaimError::Run(error)) => return Err(error),
        }
        if runner.is_over() && !out_of_time {
            // What was looked at last may have been cut: it speaks neither for the claim nor against it.
            out_of_time = true;
            proof.forget_objections();
        }
        let seconds = start.elapsed().as_secs_f64();
        log::info!("claim {}: {seconds:.2} s", self.number);
        Ok(proof.result(self, out_of_time, seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_numbered_in_their_order() {
        let numbers = claims().iter().map(|claim| claim.number);
        assert!(numbers.eq(1..=13));
    }
}
