//! A guest's console on a terminal on which a line changes: that line makes room for each of the console's.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;

use crate::output::Output;

/// A longer unfinished line is written as it is.
const LINE_LIMIT: usize = 4096;

/// Writes whole lines; a handle, of which there may be several.
#[derive(Clone)]
pub(super) struct Beside {
    bar: ProgressBar,
    console: Arc<Mutex<Console>>,
}

struct Console {
    out: Output,
    /// A line without its end: written, it would be overwritten by the line that changes.
    unfinished: Vec<u8>,
}

impl Beside {
    pub(super) fn new(bar: ProgressBar, out: Output) -> Beside {
        Beside {
            bar,
            console: Arc::new(Mutex::new(Console {
                out,
                unfinished: Vec::new(),
            })),
        }
    }

    /// Writes what has no end, as nothing will overwrite it now.
    pub(super) fn finish(&self) {
        let mut console = self.lock();
        let rest = std::mem::take(&mut console.unfinished);
        // The terminal may be gone, and the guest has said its last.
        let _ = console.out.write_all(&rest);
    }

    fn lock(&self) -> MutexGuard<'_, Console> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut console = self.lock();
        console.unfinished.extend_from_slice(bytes);
        let whole = match console.unfinished.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if console.unfinished.len() >= LINE_LIMIT => console.unfinished.len(),
            None => return Ok(bytes.len()),
        };
        let lines: Vec<u8> = console.unfinished.drain(..whole).collect();
        self.bar.suspend(|| console.out.write_all(&lines))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
