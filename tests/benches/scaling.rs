//! How the host's own CPU time grows with the processes that live: runs of 50 to 1,600 of them, the user time
//! of each, and the exponent of the law that fits them best. The number of events grows with the processes,
//! so that 1 is the least; with 2, each event would cost in proportion to the processes.
//! `cargo bench -p heirloom --bench scaling [-- MOST-PROCESSES]`.

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

const PROCESSES: [u64; 6] = [50, 100, 200, 400, 800, 1600];
/// Processes in all the runs of a small number together.
const REPEATED: u64 = 800;
/// The exponent that the design aims at.
const GOAL: f64 = 1.1;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo itself passes `--bench`.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let most: u64 = numbers.next_back().unwrap_or(u64::MAX);
    println!("processes      user    system      wall");
    let mut measured = Vec::new();
    for processes in PROCESSES.into_iter().filter(|count| *count <= most) {
        let start = Instant::now();
        // The clock of user time is coarse: few processes are run several times.
        let repeats = u32::try_from(REPEATED / processes)?.max(1);
        let mut times = [Duration::ZERO; 2];
        for _ in 0..repeats {
            let [user, system] = run(processes)?;
            times = [times[0] + user, times[1] + system];
        }
        let [user, system] = times.map(|time| time / repeats);
        println!(
            "{processes:>9}  {:>6.3} s  {:>6.3} s  {:>6.2} s",
            user.as_secs_f64(),
            system.as_secs_f64(),
            start.elapsed().as_secs_f64() / f64::from(repeats)
        );
        measured.push((processes, user));
    }
    if let Some(exponent) = exponent(&measured) {
        println!("user time grows as processes^{exponent:.2}; the goal is at most {GOAL}");
    }
    Ok(())
}

/// User and system time of a run.
fn run(processes: u64) -> Result<[Duration; 2], Box<dyn Error>> {
    let before = of_children()?;
    let status = Command::new(env!("CARGO_BIN_EXE_heirloom"))
        .args(["-q", "run", "--timeout", "3600", "--memory", "512M"])
        .args(["--processes", &processes.to_string()])
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("heirloom run --processes {processes} ended with {status}").into());
    }
    let after = of_children()?;
    Ok([0, 1].map(|kind| after[kind].saturating_sub(before[kind])))
}

/// User and system time of all children that have ended.
fn of_children() -> Result<[Duration; 2], Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |seconds: i64, micros: i64| -> Result<Duration, Box<dyn Error>> {
        Ok(Duration::from_secs(seconds.try_into()?) + Duration::from_micros(micros.try_into()?))
    };
    let (user, system) = (usage.user_time(), usage.system_time());
    Ok([
        time(user.tv_sec(), user.tv_usec())?,
        time(system.tv_sec(), system.tv_usec())?,
    ])
}

/// The slope of the straight line that fits the logarithms best (least squares).
#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn exponent(measured: &[(u64, Duration)]) -> Option<f64> {
    let points: Vec<(f64, f64)> = measured
        .iter()
        .map(|(processes, time)| ((*processes as f64).ln(), time.as_secs_f64().ln()))
        .collect();
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let common: f64 = points
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    (points.len() > 1).then_some(common / spread)
}
