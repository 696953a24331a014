//! Where experiments are made: each is a run of the guest program `lecture` on a machine of its own,
//! judged at every event like any other run.

use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use heirloom_abi::bugs::Bug;
use heirloom_abi::options::Strategy;
use heirloom_inspect::Budget;
use heirloom_machine::{Cpus, KernelImage, Platform};
use heirloom_source::recording::RecordError;

use super::picture::Picture;
use super::proof::{ClaimError, missing};
use super::trace::{Observation, Trace};
use crate::cancel::CancelToken;
use crate::grade::honesty;
use crate::recorder::RecordingDirectory;
use crate::run::{Run, Seen};

/// The ring-3 program that has a part in every experiment.
const PROGRAM: &str = "lecture";

/// A run of that program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Experiment {
    pub(crate) strategy: Strategy,
    /// The experiment's name in the program, and its arguments.
    pub(crate) arguments: Vec<String>,
    /// More words for the kernel's command line.
    pub(crate) kernel_words: &'static str,
}

impl Experiment {
    /// `lecture ARGUMENTS…` under `strategy`.
    pub(crate) fn new(strategy: Strategy, arguments: &[&str]) -> Experiment {
        Experiment {
            strategy,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            kernel_words: "",
        }
    }
}

/// Makes experiments, and keeps the traces of those that several claims are judged by.
pub struct Runner {
    host: Box<dyn Platform>,
    kernel: Option<KernelImage>,
    kernel_words: String,
    bug: Option<Bug>,
    cpus: Cpus,
    recordings: Option<RecordingDirectory>,
    cancel: CancelToken,
    /// What the experiments of one claim may take, all together, and when that is over.
    budget: Duration,
    deadline: Instant,
    /// How many experiments were made.
    made: usize,
    /// What the kernel told in them that its tables refute.
    lies: Vec<String>,
    traces: HashMap<Experiment, Rc<Trace>>,
    /// The claim that experiments are made for.
    claim: u8,
    /// Whether a moment of them is kept that shows what it is about …
    pictured: bool,
    /// … and the first such moment.
    picture: Option<Picture>,
}

impl Runner {
    /// On `host`; the experiments of each claim may take `budget` together.
    pub fn new(host: impl Platform + 'static, budget: Duration) -> Runner {
        Runner {
            host: Box::new(host),
            kernel: None,
            kernel_words: String::new(),
            bug: None,
            cpus: Cpus::default(),
            recordings: None,
            cancel: CancelToken::new(),
            budget,
            deadline: Instant::now() + budget,
            made: 0,
            lies: Vec::new(),
            traces: HashMap::new(),
            claim: 0,
            pictured: false,
            picture: None,
        }
    }

    /// With this kernel, which must have a PVH note, instead of the embedded one.
    #[must_use]
    pub fn kernel(self, kernel: Option<KernelImage>) -> Runner {
        Runner { kernel, ..self }
    }

    /// More words for the kernel's command line, in all experiments.
    #[must_use]
    pub fn kernel_words(self, words: &str) -> Runner {
        Runner {
            kernel_words: words.to_owned(),
            ..self
        }
    }

    /// With a kernel that makes this deliberate bug.
    #[must_use]
    pub fn bug(self, bug: Option<Bug>) -> Runner {
        Runner { bug, ..self }
    }

    /// With so many CPUs, so that processes of an experiment are on different ones.
    #[must_use]
    pub fn cpus(self, cpus: Cpus) -> Runner {
        Runner { cpus, ..self }
    }

    /// Every experiment is recorded to a file of its own.
    #[must_use]
    pub fn recordings(self, recordings: Option<RecordingDirectory>) -> Runner {
        Runner { recordings, ..self }
    }

    /// Keeps for each claim a moment that shows what it is about: see [`Runner::take_picture`].
    #[must_use]
    pub fn with_pictures(self) -> Runner {
        Runner {
            pictured: true,
            ..self
        }
    }

    /// The moment that shows the claim that was judged last, once.
    pub fn take_picture(&mut self) -> Option<Picture> {
        self.picture.take()
    }

    /// `cancel` stops the running experiment and all later ones.
    #[must_use]
    pub fn cancelled_by(self, cancel: CancelToken) -> Runner {
        Runner { cancel, ..self }
    }

    /// Whether all experiments were recorded that should be.
    ///
    /// # Errors
    /// The first [`RecordError`], once.
    pub fn recorded(&self) -> Result<(), RecordError> {
        self.recordings
            .as_ref()
            .map_or(Ok(()), RecordingDirectory::result)
    }

    /// What the kernel told in the experiments that its own tables refute, of the first in which it did.
    pub(crate) fn lies(&self) -> &[String] {
        &self.lies
    }

    /// From now on, the experiments of another claim are made.
    pub(crate) fn begin_claim(&mut self, claim: u8) {
        self.claim = claim;
        self.picture = None;
        self.deadline = Instant::now() + self.budget;
    }

    /// Whether the time of this claim is over.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Where the experiments are made.
    pub(crate) fn platform(&self) -> &dyn Platform {
        &*self.host
    }

    /// From the next claim on, its experiments may take so long together.
    pub(crate) fn limit_claims(&mut self, budget: Duration) {
        self.budget = budget;
    }

    /// Whether somebody cancelled the experiments.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// What the experiments of one claim may take.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// What an experiment shows, at every event. It is made when it is first asked for.
    pub(crate) fn trace(&mut self, experiment: &Experiment) -> Result<Rc<Trace>, ClaimError> {
        if let Some(trace) = self.traces.get(experiment) {
            // The time in which it was made may be over: what is looked at now is this claim's.
            let trace = Rc::new(trace.within(&Budget::until(self.deadline)));
            if self.pictured && self.picture.is_none() {
                let mut observations = trace.observations().iter();
                self.picture = observations
                    .find_map(|seen| Picture::observed(self.claim, experiment.strategy, seen));
            }
            return Ok(trace);
        }
        let mut observations = Vec::new();
        let run = self.watch(experiment, |seen| observations.extend(observation(seen)))?;
        let trace = Rc::new(Trace::new(observations, run.judge()));
        self.traces.insert(experiment.clone(), Rc::clone(&trace));
        Ok(trace)
    }

    /// Makes an experiment; `visit` sees each event. The run, which has ended well.
    pub(crate) fn watch(
        &mut self,
        experiment: &Experiment,
        mut visit: impl FnMut(&Seen<'_>),
    ) -> Result<Run, ClaimError> {
        let Experiment {
            strategy,
            arguments,
            kernel_words,
        } = experiment;
        let mut builder = Run::builder(&self.host);
        if let Some(kernel) = &self.kernel {
            builder = builder.kernel(kernel.clone());
        }
        let mut run = builder
            .embedded(PROGRAM, arguments.clone())
            .strategy(*strategy)
            .bug(self.bug)
            .cpus(self.cpus)
            .kernel_words(&format!("{kernel_words} {}", self.kernel_words))
            .console(console())
            .time_limit(self.deadline.saturating_duration_since(Instant::now()))
            .start()?;
        self.cancel.watch(run.interrupter());
        self.made += 1;
        let name = arguments.join("-");
        let name = format!("{:02}-{}-{name}", self.made, strategy.name());
        if let Some(recordings) = &self.recordings {
            recordings.record(&mut run, &name);
        }
        let (claim, pictured) = (self.claim, self.pictured);
        let picture = &mut self.picture;
        let ended = run.to_end(|seen| {
            visit(seen);
            if pictured
                && picture.is_none()
                && let Some(snapshot) = seen.snapshot()
            {
                *picture = Picture::of(claim, *strategy, seen.event, snapshot);
            }
        });
        if self.lies.is_empty() {
            self.lies = honesty::lies(run.judge());
        }
        if let Some(recordings) = &self.recordings {
            recordings.note(run.recorded());
        }
        let status = ended?;
        if !status.is_success() {
            return Err(missing(format!(
                "process 1 of `{PROGRAM} {}` under {} could not do its part ({status})",
                arguments.join(" "),
                strategy.name()
            )));
        }
        Ok(run)
    }
}

/// Where the guest's console goes: to standard error if events are logged, or else nowhere.
fn console() -> Box<dyn Write + Send> {
    if log::log_enabled!(log::Level::Info) {
        Box::new(io::stderr())
    } else {
        Box::new(io::sink())
    }
}

/// All of an event at which page tables were captured.
pub(crate) fn observation(seen: &Seen<'_>) -> Option<Observation> {
    Some(Observation {
        event: seen.event.clone(),
        cr3: seen.cpu()?.cr3.root(),
        snapshot: seen.snapshot()?.clone(),
    })
}
