//! A guest that stands still, and is certain to run on.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;

use super::connection::{Connection, QmpError};
use super::resumer::Resumer;

/// Every guest that this process has paused and that ran before.
static PAUSED: Mutex<Vec<Weak<Connection>>> = Mutex::new(Vec::new());

/// Why a guest that was paused could not be let run on.
static LEFT_PAUSED: Mutex<Option<String>> = Mutex::new(None);

/// Lets every guest run on that this process has paused. For the handler of Ctrl-C and SIGTERM, and
/// before `std::process::exit`, which drops nothing: it may be called in any thread, at any time, more
/// than once, and takes as long as QEMU needs to answer, at most ten seconds. Targets that are open
/// are useless from then on.
///
/// Should this process be killed, a small process beside it does the same.
pub fn resume_all() {
    let paused = std::mem::take(&mut *PAUSED.lock().unwrap_or_else(PoisonError::into_inner));
    for connection in paused.iter().filter_map(Weak::upgrade) {
        report(connection.resume_and_finish());
    }
}

/// Why a guest that this process has paused stands still although it should run; `None` where all run.
pub fn left_paused() -> Option<String> {
    LEFT_PAUSED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// While this lives, the guest stands still. Dropped, also by a panic, it lets the guest run on if it
/// ran before.
#[derive(Debug)]
pub(super) struct Pause {
    connection: Arc<Connection>,
    /// If it ran before.
    resumer: Option<Resumer>,
}

impl Pause {
    /// Stops the guest, if it runs.
    ///
    /// # Errors
    /// [`QmpError`]; the guest goes on as before then.
    pub(super) fn begin(connection: Arc<Connection>) -> Result<Pause, QmpError> {
        let status = connection.ask("query-status", Value::Null)?;
        let ran = status.get("running").and_then(Value::as_bool) == Some(true);
        if ran {
            // First known, then stopped: whoever comes in between sends `cont`, and `stop` is not
            // sent any more.
            PAUSED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::downgrade(&connection));
        }
        let resumer = ran.then(|| connection.resumer()).transpose();
        let resumer = resumer.map_err(QmpError::NoResumer)?;
        let pause = Pause {
            connection,
            resumer,
        };
        if ran {
            pause.connection.hold();
            pause.connection.ask("stop", Value::Null)?;
        }
        Ok(pause)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let Some(resumer) = self.resumer.take() else {
            return;
        };
        let ours = Arc::downgrade(&self.connection);
        PAUSED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !other.ptr_eq(&ours) && other.strong_count() > 0);
        report(self.connection.resume_and_finish());
        resumer.dismiss();
        if self.connection.was_disturbed() {
            log::warn!(
                "someone else let the guest run while it was looked at: what was found may be of \
                 several moments"
            );
        }
    }
}

fn report(result: Result<(), QmpError>) {
    match result {
        // Who has ended does not stand still.
        Ok(()) | Err(QmpError::Closed { .. }) => {}
        Err(error) => {
            let what = format!(
                "the guest could not be let run on: its socket {error}. It stands still until someone \
                 says `cont` in a monitor of QEMU's"
            );
            *LEFT_PAUSED.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        }
    }
}
