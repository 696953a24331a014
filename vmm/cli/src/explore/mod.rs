//! `heirloom explore`: writes one HTML file to explore page tables with, of a run, a recording or any
//! guest, and opens it in the browser.

mod image;
mod run;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use heirloom_explorer::{About, Event, Group, Sign, SpaceInfo, Timeline, render};
use heirloom_harness::judge::Judge;
use heirloom_harness::replay::{Replay, Replayed};
use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::{RootLabel, Walk};
use heirloom_source::recording::Recording;
use heirloom_source::{OutputFile, Source, Spec};

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::sandbox::Sandbox;
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
    let browser = options.open.then(|| Browser::waiting_for(path));
    let result = match &options.target {
        None => crate::run::run(&options.run),
        Some(spec) => {
            let page = options.run.force.file("the page", path, &[spec.file()])?;
            let sandbox = Sandbox::of(&[spec]).writing([path]);
            signals::stop_by(|| {})?;
            match spec.source() {
                Source::Recording(recording) if recording.event.is_none() => {
                    sandbox.enter()?;
                    of_recording(&recording.file, &page)
                }
                _ => of_guest(spec, &page, &sandbox),
            }
        }
    };
    if let Some(browser) = browser.filter(|_| path.exists()) {
        browser.open(path)?;
    }
    result
}

/// The page of any guest as it is now.
fn of_guest(spec: &Spec, page: &OutputFile, sandbox: &Sandbox) -> Result<Exit, Failure> {
    let (name, discovery) = inspect::discover(spec, sandbox)?;
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

/// What opens a file in the user's browser, as the desktop does it. In the sandbox no program can be started, so it is
/// started before, and waits.
struct Browser(io::Result<Child>);

impl Browser {
    fn waiting_for(path: &Path) -> Browser {
        const WHEN_TOLD: &str = "read told && exec xdg-open \"$0\"";
        let started = Command::new("sh")
            .args(["-c", WHEN_TOLD])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Browser(started)
    }

    fn open(self, path: &Path) -> Result<(), Failure> {
        /// Of a shell that does not find a program (POSIX, 2.8.2).
        const NOT_FOUND: i32 = 127;
        let ended = self.0.and_then(|mut shell| {
            if let Some(mut input) = shell.stdin.take() {
                input.write_all(b"now\n")?;
            }
            shell.wait()
        });
        let why = match ended {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) if status.code() == Some(NOT_FOUND) => {
                "xdg-open cannot be started: there is none".to_owned()
            }
            Ok(status) => format!("xdg-open failed ({status})"),
            Err(error) => format!("xdg-open cannot be started: {error}"),
        };
        let shown = path.display();
        let what = format!(
            "the page is written, but no browser opened: {why}. Open {shown} in a browser yourself"
        );
        Err(Failure::new(Exit::Usage, what))
    }
}
