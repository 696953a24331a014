//! `heirloom run`: boots the guest, judges it at every event, and shows what was found.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use heirloom_abi::bugs::Bug;
use heirloom_abi::options::{self as words, Strategy};
use heirloom_harness::session::{Ended, FIRST_PROGRAM, Session, Setup};
use heirloom_harness::{guest, program};
use heirloom_machine::kvm::DEVICE;
use heirloom_machine::{Host, KernelImage, MemorySize};

use crate::exit::{Exit, Failure};
use crate::explore::{self, RunTimeline};
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::text::Shown;

const YEAR: u64 = 365 * 24 * 60 * 60;
/// As many processes as the kernel's table holds, less a margin for orphans not yet waited for.
const MOST_PROCESSES: u64 = 2000;

/// What `heirloom run` is told.
#[derive(clap::Args)]
// `explore` takes it into itself, and clap wants the names of groups to differ.
#[group(skip)]
pub(crate) struct Options {
    /// How a kernel mapping reaches every process.
    #[arg(long, value_name = "STRATEGY", default_value = Strategy::DEFAULT.name(), value_parser = strategies())]
    propagation: Strategy,
    /// A deliberate bug for the kernel to make, by its name; `heirloom bugs` lists them.
    #[arg(long, value_name = "BUG", value_parser = crate::bugs::parse)]
    bug: Option<Bug>,
    /// Processes that live at one time in the default scenario.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(8..=MOST_PROCESSES))]
    processes: u64,
    /// The guest's memory, such as 64M (the least), 512M or 6G.
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    memory: MemorySize,
    /// Boots this kernel (an ELF with a PVH note) instead of the embedded one.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Runs this ring-3 ELF (static, x86-64) as the first process instead of the default scenario.
    #[arg(long, value_name = "FILE", conflicts_with = "processes")]
    program: Option<PathBuf>,
    /// Stops the guest after so many seconds.
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    timeout: u64,
    /// Prints the report as JSON; the guest's console goes to standard error.
    #[arg(long)]
    json: bool,
    /// Writes what happened as a page to explore with a browser: one file, which opens from disk.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Records every event with its page tables; the file must not exist. See `heirloom replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// KVM's device, where it is not in its usual place.
    #[arg(long, value_name = "PATH", default_value = DEVICE)]
    device: PathBuf,
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
    let page = options.html.as_deref().map(explore::page_at).transpose()?;
    let host = Host::open_at(&options.device)?;
    let mut progress = Progress::spinner();
    let mut session = Session::new(&host, setup(options, &mut progress)?)?;
    if let Some(file) = &options.record {
        session.record(file, options.bug)?;
    }
    let interrupter = session.interrupter();
    // Only a second handler in the same process could make this fail.
    ctrlc::set_handler(move || interrupter.interrupt()).map_err(|error| {
        Failure::new(Exit::Host, format!("could not watch for Ctrl-C: {error}"))
    })?;
    let mut timeline = page
        .is_some()
        .then(|| RunTimeline::new(session.judge().world().expectation()));
    let ended = session.run(|seen| {
        progress.tell(|| {
            let world = seen.judge.world();
            let (events, alive) = (world.events(), world.live_count());
            format!("{events} events judged, {alive} processes alive")
        });
        if let Some(timeline) = &mut timeline {
            timeline.event(seen.told, seen.judge);
        }
    });
    drop(progress);
    // A guest that crashed was judged until then.
    let mut output = Output::new()?;
    if let Some(report) = session.report() {
        if options.json {
            output.line(&output::json(&report)?)?;
        } else {
            output.report(&Shown(&report))?;
        }
    }
    if let (Some(timeline), Some(page), Some(report)) = (timeline, &page, session.report()) {
        explore::write(timeline.judged(&report), page)?;
    }
    let exit = ended
        .map_err(Failure::from)
        .and_then(|Ended { status }| outcome(session.judge().all_hold(), status));
    match session.recorded() {
        Ok(()) => exit,
        Err(unrecorded) => {
            if let Err(failure) = exit {
                output::complain(&failure);
            }
            Err(unrecorded.into())
        }
    }
}

/// What a run that came to its end comes to: whether all rules hold, and the first program's status.
pub(crate) fn outcome(all_hold: bool, status: u64) -> Result<Exit, Failure> {
    if !all_hold {
        return Ok(Exit::Broken);
    }
    if status == 0 {
        return Ok(Exit::Good);
    }
    let how = match status & 0x7f {
        0 => format!("exit code {}", status >> 8),
        signal => format!("signal {signal}"),
    };
    Err(Failure::new(
        Exit::Guest,
        format!("the rules hold, but the first program ended with {how}"),
    ))
}

fn setup(options: &Options, progress: &mut Progress) -> Result<Setup, Failure> {
    let kernel = match &options.kernel {
        Some(path) => KernelImage::read(path).and_then(KernelImage::require_pvh),
        None => guest::kernel(),
    }
    .map_err(|error| Failure::new(Exit::Usage, error))?;
    let program = options.program.as_deref().map(program::read).transpose()?;
    let (first, arguments) = match &program {
        Some(program) => (program.name.clone(), options.arguments.clone()),
        None => (
            FIRST_PROGRAM.to_owned(),
            vec![options.processes.to_string()],
        ),
    };
    let bug = options.bug.map_or_else(String::new, |bug| {
        format!("{}={} ", words::BUG, bug.info().name)
    });
    let console = if options.json {
        Output::standard_error()?
    } else {
        Output::new()?
    };
    Ok(Setup {
        memory: options.memory,
        kernel,
        program,
        first,
        arguments,
        strategy: options.propagation,
        more_words: bug + &options.cmdline,
        console: progress.console(console),
        time_limit: Duration::from_secs(options.timeout),
    })
}
