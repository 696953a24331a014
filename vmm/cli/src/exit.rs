//! How the command ends: one exit code per kind of ending.

use std::fmt;
use std::process;

use heirloom_harness::error::{Cause, RunError, boot_cause};
use heirloom_harness::lab::measure::{CellError, Problem};
use heirloom_harness::program::UnusableProgram;
use heirloom_machine::{BootError, KvmError};
use heirloom_source::recording::RecordError;
use heirloom_source::{CoreWriteError, OutputError, TargetError};

/// What `--help` says about them.
pub(crate) const HELP: &str = "Exit codes:
  0  all rules hold
  1  a rule failed
  2  wrong usage, or a file that cannot be used
  3  this host cannot run it: see `heirloom doctor`
  4  the guest crashed, hung or was stopped";

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All rules hold.
    Good = 0,
    /// A rule is broken.
    Broken = 1,
    /// The command line, or a file that it names, cannot be used. Clap uses the same number.
    Usage = 2,
    /// No usable KVM.
    Host = 3,
    /// The guest crashed, hung or was stopped.
    Guest = 4,
}

impl From<Cause> for Exit {
    fn from(cause: Cause) -> Exit {
        match cause {
            Cause::Input => Exit::Usage,
            Cause::Host => Exit::Host,
            Cause::Guest => Exit::Guest,
        }
    }
}

impl From<Exit> for process::ExitCode {
    fn from(exit: Exit) -> process::ExitCode {
        process::ExitCode::from(exit as u8)
    }
}

/// Why a command did not get to a verdict.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Failure {
        Failure {
            exit,
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<KvmError> for Failure {
    fn from(error: KvmError) -> Failure {
        Failure::new(Exit::Host, error)
    }
}

impl From<BootError> for Failure {
    fn from(error: BootError) -> Failure {
        Failure::new(boot_cause(&error).into(), error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        Failure::new(error.cause().into(), hinted(&error))
    }
}

impl From<heirloom_machine::RunError> for Failure {
    fn from(error: heirloom_machine::RunError) -> Failure {
        RunError::from(error).into()
    }
}

impl From<CellError> for Failure {
    fn from(error: CellError) -> Failure {
        let CellError {
            cell,
            problem,
            console,
        } = &error;
        let what = match problem {
            Problem::Run(error) => hinted(error),
            Problem::Program(_) if problem.needs_memory() => format!("{problem}, see --memory"),
            Problem::Program(_) => problem.to_string(),
        };
        Failure::new(problem.cause().into(), format!("{cell}: {what}{console}"))
    }
}

impl From<UnusableProgram> for Failure {
    fn from(error: UnusableProgram) -> Failure {
        Failure::new(Exit::Usage, error)
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Failure {
        Failure::new(Exit::Usage, error)
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Failure {
        let hint = match &error {
            OutputError::Exists { .. } => "; choose another name, or --force replaces it",
            OutputError::Input { .. } | OutputError::Io { .. } => "",
        };
        Failure::new(Exit::Usage, format!("{error}{hint}"))
    }
}

impl From<CoreWriteError> for Failure {
    fn from(error: CoreWriteError) -> Failure {
        match error {
            CoreWriteError::Output(error) => error.into(),
            error => Failure::new(Exit::Usage, error),
        }
    }
}

/// Why a recording could not be begun where one that exists can be replaced.
pub(crate) fn unrecorded(error: RecordError) -> Failure {
    match error {
        RecordError::Exists { .. } => {
            Failure::new(Exit::Usage, format!("{error}; --force replaces it"))
        }
        error => error.into(),
    }
}

/// Why a run ended, with the option that would have helped.
fn hinted(error: &RunError) -> String {
    match error {
        RunError::TimeLimit { limit, place } => format!(
            "the guest was not done after {} s; --timeout gives it more{place}",
            limit.as_secs()
        ),
        error => error.to_string(),
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        Failure::new(Exit::Usage, error)
    }
}
