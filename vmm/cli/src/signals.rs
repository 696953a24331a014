//! Ctrl-C, and requests to end: the command stops gently, with what it has found, or else it is ended, whatever
//! it does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::time::{ClockId, clock_gettime};

use crate::exit::{Exit, Failure};
use crate::output;

/// CPU time that the command has to end by itself.
const GENTLE: Duration = Duration::from_millis(700);
/// If it uses none for so long, it waits for something that need not come.
const STUCK: Duration = Duration::from_millis(500);
/// However busy the machine is.
const AT_MOST: Duration = Duration::from_secs(20);
/// Time between two looks.
const STEP: Duration = Duration::from_millis(20);
/// CPU time within [`STUCK`] that is no work: this thread's own.
const IDLE: Duration = Duration::from_millis(10);

static IS_ENDING: AtomicBool = AtomicBool::new(false);

type Stop = Box<dyn Fn() + Send>;

/// What stops the command gently; the first that is there is called.
static STOP: Mutex<Option<Stop>> = Mutex::new(None);

/// From now on a signal calls `stop`, and ends the command if that does not.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn stop_by(stop: impl Fn() + Send + 'static) -> Result<(), Failure> {
    let mut place = STOP.lock().unwrap_or_else(PoisonError::into_inner);
    let is_first = place.replace(Box::new(stop)).is_none();
    drop(place);
    if !is_first {
        return Ok(());
    }
    ctrlc::set_handler(end).map_err(|error| {
        let what = format!(
            "could not watch for Ctrl-C: {error}; see the limits of processes (`ulimit -u`) and of open \
             files (`ulimit -n`)"
        );
        Failure::new(Exit::Host, what)
    })
}

/// Whether a signal wants the command to end.
pub(crate) fn is_ending() -> bool {
    IS_ENDING.load(Ordering::Relaxed)
}

/// In a thread of its own.
fn end() {
    IS_ENDING.store(true, Ordering::Relaxed);
    if let Some(stop) = &*STOP.lock().unwrap_or_else(PoisonError::into_inner) {
        stop();
    }
    wait();
    heirloom_source::remove_unfinished();
    output::complain(&Failure::new(Exit::Guest, "interrupted"));
    std::process::exit(Exit::Guest as i32);
}

/// Waits as long as the command may still end by itself.
fn wait() {
    let (start, used_before) = (Instant::now(), cpu_time());
    let (mut worked_at, mut worked) = (start, used_before);
    while start.elapsed() < AT_MOST {
        thread::sleep(STEP);
        let used = cpu_time();
        if used.saturating_sub(used_before) > GENTLE {
            return;
        }
        if used.saturating_sub(worked) > IDLE {
            (worked_at, worked) = (Instant::now(), used);
        } else if worked_at.elapsed() > STUCK {
            return;
        }
    }
}

/// Of the whole process.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Has a file that grows beyond a limit (`ulimit -f`) be an error of the write, as a full disk is, and not the
/// end of the process.
#[expect(
    unsafe_code,
    reason = "the standard library sets no signal's disposition"
)]
pub(crate) fn files_may_get_too_large() {
    // SAFETY: no handler is set, and no other thread exists that could rely on the old disposition.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    // It fails for signals that do not exist.
    let _ = ignored;
}
