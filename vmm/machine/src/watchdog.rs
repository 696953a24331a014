//! The watchdog: gets a vCPU thread out of the guest when its time is up or somebody interrupts.
//!
//! A guest that loops with interrupts off never leaves KVM_RUN by itself; a signal makes it leave. One
//! signal could arrive just before the thread enters KVM_RUN and be lost, so the watchdog sends one
//! every 2 ms until the thread has disarmed it. The handler does nothing: EINTR is all that is
//! wanted.
#![expect(
    unsafe_code,
    reason = "a thread is signalled by its number, which Rust does not know"
)]

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libc::{c_int, c_void, pid_t, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

/// Time between two signals to a thread that has not left the guest yet.
const REPEAT: Duration = Duration::from_millis(2);

/// Why the watchdog wants the vCPU to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The deadline has passed.
    TimeLimit,
    /// Somebody asked for it.
    Interrupted,
}

/// Shared between the watchdog's thread, the vCPU's thread and whoever interrupts.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The cause for which the armed thread is being signalled; 0 for none. Read without the lock
    /// after every exit.
    cause: AtomicU8,
}

#[derive(Debug, Default)]
struct State {
    armed: Option<Armed>,
    interrupted: bool,
    quit: bool,
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    thread: ArmedThread,
    deadline: Instant,
}

/// The thread that armed the watchdog, by its number in the system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArmedThread(pid_t);

impl ArmedThread {
    /// The calling one.
    pub(crate) fn own() -> ArmedThread {
        // SAFETY: no obligation; it returns the caller's own number.
        ArmedThread(unsafe { libc::gettid() })
    }

    /// Has it leave the guest, or any call that waits. It is alive: it exists only inside of states, here and of the
    /// vCPU threads, under whose locks it is signalled.
    pub(crate) fn signal(self) {
        // By name of this process: the C libraries' ways differ, and a sandbox lets through this one alone.
        // SAFETY: a signal with a handler that does nothing.
        let failed = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, SIGRTMIN()) };
        // It fails only for a thread that is gone.
        let _ = failed;
    }
}

impl Shared {
    /// No code panics while it holds the lock, and `State` has no invariant that a panic could break.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cause(&self) -> Option<Cause> {
        match self.cause.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Cause::TimeLimit),
            _ => Some(Cause::Interrupted),
        }
    }

    fn set_cause(&self, cause: Option<Cause>) {
        let number = match cause {
            None => 0,
            Some(Cause::TimeLimit) => 1,
            Some(Cause::Interrupted) => 2,
        };
        self.cause.store(number, Ordering::Release);
    }
}

/// Asks, from any thread, a machine's present or next run to stop.
#[derive(Clone, Debug)]
pub struct Interrupter(Arc<Shared>);

impl Interrupter {
    /// Makes [`Machine::run`](crate::Machine::run) return [`Stop::Interrupted`](crate::Stop::Interrupted)
    /// once. Takes a lock, so not for signal handlers.
    pub fn interrupt(&self) {
        self.0.lock().interrupted = true;
        self.0.changed.notify_all();
    }

    /// Whether somebody has asked for it and no run has returned for it yet.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.lock().interrupted
    }
}

/// Tells, from the armed thread, whether the watchdog wants it to stop.
#[derive(Clone, Debug)]
pub(crate) struct Bell(Arc<Shared>);

impl Bell {
    /// Why the thread should stop now.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.0.cause()
    }
}

/// A thread that watches one vCPU thread.
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the watchdog's thread, which sleeps until it is armed.
    ///
    /// # Errors
    /// The system gives no thread, or refuses the signal handler.
    pub fn new() -> io::Result<Watchdog> {
        install_handler()?;
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch(&watched))?;
        Ok(Watchdog {
            shared,
            thread: Some(thread),
        })
    }

    /// Watches the calling thread until the guard is dropped.
    pub(crate) fn arm(&self, deadline: Instant) -> Guard<'_> {
        // A thread may have been born with all signals blocked. The call cannot fail: the signal exists.
        let _ = unblock_signal(SIGRTMIN());
        let thread = ArmedThread::own();
        let mut state = self.shared.lock();
        state.armed = Some(Armed { thread, deadline });
        // Said at once, so that a run with its time already up does not enter the guest.
        self.shared.set_cause(due(&state, Instant::now()));
        drop(state);
        self.shared.changed.notify_all();
        Guard { watchdog: self }
    }

    pub(crate) fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.shared))
    }

    pub(crate) fn interrupter(&self) -> Interrupter {
        Interrupter(Arc::clone(&self.shared))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().quit = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends by `quit`; a panic in it would have nothing left to break.
            let _ = thread.join();
        }
    }
}

/// While it lives, the thread that made it is watched. It must be dropped on that thread.
pub(crate) struct Guard<'a> {
    watchdog: &'a Watchdog,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let shared = &self.watchdog.shared;
        let mut state = shared.lock();
        state.armed = None;
        if shared.cause() == Some(Cause::Interrupted) {
            state.interrupted = false;
        }
        shared.set_cause(None);
    }
}

/// Why the armed thread should stop at `now`.
fn due(state: &State, now: Instant) -> Option<Cause> {
    let armed = state.armed?;
    if state.interrupted {
        Some(Cause::Interrupted)
    } else {
        (now >= armed.deadline).then_some(Cause::TimeLimit)
    }
}

fn watch(shared: &Shared) {
    let mut state = shared.lock();
    while !state.quit {
        let Some(armed) = state.armed else {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let now = Instant::now();
        let pause = match due(&state, now) {
            Some(cause) => {
                // The first cause stays, so that the thread reports what it was stopped for.
                if shared.cause().is_none() {
                    shared.set_cause(Some(cause));
                }
                armed.thread.signal();
                REPEAT
            }
            None => armed.deadline.saturating_duration_since(now),
        };
        (state, _) = shared
            .changed
            .wait_timeout(state, pause)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

extern "C" fn do_nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

/// Gives SIGRTMIN its empty handler, once per process.
fn install_handler() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| {
        result = register_signal_handler(SIGRTMIN(), do_nothing)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()));
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(30);
    const LATE: Duration = Duration::from_secs(60);

    /// Waits as a vCPU thread would, and fails rather than hang.
    fn wait_for_cause(bell: &Bell) -> Cause {
        let start = Instant::now();
        loop {
            if let Some(cause) = bell.cause() {
                return cause;
            }
            assert!(start.elapsed() < LATE, "the watchdog never rang");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn it_rings_at_the_deadline_and_not_before() {
        let watchdog = Watchdog::new().unwrap();
        let start = Instant::now();
        let _guard = watchdog.arm(start + SOON);
        assert_eq!(wait_for_cause(&watchdog.bell()), Cause::TimeLimit);
        assert!(start.elapsed() >= SOON);
    }

    #[test]
    fn a_blocking_call_is_left_however_often_it_is_entered_again() {
        let watchdog = Watchdog::new().unwrap();
        let bell = watchdog.bell();
        let (mut read_end, _write_end) = io::pipe().unwrap();
        let _guard = watchdog.arm(Instant::now() + SOON);
        for _ in 0..5 {
            // Nobody writes: only a signal ends this read.
            let error = io::Read::read(&mut read_end, &mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        }
        assert_eq!(bell.cause(), Some(Cause::TimeLimit));
    }

    #[test]
    fn an_interruption_is_told_once_and_then_forgotten() {
        let watchdog = Watchdog::new().unwrap();
        let bell = watchdog.bell();
        watchdog.interrupter().interrupt();
        {
            let _guard = watchdog.arm(Instant::now() + LATE);
            assert_eq!(bell.cause(), Some(Cause::Interrupted));
        }
        let _guard = watchdog.arm(Instant::now() + LATE);
        assert_eq!(bell.cause(), None);
    }

    #[test]
    fn a_disarmed_watchdog_is_silent() {
        let watchdog = Watchdog::new().unwrap();
        drop(watchdog.arm(Instant::now() + SOON));
        thread::sleep(SOON * 2);
        assert_eq!(watchdog.bell().cause(), None);
    }
}
