//! The guest's console on its way to the user, searched for the text at which the guest is to be stopped.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use heirloom_machine::Interrupter;

/// What the console saw, shared by the thread that writes it and the one that waits.
#[derive(Default)]
pub(super) struct Seen {
    found: AtomicBool,
    bytes: AtomicU64,
    /// Stops the machine, which is made after its console.
    interrupter: OnceLock<Interrupter>,
}

impl Seen {
    /// The machine to stop when the text is found.
    pub(super) fn watch(&self, interrupter: Interrupter) {
        // Set once: there is one machine.
        let _ = self.interrupter.set(interrupter);
    }

    /// Whether the text has been printed.
    pub(super) fn found(&self) -> bool {
        self.found.load(Ordering::Acquire)
    }

    /// Bytes that the guest has printed.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Hands everything on to `out`.
pub(super) struct Console {
    out: Box<dyn Write + Send>,
    search: Option<Search>,
    seen: Arc<Seen>,
}

impl Console {
    /// Looks for `text`, which is not empty, if there is one.
    pub(super) fn new(out: Box<dyn Write + Send>, text: Option<&str>, seen: Arc<Seen>) -> Console {
        Console {
            out,
            search: text.map(Search::new),
            seen,
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.seen.bytes.fetch_add(written as u64, Ordering::Relaxed);
        if let Some(search) = &mut self.search
            && search.finds(&bytes[..written])
        {
            self.search = None;
            self.seen.found.store(true, Ordering::Release);
            if let Some(interrupter) = self.seen.interrupter.get() {
                interrupter.interrupt();
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Looks for a text in bytes that come piece by piece.
pub(crate) struct Search {
    text: Vec<u8>,
    /// The end of what came before, too short to hold the text.
    tail: Vec<u8>,
}

impl Search {
    /// For `text`, which is not empty.
    pub(crate) fn new(text: &str) -> Search {
        Search {
            text: text.into(),
            tail: Vec::new(),
        }
    }

    /// Whether the text is in what came, now that these bytes came, too.
    pub(crate) fn finds(&mut self, bytes: &[u8]) -> bool {
        self.tail.extend_from_slice(bytes);
        let found = self
            .tail
            .windows(self.text.len())
            .any(|window| window == self.text);
        let kept = self.tail.len().min(self.text.len() - 1);
        self.tail.drain(..self.tail.len() - kept);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_however_it_is_cut() {
        let console = b"Booting... login: ";
        for first in 0..=console.len() {
            for second in first..=console.len() {
                let mut search = Search::new("login:");
                let mut found = false;
                for piece in [
                    &console[..first],
                    &console[first..second],
                    &console[second..],
                ] {
                    found |= search.finds(piece);
                }
                assert!(found, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn what_is_almost_the_text_is_not_it_and_little_is_kept() {
        let mut search = Search::new("aab");
        assert!(!search.finds(b"aaaaaa"));
        assert!(!search.finds(&[b'x'; 10_000]));
        assert_eq!(search.tail.len(), 2);
        assert!(!search.finds(b"aa"));
        assert!(search.finds(b"b"));
        assert!(Search::new("x").finds(b"x"));
    }
}
