//! `heirloom diff`: what changed between two moments.

use heirloom_inspect::difference::Difference;
use heirloom_inspect::report::DifferenceReport;
use heirloom_source::Spec;

use crate::exit::{Exit, Failure};
use crate::sandbox::Sandbox;

/// Options of `heirloom diff`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS)]
pub(crate) struct Options {
    /// The earlier moment.
    #[arg(value_name = "TARGET")]
    before: Spec,
    /// The later one.
    #[arg(value_name = "TARGET")]
    after: Spec,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Compares and shows.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let sandbox = Sandbox::of(&[&options.before, &options.after]);
    let (before_name, before) = super::discover(&options.before, &sandbox)?;
    let (after_name, after) = super::discover(&options.after, &sandbox)?;
    let difference = Difference::between(&before, &after).map_err(|error| {
        Failure::new(Exit::Usage, format!("could not compare the two: {error}"))
    })?;
    let report = DifferenceReport::new((&before_name, &before), (&after_name, &after), difference);
    super::print(&report, options.json)?;
    Ok(Exit::Good)
}
