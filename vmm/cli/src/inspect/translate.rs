//! `heirloom translate`: one address, walked entry by entry.

use heirloom_inspect::names::OwnAddress;
use heirloom_inspect::report::TranslateReport;

use super::root;
use crate::exit::{Exit, Failure};

/// Options of `heirloom translate`.
#[derive(clap::Args)]
#[command(after_help = super::TARGETS)]
pub(crate) struct Options {
    #[command(flatten)]
    common: super::Options,
    /// The virtual address, or a symbol of the kernel's, such as `init_task` or `do_exit+0x12`; `pid:7:0x400000` for
    /// that of a process.
    #[arg(value_name = "ADDRESS")]
    address: OwnAddress,
    #[command(flatten)]
    root: root::Options,
}

/// Walks and shows.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let root = options.root.of(options.address.process)?;
    let (name, discovery, root) = options.common.discover_root(&root)?;
    let va = options.address.address.resolve(&discovery);
    let va = va.map_err(|error| Failure::new(Exit::Usage, error))?;
    let report = TranslateReport::new(&name, &discovery, root, va);
    options.common.print(&report)?;
    Ok(Exit::Good)
}
