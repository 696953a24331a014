//! `heirloom lecture`: every claim of the lecture as an experiment on KVM, judged from the host.
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
mod proof;
mod propagation;
mod remote_memory;
mod show;
mod stage;
mod tries;
mod update_all;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use heirloom_abi::bugs::Bug;
use heirloom_machine::kvm::DEVICE;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::progress::Progress;
use crate::tape::Tapes;
use proof::{Proof, Row, Trouble};
use show::Lecture;
use stage::Stage;

const HOUR: u64 = 60 * 60;

/// What `heirloom lecture` is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this claim.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=CLAIMS.len() as i64))]
    claim: Option<u8>,
    /// A deliberate bug for the kernel to make, to see claims fail; `heirloom bugs` lists them.
    #[arg(long, value_name = "BUG", value_parser = crate::bugs::parse)]
    bug: Option<Bug>,
    /// Stops after so many seconds.
    #[arg(long, value_name = "SECS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=HOUR))]
    timeout: u64,
    /// Records every experiment to a file of its own in this directory; see `heirloom replay`.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// KVM's device, where it is not in its usual place.
    #[arg(long, value_name = "PATH", default_value = DEVICE)]
    device: PathBuf,
}

/// Something that the lecture says.
struct Claim {
    /// In the lecture's words, shortened.
    words: &'static str,
    experiment: &'static str,
    prove: fn(&mut Stage, &mut Proof) -> Result<(), Trouble>,
}

/// All of them, in the lecture's order; they are numbered from 1.
const CLAIMS: [Claim; 13] = [
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

/// Makes the experiments and prints the verdicts.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let mut stage = Stage::new(
        &options.device,
        options.bug,
        options.record.as_deref().map(Tapes::new).transpose()?,
        Duration::from_secs(options.timeout),
    )?;
    let chosen: Vec<(u8, &Claim)> = (1..)
        .zip(&CLAIMS)
        .filter(|(number, _)| options.claim.is_none_or(|only| only == *number))
        .collect();
    let progress = Progress::bar(chosen.len() as u64);
    let mut rows = Vec::new();
    for (number, claim) in chosen {
        progress.tell(|| format!("claim {number}"));
        rows.push(judge(number, claim, &mut stage)?);
        progress.advance(1);
    }
    drop(progress);
    let lecture = Lecture::new(rows);
    let mut output = Output::new()?;
    if options.json {
        output.line(&lecture.json()?)?;
    } else {
        output.report(&lecture)?;
    }
    stage.recorded()?;
    Ok(if lecture.holds() {
        Exit::Good
    } else {
        Exit::Broken
    })
}

/// Proves or disproves one claim.
fn judge(number: u8, claim: &Claim, stage: &mut Stage) -> Result<Row, Failure> {
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
