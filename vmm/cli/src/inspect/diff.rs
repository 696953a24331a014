//! `heirloom diff`: what changed between two moments, or how two boots differ.

use heirloom_inspect::boots::Boots;
use heirloom_inspect::difference::Difference;
use heirloom_inspect::discover::{Discovery, Search};
use heirloom_inspect::report::{BootsReport, DifferenceReport};
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
    /// Compares as two boots, by area, offset and name, even if all lies at the same addresses in both. Otherwise this is
    /// done where KASLR or another build put the kernel elsewhere, with page tables of as many levels.
    #[arg(long)]
    boots: bool,
    /// Ends with exit code 1 if the two differ.
    #[arg(long)]
    exit_code: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Compares and shows.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let sandbox = Sandbox::of(&[&options.before, &options.after]);
    let (before_name, before) = discover(&options.before, &sandbox)?;
    let (after_name, after) = discover(&options.after, &sandbox)?;
    let names = ((&*before_name, &before), (&*after_name, &after));
    let are_two = before.mode().depth == after.mode().depth && Boots::are_two(&before, &after);
    let is_same = if options.boots || are_two {
        let boots = Boots::between(&before, &after);
        let is_same = boots.is_same();
        let report = BootsReport::new(names.0, names.1, boots);
        super::print(&report, options.json)?;
        is_same
    } else {
        let difference = Difference::between(&before, &after).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("could not compare the two: {error}; --boots compares them as two boots"),
            )
        })?;
        let is_same = difference.is_empty();
        let report = DifferenceReport::new(names.0, names.1, difference);
        super::print(&report, options.json)?;
        is_same
    };
    Ok(if options.exit_code && !is_same {
        Exit::Broken
    } else {
        Exit::Good
    })
}

/// A guest, with the names that its kernel has for its functions and variables.
fn discover(spec: &Spec, sandbox: &Sandbox) -> Result<(String, Discovery), Failure> {
    let target = super::open(spec, sandbox)?;
    let (name, mut found) = super::search_in(&target, Search::default())?;
    found.read_names(&target);
    Ok((name, found))
}
