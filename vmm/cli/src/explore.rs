//! `heirloom explore`: writes one HTML file to explore page tables with, of a run, a recording or any
//! guest, and opens it in the browser.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use heirloom_explorer::{About, Described, Story, event_of, family, regions_of_our_layout, render};
use heirloom_inspect::Root;
use heirloom_inspect::judge::{Expectation, Judge, Told, World};
use heirloom_inspect::show::Report;

use crate::exit::{Exit, Failure};
use crate::run;

/// What `heirloom explore` is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Opens the page in the browser.
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    run: run::Options,
}

/// Writes the page, and opens it.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let Some(path) = &options.run.html else {
        return Err(Failure::new(
            Exit::Usage,
            "where to? Name the page: --html FILE",
        ));
    };
    let exit = run::run(&options.run)?;
    if options.open {
        open(path)?;
    }
    Ok(exit)
}

/// Tells the story of a judged run, event by event.
pub(crate) struct Teller {
    story: Story,
    describe: Box<dyn Fn(&World, &Root) -> Described>,
}

impl Teller {
    /// Before the first event.
    pub(crate) fn new(expectation: Expectation) -> Teller {
        let (groups, describe) = family(expectation);
        let about = About {
            title: format!("propagation={}", expectation.strategy.name()),
            regions: regions_of_our_layout(),
            ..About::default()
        };
        Teller {
            story: Story::new(about, groups),
            describe: Box::new(describe),
        }
    }

    /// Adds an event that was judged.
    pub(crate) fn tell(&mut self, told: &Told, judge: &Judge) {
        // A kernel that never came up has no tables to show.
        let Some(snapshot) = judge.snapshot() else {
            return;
        };
        self.story.moment(snapshot, event_of(told), |root| {
            (self.describe)(judge.world(), root)
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

/// Renders a story to a file.
pub(crate) fn write(story: Story, path: &Path) -> Result<(), Failure> {
    let page = render(story).map_err(|error| Failure::new(Exit::Usage, error))?;
    fs::write(path, &page).map_err(|error| {
        let what = format!("could not write the page {}: {error}", path.display());
        Failure::new(Exit::Usage, what)
    })
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
