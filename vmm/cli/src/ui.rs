//! How the command talks to its user: how much, and whether in colour.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};

use crate::sandbox;

static QUIET: AtomicBool = AtomicBool::new(false);
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Options that every command has.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Reports list every rule, and what happens is said on standard error; twice says more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// No guest console and no progress, and of a report only its last line, the verdict.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// When to use colours. `auto` is on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: clap::ColorChoice,
    /// Keeps all rights of the user while guests run and files are read. Without it the command gives up what it does
    /// not need before: to start programs, to connect, to open other files than those that are named.
    #[arg(long, global = true)]
    no_sandbox: bool,
}

impl Options {
    /// Makes them hold for all that is said from now on, by libraries too.
    pub(crate) fn apply(&self) {
        QUIET.store(self.quiet, Ordering::Relaxed);
        VERBOSE.store(self.verbose > 0, Ordering::Relaxed);
        if self.no_sandbox {
            sandbox::switch_off();
        }
        match self.color {
            clap::ColorChoice::Auto => ColorChoice::Auto,
            clap::ColorChoice::Always => ColorChoice::Always,
            clap::ColorChoice::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

/// Whether only verdicts are wanted.
pub(crate) fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether reports are wanted in full.
pub(crate) fn verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// Whether what is written to `stream` may have colours.
pub(crate) fn colours(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// Whether standard output is a terminal.
pub(crate) fn output_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Columns of the terminal that standard output is; 80 where that is not known.
pub(crate) fn columns() -> u16 {
    const KNOWN: u16 = 80;
    const LEAST: u16 = 40;
    static COLUMNS: OnceLock<u16> = OnceLock::new();
    *COLUMNS.get_or_init(|| {
        let size = terminal_size::terminal_size_of(io::stdout());
        size.map_or(KNOWN, |(width, _)| width.0).max(LEAST)
    })
}

/// The same for standard error.
pub(crate) fn error_is_terminal() -> bool {
    io::stderr().is_terminal()
}
