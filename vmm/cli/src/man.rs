//! `heirloom man`: manual pages, one for the command and one for each of its subcommands.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap_mangen::Man;

use crate::exit::{Exit, Failure};
use crate::output::{self, Output};

/// Options of `heirloom man`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Writes all pages here, made if it does not exist; without it the command's own page is printed.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Prints a page, or writes all.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let mut command = crate::command();
    command.build();
    let Some(directory) = &options.directory else {
        let mut page = Vec::new();
        Man::new(command)
            .render(&mut page)
            .map_err(|error| output::unwritten(&error))?;
        Output::new()?
            .write_all(&page)
            .map_err(|error| output::unwritten(&error))?;
        return Ok(Exit::Good);
    };
    let written =
        fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
    written.map_err(|error| {
        let what = format!(
            "could not write the manual pages to {}: {error}",
            directory.display()
        );
        Failure::new(Exit::Usage, what)
    })?;
    Ok(Exit::Good)
}
