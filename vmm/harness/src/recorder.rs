//! Recording of runs: one file for each. A recording that cannot go on does not stop its run.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::{fs, io};

use heirloom_abi::event::ProbePage;
use heirloom_inspect::Discovery;
use heirloom_inspect::history::GroundTruth;
use heirloom_machine::VirtualMachine;
use heirloom_source::recording::{Capture, End, Header, Piece, RecordError, Recorder};

use crate::error::RunError;
use crate::machine_target;
use crate::run::{Captured, ExitStatus, Run};

/// A recording in the making.
pub struct RunRecorder {
    /// `None` once it is ended or has failed.
    recorder: Option<Recorder>,
    failure: Option<RecordError>,
}

impl RunRecorder {
    /// Begins a recording in a file that must not exist.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn begin(file: &Path, header: &Header) -> Result<RunRecorder, RecordError> {
        Ok(RunRecorder {
            recorder: Some(Recorder::create(file, header)?),
            failure: None,
        })
    }

    /// Whether the recording still goes on.
    pub fn is_recording(&self) -> bool {
        self.recorder.is_some()
    }

    /// Records an event, with the page tables of that moment if there are any, and what was read of memory
    /// beside them.
    pub fn event(&mut self, page: &ProbePage, captured: Option<&Captured>, pieces: &[Piece]) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let capture = captured.map(|captured| Capture {
            snapshot: &captured.snapshot,
            cpus: &captured.cpus,
            reporting_cpu: captured.reporting,
            pieces,
        });
        let result = recorder.record(Some(zerocopy::transmute_ref!(page)), capture);
        self.note(result);
    }

    /// Records how the run ended.
    pub fn end(&mut self, ended: Result<ExitStatus, &RunError>) {
        let end = match ended {
            Ok(ExitStatus(status)) => End::Done { status },
            Err(failure) => End::Failed {
                code: failure.cause().code(),
                message: failure.to_string(),
            },
        };
        if let Some(recorder) = self.recorder.take() {
            let result = recorder.finish(&end);
            self.note(result);
        }
    }

    fn note(&mut self, result: Result<(), RecordError>) {
        if let Err(failure) = result {
            log::debug!("{failure}");
            self.recorder = None;
            self.failure = Some(failure);
        }
    }

    /// Whether everything so far was recorded.
    ///
    /// # Errors
    /// The first [`RecordError`], once.
    pub fn result(&mut self) -> Result<(), RecordError> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

/// A recording of any guest on our machine, taken once, while it is paused. Dropped before that, it leaves no
/// file.
pub struct MachineRecorder(Option<Recorder>);

impl MachineRecorder {
    /// Begins it in a file that must not exist.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn begin(
        file: &Path,
        machine: &dyn VirtualMachine,
        command_line: &str,
    ) -> Result<MachineRecorder, RecordError> {
        let truth = GroundTruth {
            ram: machine_target::ram(machine),
            image: Vec::new(),
        };
        let header = Header {
            command: std::env::args().collect(),
            kernel_command_line: command_line.to_owned(),
            ..Header::new(truth)
        };
        let recorder = Recorder::create(file, &header)?;
        Ok(MachineRecorder(Some(recorder)))
    }

    /// Records the address spaces that were found in it, and ends.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn end(mut self, found: &Discovery) -> Result<(), RecordError> {
        let Some(mut recorder) = self.0.take() else {
            return Ok(());
        };
        let capture = Capture {
            snapshot: &found.snapshot,
            cpus: &found.cpus,
            reporting_cpu: 0,
            pieces: &[],
        };
        recorder.record(None, Some(capture))?;
        recorder.finish(&End::Done { status: 0 })
    }
}

impl Drop for MachineRecorder {
    fn drop(&mut self) {
        if let Some(recorder) = self.0.take() {
            recorder.discard();
        }
    }
}

/// A directory for the recordings of a command that makes many runs.
pub struct RecordingDirectory {
    directory: PathBuf,
    /// The first that went wrong.
    failure: RefCell<Option<RecordError>>,
}

impl RecordingDirectory {
    /// In `directory`, which is made if it does not exist.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(directory: &Path) -> io::Result<RecordingDirectory> {
        fs::create_dir_all(directory)?;
        Ok(RecordingDirectory {
            directory: directory.to_owned(),
            failure: RefCell::default(),
        })
    }

    /// Has `run` recorded to `NAME.rec`. If that fails, the run goes on, and
    /// [`RecordingDirectory::result`] says so.
    pub fn record(&self, run: &mut Run, name: &str) {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        // A file's name has 255 bytes at most; what makes these differ stands in front.
        let name: String = name.chars().map(plain).take(100).collect();
        let file = self.directory.join(format!("{name}.rec"));
        self.note(run.record(&file));
    }

    /// Takes in how the recording of a run that has ended went.
    pub fn note(&self, result: Result<(), RecordError>) {
        if let Err(failure) = result {
            self.failure.borrow_mut().get_or_insert(failure);
        }
    }

    /// Whether all runs were recorded.
    ///
    /// # Errors
    /// The first [`RecordError`], once.
    pub fn result(&self) -> Result<(), RecordError> {
        self.failure.take().map_or(Ok(()), Err)
    }
}
