//! `heirloom explore`: writes one HTML file to explore page tables with, of a run, a recording or any
//! guest, and opens it in the browser.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use heirloom_explorer::{
    About, Described, Event, Family, Group, Kind, Story, event_of, regions_of_our_layout, render,
    story_of,
};
use heirloom_inspect::Trial;
use heirloom_inspect::check::{Check, Strictness};
use heirloom_inspect::judge::{Expectation, Judge, Told};
use heirloom_inspect::show::Report;
use heirloom_source::recording::Recording;
use heirloom_source::{Source, Spec};

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::{inspect, replay, run, ui};

/// What `heirloom explore` is told.
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
    run: run::Options,
}

/// Writes the page, and opens it.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let Some(path) = &options.run.html else {
        let what = "explore writes a page: say where to, as in --html page.html";
        return Err(Failure::new(Exit::Usage, what));
    };
    let result = match &options.target {
        None => run::run(&options.run),
        Some(spec) => match spec.source() {
            Source::Recording(recording) if recording.event.is_none() => {
                of_recording(&recording.file, path)
            }
            _ => of_guest(spec, path),
        },
    };
    if options.open && path.exists() {
        open(path)?;
    }
    result
}

/// The page of any guest as it is now.
fn of_guest(spec: &Spec, path: &Path) -> Result<Exit, Failure> {
    let (name, discovery) = inspect::discover(spec)?;
    let check = Check::of(&discovery, Strictness::default());
    write(story_of(&name, &discovery, &check), path)?;
    Ok(if check.holds {
        Exit::Good
    } else {
        Exit::Broken
    })
}

/// The page of a whole recording. What cannot be read of it is said when the rest is written.
fn of_recording(file: &Path, path: &Path) -> Result<Exit, Failure> {
    let unusable = |error| Failure::new(Exit::Usage, error);
    let recording = Recording::open(file).map_err(unusable)?;
    let header = recording.header();
    let mut trial = replay::expectation(&recording)?.map(|expectation| {
        (
            Trial::new(header.truth.clone(), expectation),
            Teller::new(expectation),
        )
    });
    let mut plain = Story::new(
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
    for moment in recording.moments() {
        let moment = match moment {
            Ok(moment) => moment,
            Err(error) => {
                unread = Some(unusable(error));
                break;
            }
        };
        let told = match replay::told(&recording, &moment) {
            Ok(told) => told,
            Err(error) => {
                unread = Some(unusable(error));
                break;
            }
        };
        match (&mut trial, &told, &moment.tables) {
            (Some((trial, teller)), Some(told), _) => {
                replay::judge(trial, told, &moment);
                teller.tell(told, trial.judge());
            }
            (None, _, Some(tables)) => {
                let event = Event::new(moment.number, Kind::Found, "captured");
                plain.moment(&tables.snapshot, event, |root| Described {
                    name: root.label.to_string(),
                    set: Some(0),
                    ..Described::default()
                });
            }
            _ => {}
        }
    }
    let (trial, story) = match trial {
        None => (None, plain),
        Some((trial, teller)) => {
            let story = match trial.report() {
                Some(report) => teller.end(&report),
                None => teller.story,
            };
            (Some(trial), story)
        }
    };
    write(story, path)?;
    match unread {
        Some(failure) => Err(failure),
        None => replay::exit(&recording, trial.as_ref()),
    }
}

/// Tells the story of a judged run, event by event.
pub(crate) struct Teller {
    story: Story,
    family: Family,
}

impl Teller {
    /// Before the first event.
    pub(crate) fn new(expectation: Expectation) -> Teller {
        let family = Family::new(expectation);
        let about = About {
            title: format!("propagation={}", expectation.strategy.name()),
            regions: regions_of_our_layout(),
            ..About::default()
        };
        Teller {
            story: Story::new(about, family.groups()),
            family,
        }
    }

    /// Adds an event that was judged.
    pub(crate) fn tell(&mut self, told: &Told, judge: &Judge) {
        // A kernel that never came up has no tables to show.
        let Some(snapshot) = judge.snapshot() else {
            return;
        };
        self.story.moment(snapshot, event_of(told), |root| {
            self.family.describe(judge.world(), root)
        });
        self.story.verdicts(judge.verdicts());
    }

    /// The whole story, with its verdict; it opens at the moment that the report shows in full.
    pub(crate) fn end(mut self, report: &Report) -> Story {
        let about = self.story.about_mut();
        about.verdict = report.verdict();
        about.holds = Some(report.holds);
        self.story.start_at(report.shown_event);
        self.story
    }
}

/// Renders a story to a file, and says so on standard error.
pub(crate) fn write(story: Story, path: &Path) -> Result<(), Failure> {
    let moments = story.moments();
    let (tables, contents) = story.table_counts();
    let page = render(story).map_err(|error| Failure::new(Exit::Usage, error))?;
    fs::write(path, &page).map_err(|error| {
        let what = format!("could not write the page {}: {error}", path.display());
        Failure::new(Exit::Usage, what)
    })?;
    let of_events = match moments {
        1 => format!("{tables} tables"),
        events => format!("{events} events, {contents} contents of tables"),
    };
    let (shown, kib) = (path.display(), page.len().div_ceil(1024));
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
