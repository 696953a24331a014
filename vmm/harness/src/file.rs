//! Reads files that users name.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Why a file is of no use; words that stand behind its name.
#[derive(Debug)]
pub enum FileProblem {
    /// It cannot be opened or read.
    Unreadable(io::Error),
    /// It is a directory, a pipe, or such.
    NotAFile,
    /// It has more GiB than these.
    TooLarge(u64),
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileProblem::Unreadable(error) => write!(f, "{error}"),
            FileProblem::NotAFile => f.write_str("it is not a regular file"),
            FileProblem::TooLarge(gibibytes) => write!(f, "it is larger than {gibibytes} GiB"),
        }
    }
}

/// Reads a file of at most `gibibytes` GiB.
///
/// # Errors
/// [`FileProblem`].
pub fn read(path: &Path, gibibytes: u64) -> Result<Vec<u8>, FileProblem> {
    // Asked by path first: opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(FileProblem::Unreadable)?;
    if !kind.is_file() {
        return Err(FileProblem::NotAFile);
    }
    let limit = gibibytes << 30;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(FileProblem::Unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(FileProblem::TooLarge(gibibytes));
    }
    Ok(bytes)
}
