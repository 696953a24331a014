//! Text that others wrote, made harmless for a terminal: guests' consoles, files' names, what monitors say.
//!
//! A control sequence could move the cursor over a verdict, set a title, or have the terminal type; a character
//! that reverses the direction of writing could make a name look like another. Each is shown as `\x1b` or
//! `\u{202e}`, and lines and tabs stay.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Whether a terminal would do more than show it.
fn is_harmful(letter: char) -> bool {
    let is_direction = matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    is_direction || letter.is_control() && !matches!(letter, '\n' | '\t')
}

fn push(out: &mut String, letter: char) {
    // Writing to a string cannot fail.
    let _ = match u32::from(letter) {
        code @ ..=0xff => write!(out, "\\x{code:02x}"),
        code => write!(out, "\\u{{{code:x}}}"),
    };
}

/// Text for people.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_harmful(letter) {
            push(&mut out, letter);
        } else {
            out.push(letter);
        }
    }
    out.into()
}

/// JSON, in which such characters stand in strings only, and may be escaped.
pub(crate) fn json(text: String) -> String {
    if !text.contains(is_harmful) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_harmful(letter) {
            // None of them is beyond 16 bits. Writing to a string cannot fail.
            let _ = write!(out, "\\u{:04x}", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
    out
}

/// A guest's console, byte by byte, in whatever pieces.
pub(crate) struct Escaping<W: Write> {
    out: W,
    state: State,
    /// What was offered, of which not all is written yet: whoever is interrupted offers it again.
    offered: Vec<u8>,
    pending: Vec<u8>,
}

/// What the bytes before leave open.
#[derive(Default)]
struct State {
    /// The beginning of a letter in UTF-8.
    letter: Vec<u8>,
    /// A carriage return, which is harmless in front of a line's end only.
    is_return: bool,
}

/// Bytes that are taken at a time.
const TAKEN: usize = 4096;

impl<W: Write> Escaping<W> {
    pub(crate) fn new(out: W) -> Self {
        Escaping {
            out,
            state: State::default(),
            offered: Vec::new(),
            pending: Vec::new(),
        }
    }
}

impl State {
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            self.letter.push(byte);
            let letter = std::mem::take(&mut self.letter);
            match std::str::from_utf8(&letter) {
                Ok(letter) => self.letters(letter, out),
                // The rest of it may come.
                Err(error) if error.error_len().is_none() => self.letter = letter,
                Err(_) => self.invalid(&letter, out),
            }
        }
    }

    fn letters(&mut self, letters: &str, out: &mut Vec<u8>) {
        for letter in letters.chars() {
            let was_return = std::mem::replace(&mut self.is_return, letter == '\r');
            match letter {
                '\r' => {
                    if was_return {
                        out.extend(b"\\x0d");
                    }
                }
                '\n' if was_return => out.extend(b"\r\n"),
                letter => {
                    if was_return {
                        out.extend(b"\\x0d");
                    }
                    let mut utf8 = [0; 4];
                    out.extend(text(letter.encode_utf8(&mut utf8)).as_bytes());
                }
            }
        }
    }

    /// Bytes of which the last does not go on what the others begin: it may begin another.
    fn invalid(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some((last, before)) = bytes.split_last() else {
            return;
        };
        let alone = before.is_empty();
        for byte in if alone { bytes } else { before } {
            if std::mem::take(&mut self.is_return) {
                out.extend(b"\\x0d");
            }
            out.extend(format!("\\x{byte:02x}").as_bytes());
        }
        if !alone {
            self.take(&[*last], out);
        }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let goes_on = !self.offered.is_empty() && bytes.starts_with(&self.offered);
        if !goes_on {
            let taken = bytes.get(..TAKEN).unwrap_or(bytes);
            self.offered = taken.to_vec();
            self.pending.clear();
            self.state.take(taken, &mut self.pending);
        }
        while !self.pending.is_empty() {
            match self.out.write(&self.pending)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => drop(self.pending.drain(..written.min(self.pending.len()))),
            }
        }
        Ok(std::mem::take(&mut self.offered).len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_and_everything_else_stays() {
        for (before, after) in [
            ("plain – ünï 表\n\ttext", "plain – ünï 表\n\ttext"),
            ("\u{1b}[31mred\u{7}", "\\x1b[31mred\\x07"),
            ("a\rb\u{7f}\u{9b}2J", "a\\x0db\\x7f\\x9b2J"),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
        ] {
            assert_eq!(text(before), after);
        }
        let value = serde_json::json!({ "name": "\u{1b}\u{7f}\u{9b}\u{202e}" });
        let escaped = json(serde_json::to_string_pretty(&value).unwrap());
        assert!(!escaped.contains(is_harmful), "{escaped}");
        let read: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read, value);
    }

    #[test]
    fn a_console_comes_out_the_same_in_whatever_pieces() {
        let console = b"up\r\nat 5%\r\x1b[2J\xc3\xbc\xff\xe2\x82x\xc2\x9b\r\r\ntab\there\n";
        let wanted = "up\r\nat 5%\\x0d\\x1b[2Jü\\xff\\xe2\\x82x\\x9b\\x0d\r\ntab\there\n";
        for piece in 1..=console.len() {
            let mut escaping = Escaping::new(Vec::new());
            for piece in console.chunks(piece) {
                escaping.write_all(piece).unwrap();
            }
            assert_eq!(String::from_utf8_lossy(&escaping.out), wanted, "{piece}");
        }
    }

    /// Takes a few bytes, is interrupted, and so on.
    struct Slow(Vec<u8>, bool);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let few = &bytes[..bytes.len().min(3)];
            self.0.extend(few);
            Ok(few.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_is_lost_or_doubled_where_a_write_is_interrupted() {
        let mut escaping = Escaping::new(Slow(Vec::new(), false));
        escaping.write_all(b"one \x1b two").unwrap();
        escaping.write_all(b" and three\n").unwrap();
        let text = String::from_utf8_lossy(&escaping.out.0).into_owned();
        assert_eq!(text, "one \\x1b two and three\n");
        // Given up, what comes next is another.
        assert!(escaping.write(b"lost").is_err());
        escaping.write_all(b"kept").unwrap();
        let text = String::from_utf8_lossy(&escaping.out.0).into_owned();
        assert!(text.ends_with("kept"), "{text}");
    }
}
