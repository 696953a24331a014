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
    #[command(flatten)]
    force: output::Force,
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
    let unwritten = |error| {
        let what = format!(
            "could not write the manual pages to {}: {error}",
            directory.display()
        );
        Failure::new(Exit::Usage, what)
    };
    fs::create_dir_all(directory).map_err(unwritten)?;
    let mut files = Vec::new();
    for page in pages(crate::command()) {
        let mut text = Vec::new();
        page.render(&mut text).map_err(unwritten)?;
        let path = directory.join(page.get_filename());
        files.push((options.force.file("the manual page", &path, &[])?, text));
    }
    for (file, text) in files {
        file.write(&text)?;
    }
    Ok(Exit::Good)
}

/// One for the command and one for each subcommand.
fn pages(command: clap::Command) -> Vec<Man> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let of_subcommands = command.get_subcommands().cloned();
    let mut pages: Vec<Man> = of_subcommands.map(Man::new).collect();
    pages.push(Man::new(command));
    pages
}
