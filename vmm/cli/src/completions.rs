//! `heirloom completions`: what a shell needs to complete the command's words.

use std::io::Write;

use clap_complete::Shell;

use crate::exit::{Exit, Failure};
use crate::output::{self, Output};

/// What `--help` says besides.
const HELP: &str = "For example:
  heirloom completions bash > ~/.local/share/bash-completion/completions/heirloom
  heirloom completions zsh > ~/.zfunc/_heirloom      (with ~/.zfunc in fpath)
  heirloom completions fish > ~/.config/fish/completions/heirloom.fish";

/// Options of `heirloom completions`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// The shell.
    shell: Shell,
}

/// Prints the shell's script.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        options.shell,
        &mut crate::command(),
        crate::NAME,
        &mut script,
    );
    Output::new()?
        .write_all(&script)
        .map_err(|error| output::unwritten(&error))?;
    Ok(Exit::Good)
}
