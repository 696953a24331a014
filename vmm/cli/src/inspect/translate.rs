//! `heirloom translate`: one address, walked entry by entry.

use heirloom_inspect::VirtAddr;
use heirloom_inspect::report::TranslateReport;

use super::root::RootName;
use crate::exit::{Exit, Failure};

/// Options of `heirloom translate`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS)]
pub(crate) struct Options {
    #[command(flatten)]
    common: super::Options,
    /// The virtual address.
    #[arg(value_name = "ADDRESS", value_parser = super::number::parse)]
    address: u64,
    /// The address space: a root's address, `kernel`, `cpu1`, `pid7`. Without it, that of CPU 0.
    #[arg(long, value_name = "ROOT")]
    root: Option<RootName>,
}

/// Walks and shows.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let (name, discovery, root) = options.common.discover_root(options.root)?;
    let va = VirtAddr::new(options.address);
    let report = TranslateReport::new(&name, &discovery, root, va);
    options.common.print(&report)?;
    Ok(Exit::Good)
}
