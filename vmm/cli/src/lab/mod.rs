//! `heirloom lab`: what a kernel mapping costs under each strategy, from one process to a thousand.
//!
//! Each cell of the sweep, a strategy with a number of processes, or of CPUs, is a machine of its own. The guest's
//! counters are held against what its tables show.

mod chart;
mod cpus;
mod labels;
mod line;
mod terminal;

use std::path::{Path, PathBuf};
use std::time::Duration;

use heirloom_abi::options::Strategy;
use heirloom_harness::cancel::CancelToken;
use heirloom_harness::lab::measure::CellRunner;
use heirloom_harness::lab::plan::{Plan, Shard, StrategyName};
use heirloom_harness::lab::results::Results;
use heirloom_harness::recorder::RecordingDirectory;
use heirloom_machine::{CpuCount, MemorySize};

use crate::exit::{Exit, Failure};
use crate::kernel;
use crate::machine;
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::signals;

const YEAR: u64 = 365 * 24 * 60 * 60;
/// As many as the guest kernel's table holds, less a margin.
const MAX_PROCESSES: u64 = 4000;
/// What one page table maps, a guard page behind each, less the one that the table is made for.
const MAX_ALLOCATIONS: u64 = 255;
const MIB: u64 = 1 << 20;

/// Options of `heirloom lab`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Numbers of processes.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,2,4,8,16,32,64,128,256,512,1024",
        value_parser = clap::value_parser!(u64).range(1..=MAX_PROCESSES),
    )]
    processes: Vec<u64>,
    /// Numbers of CPUs, 1 to 8: what a mapping and an unmapping cost with so many, all others busy, in the place of a
    /// sweep over processes.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with_all = ["processes", "shard", "merge"],
    )]
    cpus: Vec<CpuCount>,
    /// Strategies, by their names; all of them unless given.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    strategies: Option<Vec<StrategyName>>,
    /// Kernel mappings made in each cell, below a PGD entry that every process has.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=MAX_ALLOCATIONS))]
    allocations: u64,
    #[command(flatten)]
    kernel: kernel::Options,
    /// The guest's memory, such as 512M or 6G.
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: MemorySize,
    /// Gives up a cell after so many seconds; 60 unless given, and with more than 200 processes in
    /// proportion more.
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=YEAR))]
    timeout: Option<u64>,
    /// Prints the results as JSON.
    #[arg(long)]
    json: bool,
    /// Also draws them.
    #[arg(long, value_name = "FILE", conflicts_with = "shard")]
    svg: Option<PathBuf>,
    /// Runs one part, every COUNT-th cell from number INDEX (from 0) on, and prints its JSON.
    #[arg(long, value_name = "INDEX/COUNT")]
    shard: Option<Shard>,
    /// Runs nothing: joins the JSON of all shards.
    #[arg(
        long,
        value_name = "FILE",
        num_args = 1..,
        conflicts_with_all = ["shard", "processes", "strategies", "allocations", "memory", "timeout", "record", "device", "machine", "accel", "cmdline", "kernel"],
    )]
    merge: Vec<PathBuf>,
    /// Records every cell to a file of its own in this directory; see `heirloom replay`.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    #[command(flatten)]
    force: output::Force,
    #[command(flatten)]
    machine: machine::Options,
    /// More words for the guest kernel's command line.
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    cmdline: String,
}

/// Runs the sweep, or a part of it, or joins parts, and shows what came of it.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let inputs: Vec<&Path> = options.merge.iter().map(PathBuf::as_path).collect();
    let svg = options.svg.as_deref();
    let svg = svg.map(|path| options.force.file("the chart", path, &inputs));
    let svg = svg.transpose()?;
    let recordings = output::recordings(options.record.as_deref())?;
    if !options.cpus.is_empty() {
        let results = with_runner(options, recordings.as_ref(), |runner| {
            cpus::sweep(runner, &strategies(options), &options.cpus)
        })?;
        let exit = cpus::show(&results, options.json, svg.as_ref())?;
        recordings.map_or(Ok(()), |recordings| recordings.result())?;
        return Ok(exit);
    }
    let results = if options.merge.is_empty() {
        sweep(options, recordings.as_ref())?
    } else {
        Results::merge(&options.merge).map_err(|error| Failure::new(Exit::Usage, error))?
    };
    let mut output = Output::new()?;
    if options.json || options.shard.is_some() {
        output.line(&output::json(&results.document())?)?;
    } else {
        output.report(&terminal::Text(&results))?;
    }
    if let Some(file) = &svg {
        let chart = chart::svg(&results).map_err(|error| chart::failure(file, &error))?;
        file.write(chart.as_bytes())?;
    }
    let complaints = results.complaints();
    for complaint in &complaints {
        output::complain(&Failure::new(Exit::Broken, complaint));
    }
    recordings.map_or(Ok(()), |recordings| recordings.result())?;
    Ok(if complaints.is_empty() {
        Exit::Good
    } else {
        Exit::Broken
    })
}

fn strategies(options: &Options) -> Vec<StrategyName> {
    let all = Strategy::ALL.map(StrategyName);
    options.strategies.clone().unwrap_or_else(|| all.into())
}

fn sweep(options: &Options, recordings: Option<&RecordingDirectory>) -> Result<Results, Failure> {
    let plan = Plan::new(
        &strategies(options),
        &options.processes,
        options.allocations,
        options.memory.bytes() / MIB,
        &options.cmdline,
    );
    let shard = options.shard.unwrap_or(Shard::WHOLE);
    let names = shard.cells(&plan);
    let cells = with_runner(options, recordings, |runner| {
        // The time that a cell takes grows with its processes.
        let progress = Progress::bar(names.iter().map(|name| name.processes).sum());
        let mut cells = Vec::with_capacity(names.len());
        for name in names {
            progress.tell(|| name.to_string());
            log::info!("cell {name}");
            cells.push(runner.measure(name)?);
            progress.advance(name.processes);
        }
        Ok(cells)
    })?;
    Ok(Results::new(plan, shard, cells))
}

/// Has `measure` run cells, in the sandbox.
fn with_runner<T>(
    options: &Options,
    recordings: Option<&RecordingDirectory>,
    measure: impl FnOnce(&CellRunner<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let host = options.machine.platform()?;
    let sandbox = Sandbox::reading(options.kernel.inputs())
        .writing(&options.svg)
        .making_files_in(options.record.as_deref());
    options.machine.enter(&sandbox)?;
    let kernel = options.kernel.image()?;
    let cancel = CancelToken::new();
    let cancelled = cancel.clone();
    signals::stop_by(move || cancelled.cancel())?;
    measure(&CellRunner {
        host: &host,
        kernel: kernel.as_ref(),
        memory: options.memory,
        allocations: options.allocations,
        more_words: &options.cmdline,
        time_limit: options.timeout.map(Duration::from_secs),
        cancel: &cancel,
        recordings,
    })
}
