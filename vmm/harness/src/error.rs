//! Why a run of the guest did not come to its end.

use std::time::Duration;

use crate::event::MalformedEvent;
use heirloom_inspect::ModeError;
use heirloom_machine::{BootError, ImageError, KvmError, QemuError};

/// Where the cause of a failure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// In what was asked for: an option, a kernel, a program, a file.
    Input,
    /// In this host: it has no usable KVM, or too little memory.
    Host,
    /// In the guest: it crashed, hung, was stopped, or does not do what it should.
    Guest,
}

impl Cause {
    /// Its number in recordings.
    pub const fn code(self) -> u8 {
        match self {
            Cause::Input => 2,
            Cause::Host => 3,
            Cause::Guest => 4,
        }
    }

    /// The cause with that number; an unknown one lies in the guest.
    pub const fn of_code(code: u8) -> Cause {
        match code {
            2 => Cause::Input,
            3 => Cause::Host,
            _ => Cause::Guest,
        }
    }
}

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The machine cannot be made.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The machine cannot go on.
    #[error(transparent)]
    Machine(#[from] heirloom_machine::RunError),
    /// KVM does not return the guest's registers.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The guest rang the doorbell with a frame that it does not have.
    #[error("the guest rang the doorbell with frame {frame:#x}, which is outside its memory")]
    Frame {
        /// As it was written to the doorbell.
        frame: u32,
    },
    /// The guest rang the doorbell, and there is no event.
    #[error("the guest rang the doorbell with frame {frame:#x}, but {error}")]
    Event {
        /// The frame of the probe page.
        frame: u32,
        /// What is wrong with the event.
        error: MalformedEvent,
    },
    /// The guest does not use a paging mode that can be judged.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// The guest kernel reported that it cannot go on, or its machine stopped.
    #[error("{report}")]
    Guest {
        /// What happened and where: registers and call chain.
        report: String,
    },
    /// The guest's CPU does not have what the deliberate bug is made with.
    #[error(
        "the mistake of {bug} takes a CPU with {}, and the guest's has none: nothing was tried",
        lacking.join(" and ")
    )]
    Untried {
        /// The bug.
        bug: &'static str,
        /// What is lacking.
        lacking: Vec<&'static str>,
    },
    /// A program of the guest does not do what the one who watches it expects.
    #[error("{0}")]
    Unexpected(String),
    /// The guest ran out of time.
    #[error("the guest was not done after {} s{place}", limit.as_secs())]
    TimeLimit {
        /// What it had.
        limit: Duration,
        /// Where it was then, behind a line break.
        place: String,
    },
}

impl RunError {
    /// Where the cause lies.
    pub fn cause(&self) -> Cause {
        match self {
            RunError::Image(_) => Cause::Input,
            RunError::Boot(error) => boot_cause(error),
            RunError::Kvm(_)
            | RunError::Untried { .. }
            | RunError::Machine(
                heirloom_machine::RunError::Vcpu(_)
                | heirloom_machine::RunError::NoThread
                | heirloom_machine::RunError::Kvm(_)
                | heirloom_machine::RunError::Qemu(_),
            ) => Cause::Host,
            RunError::Machine(heirloom_machine::RunError::Console(_))
            | RunError::Frame { .. }
            | RunError::Event { .. }
            | RunError::Mode(_)
            | RunError::Guest { .. }
            | RunError::Unexpected(_)
            | RunError::TimeLimit { .. } => Cause::Guest,
        }
    }
}

/// Where the cause lies if a machine cannot be made.
pub fn boot_cause(error: &BootError) -> Cause {
    match error {
        // What QEMU says wrongly lies with the program that was named.
        BootError::Qemu(QemuError::Protocol { .. })
        | BootError::Image(_)
        | BootError::SegmentOutside { .. }
        | BootError::SegmentsOverlap { .. }
        | BootError::NoRoomToUnpack { .. }
        | BootError::InitrdTooBig { .. }
        | BootError::ModulesUnknown { .. }
        | BootError::Load { .. }
        | BootError::ModulesTooBig { .. }
        | BootError::ModuleName { .. }
        | BootError::NoRoomForStartInfo { .. }
        | BootError::CommandLine { .. }
        | BootError::Write { .. } => Cause::Input,
        BootError::Kvm(_)
        | BootError::Qemu(_)
        | BootError::Memory(_)
        | BootError::Watchdog(_)
        | BootError::Cpus(_) => Cause::Host,
    }
}
