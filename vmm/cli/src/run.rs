//! `heirloom run`: boots the guest, judges it at every event, and shows what was found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use heirloom_abi::bugs::Bug;
use heirloom_abi::options::Strategy;
use heirloom_harness::judge::Judge;
use heirloom_harness::program;
use heirloom_harness::run::{ExitStatus, Run};
use heirloom_inspect::rules::GIVEN_UP;
use heirloom_machine::{Cpus, KernelImage, MemorySize, Platform};

use crate::bugs;
use crate::debugger;
use crate::exit::{Exit, Failure, unrecorded};
use crate::explore::{self, RunTimeline};
use crate::machine;
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::signals;
use crate::text::Shown;

const YEAR: u64 = 365 * 24 * 60 * 60;
/// As many processes as the kernel's table holds, less a margin for orphans not yet waited for.
const MAX_PROCESSES: u64 = 2000;

/// Options of `heirloom run`.
#[derive(clap::Args)]
// `explore` takes it into itself, and clap wants the names of groups to differ.
#[group(skip)]
pub(crate) struct Options {
    /// How a kernel mapping reaches every process; `prealloc` unless given, or what a deliberate bug is made
    /// under.
    #[arg(long, value_name = "STRATEGY", value_parser = strategies())]
    propagation: Option<Strategy>,
    /// A deliberate bug for the kernel to make, by its name; `heirloom bugs` lists them. Propagation, CPUs and
    /// first program are those that it shows with, unless they are given.
    #[arg(long, value_name = "BUG", value_parser = bugs::parse)]
    bug: Option<Bug>,
    /// Processes that live at one time in the default scenario; 8 unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(8..=MAX_PROCESSES))]
    processes: Option<u64>,
    /// The guest's memory, such as 64M (the least), 512M or 6G.
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    memory: MemorySize,
    /// Boots this kernel (an ELF with a PVH note) instead of the embedded one.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Runs this ring-3 ELF (static, x86-64) as the first process instead of the default scenario.
    #[arg(long, value_name = "FILE", conflicts_with = "processes")]
    program: Option<PathBuf>,
    /// Stops the guest after so many seconds; 60 unless given, and with more than 200 processes in
    /// proportion more.
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    timeout: Option<u64>,
    /// Prints the report as JSON; the guest's console goes to standard error.
    #[arg(long)]
    json: bool,
    /// Writes what happened as a page to explore with a browser: one file, which opens from disk.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Records every event with its page tables, to a new file. See `heirloom replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Shows the guest's console as it is, control sequences included. Whoever wrote the guest can then do with
    /// the terminal what it can do.
    #[arg(long)]
    raw_console: bool,
    #[command(flatten)]
    pub(crate) force: output::Force,
    #[command(flatten)]
    machine: machine::Options,
    #[command(flatten)]
    cpus: machine::CpuOptions,
    #[command(flatten)]
    debugger: debugger::Options,
    /// More words for the kernel's command line.
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    cmdline: String,
    /// Arguments of the first program, when `--program` names it.
    #[arg(last = true, value_name = "ARGUMENTS", requires = "program")]
    arguments: Vec<String>,
}

/// Strategies by their names, each with what it does.
fn strategies() -> impl TypedValueParser<Value = Strategy> {
    PossibleValuesParser::new(Strategy::ALL.map(|strategy| {
        let info = strategy.info();
        PossibleValue::new(info.name).help(info.does)
    }))
    .map(|name| Strategy::from_name(&name).unwrap_or(Strategy::DEFAULT))
}

/// Boots the guest, follows it to its end, and prints the report.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let inputs = [&options.kernel, &options.program];
    let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
    let page = options.html.as_deref();
    let page = page.map(|path| options.force.file("the page", path, &inputs));
    let page = page.transpose()?;
    let cpus = options.cpus.cpus_for(options.bug)?;
    let host = options.debugger.platform(&options.machine)?;
    let sandbox = Sandbox::reading(&inputs).writing(options.html.iter().chain(&options.record));
    options.machine.enter(&sandbox)?;
    let mut progress = Progress::spinner();
    let mut run = start(&host, options, cpus, &mut progress)?;
    sandbox.with_child().enter()?;
    if let Some(file) = &options.record {
        options.force.recording(file, &inputs)?;
        run.record(file).map_err(unrecorded)?;
    }
    let interrupter = run.interrupter();
    let budget = run.budget().clone();
    signals::stop_by(move || {
        interrupter.interrupt();
        budget.cancel();
    })?;
    let mut timeline = page
        .as_ref()
        .map(|_| RunTimeline::new(run.judge().model().expectation()));
    let ended = run.to_end(|seen| {
        progress.tell(|| {
            let world = seen.judge.model();
            let (events, alive) = (world.events(), world.live_count());
            format!("{events} events judged, {alive} processes alive")
        });
        if let Some(timeline) = &mut timeline {
            timeline.event(seen.event, seen.judge);
        }
    });
    drop(progress);
    // A guest that crashed was judged until then.
    let report = run.report();
    if let Some(report) = &report {
        let mut output = Output::new()?;
        if options.json {
            output.line(&output::json(report)?)?;
        } else {
            output.report(&Shown(report))?;
        }
    }
    if let (Some(timeline), Some(page), Some(report)) = (timeline, &page, &report) {
        explore::write(timeline.judged(report), page)?;
    }
    let exit = ended
        .map_err(Failure::from)
        .and_then(|status| outcome(Some(run.judge()), status));
    if let (Ok(Exit::Good), Some(bug)) = (&exit, options.bug) {
        bugs::note_not_shown("this run does", bug)?;
    }
    match run.recorded() {
        Ok(()) => exit,
        Err(unrecorded) => {
            if let Err(failure) = exit {
                output::complain(&failure);
            }
            Err(unrecorded.into())
        }
    }
}

/// What a run that came to its end comes to: whether all rules hold, where it was judged, and the first
/// program's status.
pub(crate) fn outcome(judge: Option<&Judge>, status: ExitStatus) -> Result<Exit, Failure> {
    if judge.is_some_and(Judge::is_given_up) {
        let what = format!("not all rules could be tried: {GIVEN_UP}");
        return Err(Failure::new(Exit::Guest, what));
    }
    if !judge.is_none_or(Judge::all_hold) {
        return Ok(Exit::Broken);
    }
    if status.is_success() {
        return Ok(Exit::Good);
    }
    Err(Failure::new(
        Exit::Guest,
        format!("the rules hold, but the first program ended with {status}"),
    ))
}

fn start(
    host: &dyn Platform,
    options: &Options,
    cpus: Cpus,
    progress: &mut Progress,
) -> Result<Run, Failure> {
    let console = if options.json {
        Output::standard_error()?
    } else {
        Output::new()?
    };
    let mut run = Run::builder(host);
    if let Some(bug) = options.bug {
        run = run.showing(bug);
    }
    if let Some(strategy) = options.propagation {
        run = run.strategy(strategy);
    }
    if let Some(processes) = options.processes {
        run = run.processes(processes);
    }
    run = run
        .memory(options.memory)
        .cpus(cpus)
        .kernel_words(&options.cmdline);
    if let Some(path) = &options.kernel {
        let kernel = KernelImage::read(path).and_then(KernelImage::require_pvh);
        run = run.kernel(kernel.map_err(|error| Failure::new(Exit::Usage, error))?);
    }
    if let Some(path) = &options.program {
        run = run.program(program::read(path)?, options.arguments.clone());
    }
    if let Some(seconds) = options.timeout {
        run = run.time_limit(Duration::from_secs(seconds));
    }
    Ok(run
        .console(progress.console(console, options.raw_console))
        .start()?)
}
