//! How far a command is, on standard error: a line that changes on a terminal, and elsewhere a plain line
//! now and then once it takes longer than a few seconds.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::ui;

/// Shorter than this, and a plain line is not worth it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time between two looks of the line that changes.
const TICK: Duration = Duration::from_millis(100);

/// Ends, and clears its line, when it is dropped.
pub(crate) struct Progress {
    way: Way,
}

enum Way {
    Silent,
    Bar(ProgressBar),
    Lines(Lines),
}

impl Progress {
    /// Of something that has no known end.
    pub(crate) fn spinner() -> Progress {
        Progress::new(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
            ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        })
    }

    /// Of `total` parts, which are counted by [`Progress::advance`].
    pub(crate) fn bar(total: u64) -> Progress {
        Progress::new(|| {
            let style = ProgressStyle::with_template("{wide_bar} {elapsed}, {eta} to go: {msg}");
            ProgressBar::new(total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        })
    }

    fn new(bar: impl FnOnce() -> ProgressBar) -> Progress {
        let ui = ui::get();
        let way = if ui.quiet || ui.verbose {
            Way::Silent
        } else if ui::error_is_terminal() {
            let bar = bar();
            bar.enable_steady_tick(TICK);
            Way::Bar(bar)
        } else {
            Lines::start().map_or(Way::Silent, Way::Lines)
        };
        Progress { way }
    }

    /// Nothing is told.
    pub(crate) fn silent() -> Progress {
        Progress { way: Way::Silent }
    }

    /// Says what is being done. May be called as often as one likes.
    pub(crate) fn tell(&self, message: impl FnOnce() -> String) {
        match &self.way {
            Way::Silent => {}
            Way::Bar(bar) => bar.set_message(message()),
            Way::Lines(lines) => lines.state().message = message(),
        }
    }

    /// Counts parts that are done.
    pub(crate) fn advance(&self, parts: u64) {
        if let Way::Bar(bar) = &self.way {
            bar.inc(parts);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Way::Bar(bar) = &self.way {
            bar.finish_and_clear();
        }
    }
}

/// A thread that writes plain lines.
struct Lines {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    message: String,
    done: bool,
}

impl Lines {
    /// `None` if the system gives no thread: then there is no progress to see.
    fn start() -> Option<Lines> {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("progress".into())
            .spawn(move || write_lines(&told))
            .ok()?;
        Some(Lines {
            shared,
            thread: Some(thread),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Shared {
    /// No code panics while it holds the lock, and a message has no invariant.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.state().done = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends by `done`.
            let _ = thread.join();
        }
    }
}

fn write_lines(shared: &Shared) {
    let start = Instant::now();
    let mut next = start + PATIENCE;
    let mut state = shared.lock();
    while !state.done {
        let now = Instant::now();
        if now >= next {
            let line = format!(
                "heirloom: {} s, {}\n",
                now.duration_since(start).as_secs(),
                state.message
            );
            drop(state);
            // Nobody may be listening.
            let _ = io::stderr().write_all(line.as_bytes());
            next = Instant::now() + INTERVAL;
            state = shared.lock();
            continue;
        }
        (state, _) = shared
            .changed
            .wait_timeout(state, next.saturating_duration_since(now))
            .unwrap_or_else(PoisonError::into_inner);
    }
}
