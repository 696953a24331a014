//! A moment of one of our own recordings: `rec:FILE[@EVENT]`.

use std::path::PathBuf;

use heirloom_inspect::Target;

use super::{ReadError, Recording};
use crate::spec::{Fields, SpecError};

/// Which moment of which recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingSpec {
    /// The recording.
    pub file: PathBuf,
    /// The number that the guest gave the event; `None` for the last moment with tables.
    pub event: Option<u64>,
}

/// Why a recording cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RecordingError(#[from] ReadError);

impl RecordingSpec {
    pub(crate) fn parse(fields: &Fields) -> Result<RecordingSpec, SpecError> {
        fields.no_options("rec:FILE or rec:FILE@EVENT")?;
        let (file, event) = match fields.file().rsplit_once('@') {
            Some((file, number)) if !file.is_empty() => match number.parse() {
                Ok(event) => (file, Some(event)),
                Err(_) => (fields.file(), None),
            },
            _ => (fields.file(), None),
        };
        Ok(RecordingSpec {
            file: file.into(),
            event,
        })
    }

    /// The last moment of `file`.
    pub(crate) fn of(file: PathBuf) -> RecordingSpec {
        RecordingSpec { file, event: None }
    }

    pub(crate) fn open(&self) -> Result<Target, RecordingError> {
        Ok(Recording::open(&self.file)?.target_at(self.event)?)
    }
}
