//! What the guest of a cell prints, kept for the message of a failure.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of it that are kept.
const MAX_CONSOLE: usize = 1 << 14;

/// The start of what the guest prints: nothing, if all is well, but the kernel's greeting.
#[derive(Clone, Default)]
pub(crate) struct Console(Arc<Mutex<Vec<u8>>>);

impl Console {
    /// For a failure's message.
    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_empty() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        // What a guest prints is no terminal's business.
        let lines = text
            .lines()
            .map(|line| line.chars().filter(|c| !c.is_control()).collect());
        let lines: Vec<String> = std::iter::once("\n  its console:".into())
            .chain(lines)
            .collect();
        lines.join("\n  | ")
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_CONSOLE - kept.len();
        kept.extend(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_keeps_its_start_and_nothing_that_moves_a_terminal() {
        let mut console = Console::default();
        assert_eq!(console.text(), "");
        console.write_all(b"a\x1b[2Jb\nc\n").unwrap();
        assert_eq!(console.text(), "\n  its console:\n  | a[2Jb\n  | c");
        console.write_all(&vec![b'x'; 1 << 20]).unwrap();
        assert!(console.text().len() < 2 * MAX_CONSOLE);
    }
}
