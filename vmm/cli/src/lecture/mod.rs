//! `heirloom lecture`: every claim of the lecture as an experiment on KVM, judged from the host.

mod show;

use std::path::PathBuf;
use std::time::Duration;

use heirloom_abi::bugs::Bug;
use heirloom_harness::cancel::CancelToken;
use heirloom_harness::lecture::stage::Stage;
use heirloom_harness::lecture::{CLAIMS, Claim, judge};
use heirloom_machine::Host;
use heirloom_machine::kvm::DEVICE;

use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::progress::Progress;
use show::Lecture;

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

/// Makes the experiments and prints the verdicts.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let cancel = CancelToken::new();
    output::cancel_on_signal(&cancel)?;
    let mut stage = Stage::new(
        Host::open_at(&options.device)?,
        options.bug,
        output::recordings(options.record.as_deref())?,
        Duration::from_secs(options.timeout),
        cancel,
    );
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
