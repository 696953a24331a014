//! Every claim of the lecture as an experiment on KVM, judged from the host.
//!
//! A claim gathers [`proof`] from the [`footage`] of experiments made on the [`stage`]. Each holds only if
//! facts were looked at and none spoke against it; where the claim is that something is broken, the facts
//! are those of exactly that failure.

mod borders;
mod churn;
mod direct_map;
mod entries;
mod fault_handler;
mod footage;
mod inheritance;
mod isolated_context;
mod isolation;
pub mod proof;
mod propagation;
mod remote_memory;
pub mod stage;
mod tries;
mod update_all;

use std::time::Instant;

use crate::error::RunError;
use proof::{Proof, Row, Trouble};
use stage::Stage;

/// Something that the lecture says.
pub struct Claim {
    /// In the lecture's words, shortened.
    words: &'static str,
    experiment: &'static str,
    prove: fn(&mut Stage, &mut Proof) -> Result<(), Trouble>,
}

/// All of them, in the lecture's order; they are numbered from 1.
pub const CLAIMS: [Claim; 13] = [
    isolated_context::CLAIM,
    remote_memory::CLAIM,
    propagation::SEEN_BY_ALL,
    update_all::CLAIM,
    inheritance::CLAIM,
    entries::CLAIM,
    propagation::BELOW_E1,
    propagation::NOT_REALLY,
    borders::CLAIM,
    direct_map::CLAIM,
    fault_handler::CLAIM,
    churn::CLAIM,
    isolation::CLAIM,
];

/// Proves or disproves one claim.
///
/// # Errors
/// An experiment could not be made: see [`RunError`].
pub fn judge(number: u8, claim: &Claim, stage: &mut Stage) -> Result<Row, RunError> {
    let start = Instant::now();
    let mut proof = Proof::default();
    match (claim.prove)(stage, &mut proof) {
        Ok(()) => {}
        Err(Trouble::Missing(what)) => proof.object(|| what),
        Err(Trouble::Run(failure)) => return Err(failure),
    }
    let seconds = start.elapsed().as_secs_f64();
    log::info!("claim {number}: {seconds:.2} s");
    Ok(Row::new(
        number,
        claim.words,
        claim.experiment,
        proof,
        seconds,
    ))
}
