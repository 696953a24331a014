//! Standard output and error, written so that a reader who leaves early (`| head`) is no panic and no
//! error: the exit code is still the verdict.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use heirloom_harness::recorder::RecordingDirectory;
use heirloom_source::{OutputError, OutputFile};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::text::wrap::folded;
use crate::{escape, paint, ui};

/// Standard output without a buffer and without std's retries, as the machine wants its console:
/// whoever writes, writes whole lines.
pub(crate) struct Output {
    /// `None` once the reader has gone.
    file: Option<File>,
}

impl Output {
    /// A handle of its own on standard output.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(crate) fn new() -> Result<Output, Failure> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned().map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("standard output cannot be used: {error}"),
            )
        })?;
        Ok(Output {
            file: Some(File::from(descriptor)),
        })
    }

    /// The same on standard error.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(crate) fn standard_error() -> Result<Output, Failure> {
        let descriptor = io::stderr().as_fd().try_clone_to_owned().map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("standard error cannot be used: {error}"),
            )
        })?;
        Ok(Output {
            file: Some(File::from(descriptor)),
        })
    }

    /// Writes `text` and a line end.
    ///
    /// # Errors
    /// The device is full, or such.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        let text = escape::text(text);
        self.write_all(format!("{text}\n").as_bytes())
            .map_err(|error| unwritten(&error))
    }

    /// Writes a report, for terminals in colour.
    ///
    /// # Errors
    /// The device is full, or such.
    pub(crate) fn tables(&mut self, report: &impl fmt::Display) -> Result<(), Failure> {
        self.painted(&report.to_string())
    }

    /// Writes a report whose last line is its verdict, or only that line if no more is wanted.
    ///
    /// # Errors
    /// The device is full, or such.
    pub(crate) fn report(&mut self, report: &impl fmt::Display) -> Result<(), Failure> {
        let text = report.to_string();
        self.painted(if ui::quiet() {
            text.trim_end().lines().last().unwrap_or_default()
        } else {
            &text
        })
    }

    fn painted(&mut self, text: &str) -> Result<(), Failure> {
        let mut text = escape::text(text);
        // A verdict alone stays one line.
        if ui::output_is_terminal() && !ui::quiet() {
            text = folded(&text, usize::from(ui::columns())).into();
        }
        let text = if ui::colours(&io::stdout()) {
            paint::report(&text).into()
        } else {
            text
        };
        self.write_all(format!("{text}\n").as_bytes())
            .map_err(|error| unwritten(&error))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else {
            return Ok(bytes.len());
        };
        match file.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.file = None;
                Ok(bytes.len())
            }
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `value` as JSON for people to read, too.
///
/// # Errors
/// It has something that JSON has not.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(escape::json)
        .map_err(|error| Failure::new(Exit::Usage, format!("this cannot be JSON: {error}")))
}

/// Where a command that makes many runs records them: in a directory, which is made.
///
/// # Errors
/// It cannot be made.
pub(crate) fn recordings(directory: Option<&Path>) -> Result<Option<RecordingDirectory>, Failure> {
    let Some(directory) = directory else {
        return Ok(None);
    };
    RecordingDirectory::new(directory)
        .map(Some)
        .map_err(|error| {
            let what = format!(
                "could not make the directory {}: {error}",
                directory.display()
            );
            Failure::new(Exit::Usage, what)
        })
}

/// The option of all commands that write files.
#[derive(clap::Args)]
// Several commands' options have it, and clap makes a group of each.
#[group(skip)]
pub(crate) struct Force {
    /// Replaces files that exist.
    #[arg(long)]
    force: bool,
}

impl Force {
    /// A file to be written, known to be free, and none of these, before anything is done.
    ///
    /// # Errors
    /// It exists, is one of `inputs`, or cannot be.
    pub(crate) fn file(
        &self,
        what: &'static str,
        path: &Path,
        inputs: &[&Path],
    ) -> Result<OutputFile, Failure> {
        Ok(OutputFile::at(what, path, self.force, inputs)?)
    }

    /// Makes room for a recording, which grows under its own name.
    ///
    /// # Errors
    /// It is one of `inputs`, or what is there cannot be removed.
    pub(crate) fn recording(&self, path: &Path, inputs: &[&Path]) -> Result<(), Failure> {
        const WHAT: &str = "the recording";
        if !self.force {
            return Ok(());
        }
        let failed = |source| OutputError::Io {
            what: WHAT,
            path: path.to_owned(),
            source,
        };
        if OutputFile::at(WHAT, path, true, inputs)?.is_replaced() {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(error))?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Says on standard error that a page was written.
///
/// # Errors
/// The device is full, or such.
pub(crate) fn wrote(path: &Path, bytes: usize) -> Result<(), Failure> {
    if ui::quiet() {
        return Ok(());
    }
    let (shown, kib) = (path.display(), bytes.div_ceil(1024));
    Output::standard_error()?.line(&format!("wrote {shown}: {kib} KiB"))
}

/// Says on standard error what a reader of the verdict should know, however quiet the command is.
///
/// # Errors
/// The device is full, or such.
pub(crate) fn note(text: &str) -> Result<(), Failure> {
    Output::standard_error()?.line(&format!("heirloom: note: {text}"))
}

/// Standard output took no more.
pub(crate) fn unwritten(error: &io::Error) -> Failure {
    let what = format!("could not write to standard output: {error}");
    Failure::new(Exit::Usage, what)
}

/// Says on standard error why the command failed. Nobody may be listening there.
pub(crate) fn complain(failure: &Failure) {
    const WHO: &str = "heirloom:";
    let who = if ui::colours(&io::stderr()) {
        paint::failure(WHO)
    } else {
        WHO.into()
    };
    let failure = failure.to_string();
    let _ = writeln!(io::stderr(), "{who} {}", escape::text(&failure));
}
