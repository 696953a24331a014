//! Recording of runs: one file for each. A recording that cannot go on does not stop its run; the
//! command says so at its end.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::{fs, io};

use heirloom_abi::bugs::Bug;
use heirloom_abi::event::ProbePage;
use heirloom_inspect::judge::{GroundTruth, Told};
use heirloom_inspect::{CpuState, Discovery, PhysicalMemory, Snapshot};
use heirloom_machine::Machine;
use heirloom_source::recording::{Capture, End, Header, ReadLog, RecordError, Recorder};

use crate::error::RunError;
use crate::judge::Judge;
use crate::machine_target;
use crate::session::{Ended, Session};

/// A recording in the making.
pub struct Tape {
    /// `None` once it is ended or has failed.
    recorder: Option<Recorder>,
    failure: Option<RecordError>,
}

impl Tape {
    /// Begins a recording in a file that must not exist.
    pub fn begin(file: &Path, header: &Header) -> Result<Tape, RecordError> {
        Ok(Tape {
            recorder: Some(Recorder::create(file, header)?),
            failure: None,
        })
    }

    /// Records an event, with the tables of that moment and what `judge` looks at in memory.
    pub fn event<M: PhysicalMemory + ?Sized>(
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
        let page = Some(zerocopy::transmute_ref!(page));
        let result = match captured {
            None => recorder.record(page, None),
            Some((cpu, snapshot)) => {
                let log = ReadLog::new(memory);
                judge.accessed_value(told, snapshot, &log);
                let capture = Capture {
                    snapshot,
                    cpus: std::slice::from_ref(cpu),
                    reporting_cpu: 0,
                    pieces: &log.into_pieces(),
                };
                recorder.record(page, Some(capture))
            }
        };
        self.note(result);
    }

    /// Records how the run ended.
    pub fn end(&mut self, ended: &Result<Ended, RunError>) {
        let end = match ended {
            Ok(Ended { status }) => End::Done { status: *status },
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
    pub fn result(&mut self) -> Result<(), RecordError> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

/// Begins the recording of a guest that is looked at once, when it stands still.
pub fn begin_boot(
    file: &Path,
    machine: &Machine,
    command_line: &str,
) -> Result<Recorder, RecordError> {
    let truth = GroundTruth {
        ram: machine_target::ram(machine),
        image: Vec::new(),
    };
    let header = Header {
        command: std::env::args().collect(),
        kernel_command_line: command_line.to_owned(),
        ..Header::new(truth)
    };
    Recorder::create(file, &header)
}

/// Records the address spaces that were found in it.
pub fn end_boot(mut recorder: Recorder, found: &Discovery) -> Result<(), RecordError> {
    let capture = Capture {
        snapshot: &found.snapshot,
        cpus: &found.cpus,
        reporting_cpu: 0,
        pieces: &[],
    };
    recorder
        .record(None, Some(capture))
        .and_then(|()| recorder.finish(&End::Done { status: 0 }))
}

/// A directory for the recordings of a command that makes many runs.
pub struct Tapes {
    directory: PathBuf,
    /// The first that went wrong.
    failure: RefCell<Option<RecordError>>,
}

impl Tapes {
    /// In `directory`, which is made if it does not exist.
    pub fn new(directory: &Path) -> io::Result<Tapes> {
        fs::create_dir_all(directory)?;
        Ok(Tapes {
            directory: directory.to_owned(),
            failure: RefCell::default(),
        })
    }

    /// Has `session` recorded to `NAME.rec`.
    pub fn record(&self, session: &mut Session, name: &str, bug: Option<Bug>) {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        // A file's name has 255 bytes at most; what makes these differ stands in front.
        let name: String = name.chars().map(plain).take(100).collect();
        let file = self.directory.join(format!("{name}.rec"));
        let begun = session.record(&file, bug);
        self.note(begun);
    }

    /// Takes in how the recording of a session that has ended went.
    pub fn note(&self, result: Result<(), RecordError>) {
        if let Err(failure) = result {
            self.failure.borrow_mut().get_or_insert(failure);
        }
    }

    /// Whether all runs were recorded; a command says so when it has said everything else.
    pub fn result(&self) -> Result<(), RecordError> {
        self.failure.take().map_or(Ok(()), Err)
    }
}
