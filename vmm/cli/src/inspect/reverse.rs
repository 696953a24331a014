//! `heirloom reverse`: everything that reaches a physical address.

use heirloom_inspect::PhysAddr;
use heirloom_inspect::report::ReverseReport;

use crate::exit::{Exit, Failure};

/// Options of `heirloom reverse`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS)]
pub(crate) struct Options {
    #[command(flatten)]
    common: super::Options,
    /// The guest-physical address.
    #[arg(value_name = "ADDRESS", value_parser = super::number::parse)]
    address: u64,
}

/// Looks through all address spaces.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let (name, discovery) = options.common.discover_with_file()?;
    let pa = PhysAddr::new(options.address);
    options
        .common
        .print(&ReverseReport::new(&name, &discovery, pa))?;
    Ok(Exit::Good)
}
