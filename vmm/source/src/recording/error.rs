//! What can go wrong with a recording, written and read.

use std::io;
use std::path::PathBuf;

use super::VERSION;
use super::chunk::{Damage, MAX_BYTES};
use super::moment::{MAX_CPUS, MAX_ROOTS};
use super::pages::MAX_PAGES;

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum RecordError {
    /// Recordings are never overwritten.
    #[error(
        "could not record to {}: the file exists, and recordings are not overwritten; remove it or \
         choose another name", path.display()
    )]
    Exists { path: PathBuf },
    #[error("could not record to {}: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error(
        "could not go on with the recording {}: {source}; {}",
        name.display(),
        if *is_removed { "it was removed" } else { "it is readable up to there" }
    )]
    Write {
        name: PathBuf,
        is_removed: bool,
        source: io::Error,
    },
    #[error(
        "the moment does not fit a recording: {what}, and there may be {MAX_PAGES} tables, \
         {MAX_ROOTS} roots, {MAX_CPUS} CPUs, one encryption bit (12 to 51) and {MAX_BYTES} bytes of everything but tables"
    )]
    TooLarge { what: String },
}

/// Why a recording, or a moment of one, cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("could not read the recording {}: {problem}", name.display())]
pub struct ReadError {
    /// The file.
    pub name: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a recording.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a regular file")]
    NotAFile,
    #[error(
        "it is no recording of heirloom: it does not start with the bytes that all of them have"
    )]
    Magic,
    #[error(
        "it has version {found} of the format, and this program reads version {VERSION}; use the \
         program that wrote it"
    )]
    Version { found: u32 },
    #[error(
        "it ends after {bytes} bytes, in its header: whoever wrote it was stopped at once, or the \
         file was cut"
    )]
    NoHeader { bytes: u64 },
    #[error("at byte {at}: {damage}")]
    Damaged { at: u64, damage: Damage },
    #[error("it holds no moment: {ending}")]
    Empty { ending: String },
    #[error("it has no event {wanted}; it has events {first} to {last}")]
    NoEvent { wanted: u64, first: u64, last: u64 },
    #[error("event {number} has no page tables: none were captured with it; choose another event")]
    NotCaptured { number: u64 },
    #[error(
        "event {number} cannot be understood: {reason}; use the program that wrote the recording"
    )]
    Event { number: u64, reason: String },
}
