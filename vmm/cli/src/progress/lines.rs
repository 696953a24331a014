//! Plain lines now and then, written by a thread of their own: a guest that hangs reports nothing, but it is
//! still waited for.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Shorter than this, and a line is not worth it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Ends when it is dropped.
pub(super) struct Lines {
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
    /// Parts that are done, and all of them where that is known.
    parts: u64,
    total: Option<u64>,
    done: bool,
}

impl Lines {
    /// `None` if the system gives no thread: then there is no progress to see.
    pub(super) fn start(total: Option<u64>) -> Option<Lines> {
        let shared = Arc::new(Shared::default());
        shared.lock().total = total;
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

    pub(super) fn tell(&self, message: String) {
        self.shared.lock().message = message;
    }

    pub(super) fn advance(&self, parts: u64) {
        let mut state = self.shared.lock();
        state.parts = state.parts.saturating_add(parts);
    }
}

impl Shared {
    /// No code panics while it holds the lock, and the state has no invariant.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.shared.lock().done = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends by `done`.
            let _ = thread.join();
        }
    }
}

impl State {
    fn line(&self, elapsed: Duration) -> String {
        let elapsed = format!("{} s", elapsed.as_secs());
        let parts = self
            .total
            .map(|total| format!("{} of {total} done", self.parts));
        let message = Some(self.message.clone()).filter(|message| !message.is_empty());
        let known: Vec<String> = [Some(elapsed), parts, message]
            .into_iter()
            .flatten()
            .collect();
        format!("heirloom: {}\n", known.join(", "))
    }
}

fn write_lines(shared: &Shared) {
    let start = Instant::now();
    let mut next = start + PATIENCE;
    let mut state = shared.lock();
    while !state.done {
        let now = Instant::now();
        if now < next {
            (state, _) = shared
                .changed
                .wait_timeout(state, next.duration_since(now))
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let line = state.line(now.duration_since(start));
        drop(state);
        // Nobody may be listening.
        let _ = io::stderr().write_all(line.as_bytes());
        next = Instant::now() + INTERVAL;
        state = shared.lock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_known() {
        let mut state = State::default();
        let line = |state: &State| state.line(Duration::from_millis(5900));
        assert_eq!(line(&state), "heirloom: 5 s\n");
        state.message = "7 events judged".into();
        assert_eq!(line(&state), "heirloom: 5 s, 7 events judged\n");
        state.total = Some(13);
        state.parts = 4;
        assert_eq!(
            line(&state),
            "heirloom: 5 s, 4 of 13 done, 7 events judged\n"
        );
    }
}
