//! Which address space a command is about.

use heirloom_inspect::names::{NameError, RootName};
use heirloom_inspect::{Discovery, RootId};

use crate::exit::{Exit, Failure};

/// Options of commands that are about one address space.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Options {
    /// The address space: a root's address, `kernel`, `cpu1`, `pid7`. Without it, that of CPU 0.
    #[arg(long, value_name = "ROOT", value_parser = parse)]
    root: Option<RootName>,
    /// That of the process with this number.
    #[arg(long, value_name = "N", conflicts_with = "root")]
    pid: Option<u32>,
    /// That of the process whose command has this name, where there is one such process.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["root", "pid"])]
    comm: Option<String>,
}

impl Options {
    /// The same, or the address space of a process that an address names.
    ///
    /// # Errors
    /// Both name one.
    pub(super) fn of(&self, process: Option<u32>) -> Result<Options, Failure> {
        if process.is_some() && self.name().is_some() {
            let what = "the address says whose it is; --root, --pid and --comm would say it again";
            return Err(Failure::new(Exit::Usage, what));
        }
        Ok(Options {
            root: self.root.clone(),
            pid: process.or(self.pid),
            comm: self.comm.clone(),
        })
    }

    /// The one that is meant, if any is named.
    pub(super) fn name(&self) -> Option<RootName> {
        self.root
            .clone()
            .or(self.pid.map(RootName::Process))
            .or(self.comm.clone().map(RootName::Command))
    }
}

/// Reads a name.
fn parse(text: &str) -> Result<RootName, String> {
    text.parse().map_err(|error: NameError| match error {
        NameError::Root(text) => format!(
            "`{text}` names no address space: write its root's address (0x1234000; `heirloom roots` lists them), \
             `kernel`, `cpu0`, or `pid7`"
        ),
        error => error.to_string(),
    })
}

/// The root that is meant; without a name that of CPU 0, or else the kernel's own, or the first.
pub(super) fn find(discovery: &Discovery, name: Option<&RootName>) -> Result<RootId, Failure> {
    discovery.root_named(name).map_err(|error| {
        let what = match error {
            NameError::All => {
                "`all` is for `heirloom maps --format jsonl`, `csv` or `arrow`: name one address space".into()
            }
            NameError::Several { comm, pids } => {
                let count = pids.len();
                let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
                let pids = pids.join(", ");
                format!("{count} processes have the command `{comm}`: name one by --pid: {pids}")
            }
            error => format!("{error}: `heirloom roots` lists them"),
        };
        Failure::new(Exit::Usage, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_address_space_is_told_where_their_names_are_listed() {
        for text in ["", "cpu", "pid-1", "everything", "cpu4294967296"] {
            assert!(
                parse(text).unwrap_err().contains("heirloom roots"),
                "{text}"
            );
        }
    }
}
