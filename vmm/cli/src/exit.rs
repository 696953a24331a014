//! How the command ends: one exit code per kind of ending.

use std::fmt;
use std::process;

use heirloom_machine::{BootError, KvmError, RunError};
use heirloom_source::TargetError;

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
    /// The command line, or a file it names, is no good. Clap uses the same number.
    Usage = 2,
    /// No usable KVM.
    Host = 3,
    /// The guest crashed, hung or was stopped.
    Guest = 4,
}

impl Exit {
    /// The exit code of that number, as a recording has it; one that there is not is a failed guest's.
    pub(crate) fn of_code(code: u8) -> Exit {
        [Exit::Good, Exit::Broken, Exit::Usage, Exit::Host]
            .into_iter()
            .find(|exit| *exit as u8 == code)
            .unwrap_or(Exit::Guest)
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
        let exit = match &error {
            BootError::Kvm(_) | BootError::Memory(_) | BootError::Watchdog(_) => Exit::Host,
            BootError::Image(_)
            | BootError::SegmentOutside { .. }
            | BootError::NoRoomToUnpack { .. }
            | BootError::InitrdTooBig { .. }
            | BootError::ModulesUnknown { .. }
            | BootError::Load { .. }
            | BootError::ModulesTooBig { .. }
            | BootError::ModuleName { .. }
            | BootError::NoRoomForStartInfo { .. }
            | BootError::CommandLine { .. }
            | BootError::Write { .. } => Exit::Usage,
        };
        Failure::new(exit, error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        let exit = match &error {
            RunError::Vcpu(_) | RunError::Kvm(_) => Exit::Host,
            RunError::Console(_) => Exit::Guest,
        };
        Failure::new(exit, error)
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        Failure::new(Exit::Usage, error)
    }
}
