//! Stops work that runs one machine after the other, from another thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heirloom_machine::Interrupter;

/// A handle that stops the running machine and every later one. Clones are the same handle.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    running: Option<Interrupter>,
}

impl CancelToken {
    /// Nothing is cancelled yet.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Stops the running machine, and each that would run next.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        if let Some(running) = &state.running {
            running.interrupt();
        }
    }

    /// Whether somebody called [`CancelToken::cancel`].
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// The machine of `interrupter` runs next.
    pub fn watch(&self, interrupter: Interrupter) {
        let mut state = self.lock();
        if state.cancelled {
            interrupter.interrupt();
        }
        state.running = Some(interrupter);
    }

    /// No code panics while it holds the lock, and the state has no invariant.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
