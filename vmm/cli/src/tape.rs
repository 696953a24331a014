//! Recording of runs: one file for each. A recording that cannot go on does not stop its run; the
//! command says so at its end.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use heirloom_abi::bugs::Bug;
use heirloom_abi::event::ProbePage;
use heirloom_inspect::judge::{GroundTruth, Judge, Told};
use heirloom_inspect::recording::{Capture, End, Header, RecordError, Recorder, Witness};
use heirloom_inspect::{CpuState, Discovery, PhysicalMemory, Snapshot};
use heirloom_machine::Machine;

use crate::exit::{Exit, Failure};
use crate::machine_target;
use crate::session::{Ended, Session};

/// A recording in the making.
pub(crate) struct Tape {
    /// `None` once it is ended or has failed.
    recorder: Option<Recorder>,
    failure: Option<RecordError>,
}

impl Tape {
    /// Begins a recording in a file that must not exist.
    pub(crate) fn begin(file: &Path, header: &Header) -> Result<Tape, RecordError> {
        Ok(Tape {
            recorder: Some(Recorder::create(file, header)?),
            failure: None,
        })
    }

    /// Records an event, with the tables of that moment and what `judge` looks at in memory.
    pub(crate) fn event<M: PhysicalMemory + ?Sized>(
        &mut self,
        page: &ProbePage,
        told: &Told,
        captured: Option<&(CpuState, Snapshot)>,
        judge: &Judge,
        memory: &M,
    ) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let result = match captured {
            None => recorder.record(Some(page), None),
            Some((cpu, snapshot)) => {
                let witness = Witness::new(memory);
                judge.accessed_value(told, snapshot, &witness);
                let capture = Capture {
                    snapshot,
                    cpus: std::slice::from_ref(cpu),
                    teller: 0,
                    pieces: &witness.into_pieces(),
                };
                recorder.record(Some(page), Some(capture))
            }
        };
        self.note(result);
    }

    /// Records how the run ended.
    pub(crate) fn end(&mut self, ended: &Result<Ended, Failure>) {
        let end = match ended {
            Ok(Ended { status }) => End::Done { status: *status },
            Err(failure) => End::Failed {
                code: failure.exit as u8,
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
    pub(crate) fn result(&self) -> Result<(), Failure> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(Failure::new(Exit::Usage, failure)),
        }
    }
}

/// Begins the recording of a guest that is looked at once, when it stands still.
pub(crate) fn begin_boot(
    file: &Path,
    machine: &Machine,
    command_line: &str,
) -> Result<Recorder, Failure> {
    let truth = GroundTruth {
        ram: machine_target::ram(machine),
        image: Vec::new(),
    };
    let header = Header {
        command: std::env::args().collect(),
        kernel_command_line: command_line.to_owned(),
        ..Header::new(truth)
    };
    Recorder::create(file, &header).map_err(|error| Failure::new(Exit::Usage, error))
}

/// Records the address spaces that were found in it.
pub(crate) fn end_boot(mut recorder: Recorder, found: &Discovery) -> Result<(), Failure> {
    let capture = Capture {
        snapshot: &found.snapshot,
        cpus: &found.cpus,
        teller: 0,
        pieces: &[],
    };
    recorder
        .record(None, Some(capture))
        .and_then(|()| recorder.finish(&End::Done { status: 0 }))
        .map_err(|error| Failure::new(Exit::Usage, error))
}

/// A directory for the recordings of a command that makes many runs.
pub(crate) struct Tapes {
    directory: PathBuf,
    /// The first that went wrong.
    failure: RefCell<Option<Failure>>,
}

impl Tapes {
    /// In `directory`, which is made if it does not exist.
    pub(crate) fn new(directory: &Path) -> Result<Tapes, Failure> {
        fs::create_dir_all(directory).map_err(|error| {
            let what = format!(
                "could not make the directory {}: {error}",
                directory.display()
            );
            Failure::new(Exit::Usage, what)
        })?;
        Ok(Tapes {
            directory: directory.to_owned(),
            failure: RefCell::default(),
        })
    }

    /// Has `session` recorded to `NAME.rec`.
    pub(crate) fn record(&self, session: &mut Session, name: &str, bug: Option<Bug>) {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        // A file's name has 255 bytes at most; what makes these differ stands in front.
        let name: String = name.chars().map(plain).take(100).collect();
        let file = self.directory.join(format!("{name}.rec"));
        let begun = session.record(&file, bug);
        self.note(begun.map_err(|error| Failure::new(Exit::Usage, error)));
    }

    /// Takes in how the recording of a session that has ended went.
    pub(crate) fn note(&self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.failure.borrow_mut().get_or_insert(failure);
        }
    }

    /// Whether all runs were recorded; a command says so when it has said everything else.
    pub(crate) fn result(&self) -> Result<(), Failure> {
        self.failure.take().map_or(Ok(()), Err)
    }
}
