//! Standard output and error, written so that a reader who leaves early (`| head`) is no panic and no
//! error: the exit code still tells the verdict.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use serde::Serialize;

use crate::exit::{Exit, Failure};

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
            Failure::new(Exit::Usage, format!("standard output is no good: {error}"))
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
            Failure::new(Exit::Usage, format!("standard error is no good: {error}"))
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
        self.write_all(format!("{text}\n").as_bytes())
            .map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!("could not write to standard output: {error}"),
                )
            })
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
        .map_err(|error| Failure::new(Exit::Usage, format!("this cannot be JSON: {error}")))
}

/// Says on standard error why the command failed. Nobody may be listening there.
pub(crate) fn complain(failure: &Failure) {
    let _ = writeln!(io::stderr(), "heirloom: {failure}");
}
