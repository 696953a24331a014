//! Where experiments are made: each is a run of the guest program `lecture` on a machine of its own,
//! judged at every event like any other run.

use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use heirloom_abi::bugs::Bug;
use heirloom_abi::options::{BUG, Strategy};
use heirloom_inspect::Cr3;
use heirloom_machine::{Host, MemorySize};
use heirloom_source::recording::RecordError;

use super::footage::{Footage, Moment};
use super::proof::{Trouble, missing};
use crate::cancel::CancelToken;
use crate::error::RunError;
use crate::guest;
use crate::session::{Ended, Seen, Session, Setup};
use crate::tape::Tapes;

/// The ring-3 program that has a part in every experiment.
const PROGRAM: &str = "lecture";

/// A run: the strategy, what the program is told, and more words for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Experiment {
    pub(crate) strategy: Strategy,
    /// The experiment's name in the program, and its arguments.
    pub(crate) arguments: Vec<String>,
    pub(crate) words: &'static str,
}

impl Experiment {
    /// `lecture ARGUMENTS…` under `strategy`.
    pub(crate) fn new(strategy: Strategy, arguments: &[&str]) -> Experiment {
        Experiment {
            strategy,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            words: "",
        }
    }
}

/// Makes experiments, and keeps what was seen of those that several claims are judged by.
pub struct Stage {
    host: Host,
    bug: Option<Bug>,
    tapes: Option<Tapes>,
    /// How many experiments were made.
    made: usize,
    deadline: Instant,
    cancel: CancelToken,
    footage: HashMap<Experiment, Rc<Footage>>,
}

impl Stage {
    /// On `host`; all runs together end after `time_limit`.
    pub fn new(
        host: Host,
        bug: Option<Bug>,
        tapes: Option<Tapes>,
        time_limit: Duration,
        cancel: CancelToken,
    ) -> Stage {
        Stage {
            host,
            bug,
            tapes,
            made: 0,
            deadline: Instant::now() + time_limit,
            cancel,
            footage: HashMap::new(),
        }
    }

    /// Whether all experiments were recorded that should be.
    pub fn recorded(&self) -> Result<(), RecordError> {
        self.tapes.as_ref().map_or(Ok(()), Tapes::result)
    }

    /// What an experiment shows, at every event. It is made when it is first asked for.
    pub(crate) fn footage(&mut self, experiment: &Experiment) -> Result<Rc<Footage>, Trouble> {
        if let Some(footage) = self.footage.get(experiment) {
            return Ok(Rc::clone(footage));
        }
        let mut moments = Vec::new();
        let session = self.watch(experiment, |seen| moments.extend(moment(seen)))?;
        let footage = Rc::new(Footage::new(moments, session.judge()));
        self.footage.insert(experiment.clone(), Rc::clone(&footage));
        Ok(footage)
    }

    /// Makes an experiment; `watch` sees it at every event. The run, which has ended well.
    pub(crate) fn watch(
        &mut self,
        experiment: &Experiment,
        watch: impl FnMut(&Seen<'_>),
    ) -> Result<Session, Trouble> {
        let Experiment {
            strategy,
            arguments,
            words,
        } = experiment;
        let bug = self
            .bug
            .map_or_else(String::new, |bug| format!(" {BUG}={}", bug.info().name));
        let setup = Setup {
            memory: MemorySize::MINIMUM,
            kernel: guest::kernel().map_err(RunError::from)?,
            program: None,
            first: PROGRAM.into(),
            arguments: arguments.clone(),
            strategy: *strategy,
            more_words: format!("{words}{bug}"),
            console: console(),
            time_limit: self.deadline.saturating_duration_since(Instant::now()),
        };
        let mut session = Session::new(&self.host, setup)?;
        self.cancel.watch(session.interrupter());
        self.made += 1;
        if let Some(tapes) = &self.tapes {
            let name = format!(
                "{:02}-{}-{}",
                self.made,
                strategy.name(),
                arguments.join("-")
            );
            tapes.record(&mut session, &name, self.bug);
        }
        let ended = session.run(watch);
        if let Some(tapes) = &self.tapes {
            tapes.note(session.recorded());
        }
        let Ended { status } = ended?;
        if status != 0 {
            return Err(missing(format!(
                "process 1 of `{PROGRAM} {}` under {} could not do its part (status {status:#x})",
                arguments.join(" "),
                strategy.name()
            )));
        }
        Ok(session)
    }
}

/// Where the guest's console goes: nowhere, unless somebody wants to know what happens.
fn console() -> Box<dyn Write + Send> {
    if log::log_enabled!(log::Level::Info) {
        Box::new(io::stderr())
    } else {
        Box::new(io::sink())
    }
}

/// What is kept of an event: all of it.
pub(crate) fn moment(seen: &Seen<'_>) -> Option<Moment> {
    Some(Moment {
        told: seen.told.clone(),
        cr3: Cr3::new(seen.machine.registers().ok()?.cr3).root(),
        snapshot: seen.judge.snapshot()?.clone(),
        at: Instant::now(),
    })
}
