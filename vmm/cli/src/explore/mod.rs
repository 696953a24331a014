//! `heirloom explore`: writes one HTML file to explore page tables with, of a run, a recording or any
//! guest, and opens it in the browser.

mod image;
mod run;

use std::path::Path;
use std::process::{Command, Stdio};

use heirloom_explorer::{About, Event, Group, Sign, SpaceInfo, Timeline, render};
use heirloom_harness::judge::Judge;
use heirloom_harness::replay::{Replay, Replayed};
use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::{RootLabel, Walk};
use heirloom_source::recording::Recording;
use heirloom_source::{OutputFile, Source, Spec};

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::{inspect, replay, signals, ui};

pub(crate) use run::RunTimeline;

/// Options of `heirloom explore`.
#[derive(clap::Args)]
#[command(after_help = inspect::TARGETS)]
#[group(id = "explore")]
pub(crate) struct Options {
    /// What to explore, such as rec:FILE (all of its events), rec:FILE@N, core:FILE or qemu:SOCKET;
    /// without it the guest is booted, as `heirloom run` does with the same options.
    #[arg(value_name = "TARGET", conflicts_with_all = [
        "propagation", "bug", "processes", "memory", "kernel", "program", "timeout", "json", "record",
        "device", "cmdline", "arguments",
    ])]
    target: Option<Spec>,
    /// Opens the page in the browser.
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    run: crate::run::Options,
}

/// Writes the page, and opens it.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let Some(path) = &options.run.html else {
        let what = "explore writes a page: say where to, as in --html page.html";
        return Err(Failure::new(Exit::Usage, what));
    };
    let result = match &options.target {
        None => crate::run::run(&options.run),
        Some(spec) => {
            let page = options.run.force.file("the page", path, &[spec.file()])?;
            signals::stop_by(|| {})?;
            match spec.source() {
                Source::Recording(recording) if recording.event.is_none() => {
                    of_recording(&recording.file, &page)
                }
                _ => of_guest(spec, &page),
            }
        }
    };
    if options.open && path.exists() {
        open(path)?;
    }
    result
}

/// The page of any guest as it is now.
fn of_guest(spec: &Spec, page: &OutputFile) -> Result<Exit, Failure> {
    let (name, discovery) = inspect::discover(spec)?;
    let check = Check::of(&discovery, Strictness::default());
    write(image::timeline_of(&name, &discovery, &check), page)?;
    inspect::verdict(&name, &check)
}

/// The page of a whole recording. What cannot be read of it is said when the rest is written.
fn of_recording(file: &Path, page: &OutputFile) -> Result<Exit, Failure> {
    let recording = Recording::open(file).map_err(unusable)?;
    let mut replay = Replay::of(&recording).map_err(unusable)?;
    let mut timeline = replay
        .judge()
        .map(|judge| RunTimeline::new(judge.model().expectation()));
    let mut plain = Timeline::new(
        About {
            title: format!("rec:{}", file.display()),
            ..About::default()
        },
        vec![Group {
            name: "recorded roots".into(),
            note: String::new(),
        }],
    );
    let mut unread = None;
    loop {
        let Replayed { moment, event } = match replay.next_event() {
            Ok(Some(replayed)) => replayed,
            Ok(None) => break,
            Err(error) => {
                unread = Some(unusable(error));
                break;
            }
        };
        match (&mut timeline, replay.judge(), &event, &moment.tables) {
            (Some(timeline), Some(judge), Some(event), _) => timeline.event(event, judge),
            (None, _, _, Some(tables)) => {
                let event = Event::new(moment.number, Sign::Found, "captured");
                plain.moment(&tables.snapshot, event, |root| SpaceInfo {
                    name: root.label.to_string(),
                    set: Some(0),
                    ..SpaceInfo::default()
                });
            }
            _ => {}
        }
    }
    let judge = replay.judge();
    let timeline = match (timeline, judge.and_then(Judge::report)) {
        (None, _) => plain,
        (Some(timeline), Some(report)) => timeline.judged(&report),
        (Some(timeline), None) => timeline.unjudged(),
    };
    write(timeline, page)?;
    match unread {
        Some(failure) => Err(failure),
        None => replay::exit(&recording, judge),
    }
}

fn unusable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, error)
}

/// The walks that show a finding, as text.
fn walks_as_text(walks: &[(RootLabel, Walk)]) -> Vec<String> {
    walks
        .iter()
        .map(|(whose, walk)| format!("{whose}: {walk}"))
        .collect()
}

/// Renders a timeline to a file, and says so on standard error.
pub(crate) fn write(timeline: Timeline, file: &OutputFile) -> Result<(), Failure> {
    let moments = timeline.moments();
    let (tables, contents) = timeline.table_counts();
    let page = render(timeline).map_err(unusable)?;
    file.write(page.as_bytes())?;
    let of_events = match moments {
        1 => format!("{tables} tables"),
        events => format!("{events} events, {contents} contents of tables"),
    };
    let (shown, kib) = (file.path().display(), page.len().div_ceil(1024));
    if ui::quiet() {
        return Ok(());
    }
    Output::standard_error()?.line(&format!("wrote {shown}: {of_events}, {kib} KiB"))
}

/// Opens a file in the user's browser, as the desktop does it.
fn open(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let opened = Command::new("xdg-open")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let why = match opened {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("xdg-open failed ({status})"),
        Err(error) => format!("xdg-open cannot be started: {error}"),
    };
    let what = format!(
        "the page is written, but no browser opened: {why}. Open {shown} in a browser yourself"
    );
    Err(Failure::new(Exit::Usage, what))
}
