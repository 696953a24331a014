//! `heirloom replay`: the events of a recording, one by one, and the verdict on them, from the recorded
//! tables alone.

mod event;
mod list;

use std::path::PathBuf;

use heirloom_harness::error::Cause;
use heirloom_harness::judge::Judge;
use heirloom_harness::replay::{Replay, Replayed};
use heirloom_harness::report::Report;
use heirloom_harness::run::ExitStatus;
use heirloom_source::recording::{End, Ending, Recording};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::run::outcome;
use crate::sandbox::Sandbox;
use crate::text::Shown;
use event::Event;
use list::{List, Row};

/// Version of the JSON form; grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// Options of `heirloom replay`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A recording, made with `--record`; it may still grow.
    file: PathBuf,
    /// Shows this event alone, with every page-table entry that changed.
    #[arg(long, value_name = "N")]
    event: Option<u64>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Lists the events and judges them.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    Sandbox::reading([&options.file]).enter()?;
    let recording = Recording::open(&options.file).map_err(unusable)?;
    let mut output = Output::new()?;
    if let Some(number) = options.event {
        let event = Event::of(&recording, number).map_err(unusable)?;
        output.line(&if options.json {
            output::json(&event)?
        } else {
            event.to_string()
        })?;
        return Ok(Exit::Good);
    }
    let mut list = List::default();
    let mut replay = Replay::of(&recording).map_err(unusable)?;
    let mut unread = None;
    let mut before = None;
    loop {
        let Replayed { moment, event } = match replay.next_event() {
            Ok(Some(replayed)) => replayed,
            Ok(None) => break,
            Err(error) => {
                unread = Some(unusable(error));
                break;
            }
        };
        list.push(Row::of(&moment, event.as_ref(), before.as_ref()));
        before = moment.tables.map(|tables| tables.snapshot).or(before);
    }
    let judge = replay.judge();
    let report = judge.and_then(Judge::report);
    if options.json {
        let document = Document {
            version: VERSION,
            producer: &recording.header().producer,
            command: &recording.header().command,
            bug: recording.header().bug.as_deref(),
            ending: recording.ending().to_string(),
            events: &list,
            report: report.as_ref(),
        };
        output.line(&output::json(&document)?)?;
    } else {
        let report = report.map_or_else(String::new, |report| format!("\n\n{}", Shown(&report)));
        output.report(&format!("{}\n{list}{report}", introduction(&recording)))?;
    }
    match unread {
        Some(failure) => Err(failure),
        None => exit(&recording, judge),
    }
}

/// The exit code of the run, had it been judged by what was recorded.
pub(crate) fn exit(recording: &Recording, judge: Option<&Judge>) -> Result<Exit, Failure> {
    let exit = match recording.ending() {
        Ending::Ended(End::Done { status }) => {
            return outcome(judge, ExitStatus(*status));
        }
        Ending::Ended(End::Failed { code, message }) => {
            return Err(Failure::new(Cause::of_code(*code).into(), message));
        }
        Ending::Unfinished => Exit::Guest,
        Ending::Cut { .. } | Ending::Damaged { .. } => Exit::Usage,
    };
    let what = format!(
        "{}: {}; what comes before it is there",
        recording.name().display(),
        recording.ending()
    );
    Err(Failure::new(exit, what))
}

fn introduction(recording: &Recording) -> String {
    let header = recording.header();
    format!(
        "recorded by {}: {}\n{}; {}\n",
        header.producer,
        header.command.join(" "),
        match recording.len() {
            1 => "1 moment".to_owned(),
            moments => format!("{moments} moments"),
        },
        recording.ending()
    )
}

fn unusable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, error)
}

/// All of it as JSON.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    /// What wrote the recording.
    producer: &'a str,
    command: &'a [String],
    bug: Option<&'a str>,
    /// How the recording ends, in words.
    ending: String,
    events: &'a List,
    /// As `heirloom run --json` has it; `None` if nothing was judged.
    report: Option<&'a Report>,
}
