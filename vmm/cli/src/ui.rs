//! How the command talks to its user: whether in colours, and how much.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ui {
    /// No console, no progress: only the verdict.
    pub(crate) quiet: bool,
    /// Events and more are told on standard error, where progress would be in their way.
    pub(crate) verbose: bool,
}

static UI: OnceLock<Ui> = OnceLock::new();

/// Set once, before a command runs.
pub(crate) fn set(ui: Ui) {
    // There is one command in a process.
    let _ = UI.set(ui);
}

/// As it was set.
pub(crate) fn get() -> Ui {
    *UI.get().unwrap_or(&Ui {
        quiet: false,
        verbose: false,
    })
}

/// Whether somebody looks at standard output as it is written.
pub(crate) fn output_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// The same for standard error.
pub(crate) fn error_is_terminal() -> bool {
    io::stderr().is_terminal()
}
