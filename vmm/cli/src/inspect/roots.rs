//! `heirloom roots`: every address space of a guest.

use heirloom_inspect::report::Roots;

use crate::exit::{Exit, Failure};

/// Options of `heirloom roots`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS)]
pub(crate) struct Options {
    #[command(flatten)]
    common: super::Options,
}

/// Finds and lists them.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let (name, discovery) = options.common.discover_named()?;
    options.common.print(&Roots::new(&name, &discovery))?;
    super::conclusive(&name, &discovery)?;
    Ok(Exit::Good)
}
