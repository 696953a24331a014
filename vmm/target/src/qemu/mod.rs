//! A live QEMU, paused over QMP while it is looked at: `qemu:SOCKET`.

pub(crate) mod note;

use std::path::PathBuf;

use crate::Target;
use crate::spec::{Fields, SpecError};

/// Which QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuSpec {
    socket: PathBuf,
}

/// Why a live QEMU cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error("{socket}: this build cannot talk to QEMU")]
    Unsupported { socket: String },
}

impl QemuSpec {
    pub(crate) fn parse(fields: &Fields) -> Result<QemuSpec, SpecError> {
        fields.no_options("qemu:SOCKET, the path of its QMP socket")?;
        Ok(QemuSpec {
            socket: fields.file().into(),
        })
    }

    pub(crate) fn open(&self, _name: String) -> Result<Target, QemuError> {
        Err(QemuError::Unsupported {
            socket: self.socket.display().to_string(),
        })
    }
}

/// Lets every guest run on that is paused.
pub fn resume_all() {}
