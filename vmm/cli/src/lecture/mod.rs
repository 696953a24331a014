//! `heirloom lecture`: every claim of the lecture as an experiment on KVM, judged from the host.

mod page;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use heirloom_abi::bugs::Bug;
use heirloom_harness::cancel::CancelToken;
use heirloom_harness::lecture::{Claim, Runner, claims};

use crate::bugs;
use crate::exit::{Exit, Failure};
use crate::kernel;
use crate::machine;
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::signals;
use crate::ui;
use page::Pictures;
use show::Lecture;

const HOUR: u64 = 60 * 60;

/// Options of `heirloom lecture`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this claim.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=claims().len() as i64))]
    claim: Option<u8>,
    /// A deliberate bug for the kernel to make, to see claims fail; `heirloom bugs` lists them.
    #[arg(long, value_name = "BUG", value_parser = bugs::parse)]
    bug: Option<Bug>,
    #[command(flatten)]
    kernel: kernel::Options,
    /// Gives up a claim after so many seconds.
    #[arg(long, value_name = "SECS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=HOUR))]
    timeout: u64,
    /// Records every experiment to a file of its own in this directory; see `heirloom replay`.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Writes the claims as slides to project: one file, which opens from disk.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    force: output::Force,
    #[command(flatten)]
    machine: machine::Options,
    #[command(flatten)]
    cpus: machine::CpuOptions,
}

/// Makes the experiments, and prints each verdict as soon as there is one.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let page = options.html.as_deref();
    let page = page.map(|path| {
        options
            .force
            .file("the page", path, &options.kernel.inputs())
    });
    let page = page.transpose()?;
    let cancel = CancelToken::new();
    let cancelled = cancel.clone();
    signals::stop_by(move || cancelled.cancel())?;
    let cpus = options.cpus.cpus_for(options.bug)?;
    let budget = Duration::from_secs(options.timeout);
    let host = options.machine.platform()?;
    let recordings = output::recordings(options.record.as_deref())?;
    let sandbox = Sandbox::reading(options.kernel.inputs())
        .writing(&options.html)
        .making_files_in(options.record.as_deref());
    options.machine.enter(&sandbox)?;
    let mut runner = Runner::new(host, budget)
        .kernel(options.kernel.image()?)
        .bug(options.bug)
        .cpus(cpus)
        .recordings(recordings)
        .cancelled_by(cancel);
    if page.is_some() {
        runner = runner.with_pictures();
    }
    let chosen: Vec<&Claim> = claims()
        .iter()
        .filter(|claim| options.claim.is_none_or(|only| only == claim.number))
        .collect();
    let progress = Progress::bar(chosen.len() as u64);
    let mut output = Output::new()?;
    let mut results = Vec::new();
    let mut pictures = Pictures::default();
    for claim in chosen {
        progress.tell(|| format!("claim {}", claim.number));
        let result = claim.judge(&mut runner)?;
        if !options.json {
            let columns = usize::from(ui::columns());
            progress.print(&mut output, &show::paragraph(&result, columns))?;
        }
        pictures.keep(claim.number, runner.take_picture());
        results.push(result);
        progress.advance(1);
    }
    drop(progress);
    let lecture = Lecture::new(results);
    if options.json {
        output.line(&output::json(&lecture)?)?;
    } else {
        output.report(&lecture)?;
    }
    if let Some(page) = &page {
        let html = pictures.page(&lecture);
        let html = html.map_err(|error| Failure::new(Exit::Usage, error))?;
        page.write(html.as_bytes())?;
        output::wrote(page.path(), html.len())?;
    }
    for result in lecture.out_of_time() {
        let what = format!(
            "claim {} was not judged: its experiments were not done after {} s; --timeout gives each claim more",
            result.number, options.timeout
        );
        output::complain(&Failure::new(Exit::Guest, what));
    }
    runner.recorded()?;
    if let (true, Some(bug)) = (lecture.holds(), options.bug) {
        bugs::note_not_shown("these claims do", bug)?;
    }
    Ok(if lecture.holds() {
        Exit::Good
    } else if lecture.is_broken() {
        Exit::Broken
    } else {
        Exit::Guest
    })
}
