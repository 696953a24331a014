//! `heirloom layout`: what a kernel has where.

use heirloom_inspect::report::LayoutReport;

use crate::exit::{Exit, Failure};

/// Options of `heirloom layout`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS)]
pub(crate) struct Options {
    #[command(flatten)]
    common: super::Options,
}

/// Infers and shows it.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let (name, discovery) = options.common.discover_with_file()?;
    options
        .common
        .print(&LayoutReport::new(&name, &discovery))?;
    Ok(Exit::Good)
}
