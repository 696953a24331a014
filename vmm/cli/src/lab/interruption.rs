//! Ctrl-C and a request to end, for a command that runs one machine after the other.

use std::sync::{Arc, Mutex, PoisonError};

use heirloom_machine::Interrupter;

use crate::exit::{Exit, Failure};

/// Stops the running machine, and every later one, once the user wants no more.
pub(crate) struct Interruption(Arc<Mutex<Wanted>>);

#[derive(Default)]
struct Wanted {
    stop: bool,
    running: Option<Interrupter>,
}

impl Interruption {
    /// Listens from now on.
    ///
    /// # Errors
    /// Somebody else in this process listens already.
    pub(crate) fn listen() -> Result<Interruption, Failure> {
        let wanted = Arc::new(Mutex::new(Wanted::default()));
        let heard = Arc::clone(&wanted);
        ctrlc::set_handler(move || {
            let mut wanted = heard.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.stop = true;
            if let Some(running) = &wanted.running {
                running.interrupt();
            }
        })
        .map_err(|error| {
            Failure::new(Exit::Host, format!("could not watch for Ctrl-C: {error}"))
        })?;
        Ok(Interruption(wanted))
    }

    /// The machine of `interrupter` runs next.
    pub(crate) fn watch(&self, interrupter: Interrupter) {
        let mut wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.stop {
            interrupter.interrupt();
        }
        wanted.running = Some(interrupter);
    }
}
