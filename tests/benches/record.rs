//! What recording costs: runs with and without, in turns, and the ratio of the fastest of each; and the same
//! for the host's part alone, as if the guest took no time. `cargo bench -p heirloom --bench record`.

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use heirloom_abi::options::Strategy;
use heirloom_harness::event::Event;
use heirloom_harness::judge::Judge;
use heirloom_harness::model::Expectation;
use heirloom_inspect::{Capturer, PhysicalMemory};
use heirloom_source::recording::{Capture, EVENT_BYTES, Moment, Recorder, Recording};

/// Processes, and how often a run is made each way.
const SIZES: [(u64, usize); 3] = [(8, 15), (64, 5), (200, 3)];

fn main() -> Result<(), Box<dyn Error>> {
    println!("processes  events  plain      recorded   ratio  host alone  bytes an event  file");
    for (processes, rounds) in SIZES {
        measure(processes, rounds)?;
    }
    Ok(())
}

fn measure(processes: u64, rounds: usize) -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("run.rec");
    let (mut plain, mut recorded) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        plain.push(run(processes, None)?);
        let _ = std::fs::remove_file(&file);
        recorded.push(run(processes, Some(&file))?);
    }
    let (plain, recorded) = (fastest(&plain)?, fastest(&recorded)?);
    let recording = Recording::open(&file)?;
    let events = recording.len();
    let bytes = std::fs::metadata(&file)?.len();
    println!(
        "{processes:>9}  {events:>6}  {:>7.3} s  {:>7.3} s  {:>5.3}  {:>10.3}  {:>14}  {bytes}",
        plain.as_secs_f64(),
        recorded.as_secs_f64(),
        recorded.as_secs_f64() / plain.as_secs_f64(),
        host_alone(&recording)?,
        bytes / events as u64,
    );
    Ok(())
}

/// The time of a run.
fn run(processes: u64, record: Option<&Path>) -> Result<Duration, Box<dyn Error>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heirloom"));
    command
        .args(["run", "--json", "--processes", &processes.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(file) = record {
        command.arg("--record").arg(file);
    }
    let start = Instant::now();
    let status = command.status()?;
    let time = start.elapsed();
    if !status.success() {
        return Err(format!("heirloom run ended with {status}").into());
    }
    Ok(time)
}

/// The time that others on this machine disturbed least.
fn fastest(times: &[Duration]) -> Result<Duration, Box<dyn Error>> {
    let fastest = times.iter().min().copied();
    fastest.ok_or_else(|| "nothing was run".into())
}

/// Captures and judges every moment again, with recording and without: the ratio of the times.
fn host_alone(recording: &Recording) -> Result<f64, Box<dyn Error>> {
    let header = recording.header();
    let name = header.strategy.as_deref().unwrap_or_default();
    let strategy = Strategy::from_name(name).ok_or("the run was not judged")?;
    let expectation = Expectation { strategy };
    let mut judge = Judge::new(header.truth.clone(), expectation);
    let mut capturer = Capturer::new();
    let mut recorder = Recorder::new(Path::new("bench"), Box::new(io::sink()), header)?;
    let page = [0; EVENT_BYTES];
    let (mut judging, mut writing) = (Duration::ZERO, Duration::ZERO);
    for moment in recording.moments() {
        let Moment {
            event: Some(event),
            tables: Some(tables),
            memory,
            ..
        } = moment?
        else {
            continue;
        };
        // Read all tables of this moment once, so that looking them up is not measured.
        memory.read_u64(tables.snapshot.roots()[0].address)?;
        let start = Instant::now();
        let told = Event::from_bytes(*event)?;
        judge.apply(&told);
        let roots = tables.roots();
        let snapshot = capturer.capture(&memory, *tables.snapshot.mode(), &roots);
        judge.observe(&told, &[tables.cpu()], 0, &snapshot, &memory);
        judging += start.elapsed();
        let start = Instant::now();
        let capture = Capture {
            snapshot: &snapshot,
            cpus: &tables.cpus,
            reporting_cpu: tables.reporting_cpu,
            pieces: memory.pieces(),
        };
        recorder.record(Some(&page), Some(capture))?;
        writing += start.elapsed();
    }
    Ok((judging + writing).as_secs_f64() / judging.as_secs_f64())
}
