//! What goes to QEMU and what comes back.

use std::error::Error;
use std::fmt;

use serde_json::{Value, json};

/// Bytes of what the other side says in a message of ours.
const SAID_LIMIT: usize = 200;

/// The line that makes QEMU execute `command`. Its answer has the same `id`.
pub fn command(command: &str, arguments: Value, id: &Value) -> Vec<u8> {
    let mut message = json!({ "execute": command, "id": id });
    if !arguments.is_null() {
        message["arguments"] = arguments;
    }
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// One line that QEMU sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// What it says when somebody connects.
    Greeting,
    /// Something happened: its name.
    Event(String),
    /// To a command.
    Answer {
        /// The command's; `None` if QEMU could not read the command.
        id: Option<Value>,
        /// What it returned, or why it did not, fit for a terminal.
        returned: Result<Value, String>,
    },
}

/// A line that is no message of QMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotQmp {
    /// Its beginning, fit for a terminal.
    pub said: String,
}

impl Error for NotQmp {}

impl fmt::Display for NotQmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no QMP", self.said)
    }
}

impl Message {
    /// What `line` says.
    ///
    /// # Errors
    /// [`NotQmp`].
    pub fn parse(line: &[u8]) -> Result<Message, NotQmp> {
        let not_qmp = || NotQmp {
            said: printable(line),
        };
        let mut message: Value = serde_json::from_slice(line).map_err(|_| not_qmp())?;
        if message.get("QMP").is_some() {
            return Ok(Message::Greeting);
        }
        if let Some(event) = message.get("event") {
            let name = event.as_str().ok_or_else(not_qmp)?;
            return Ok(Message::Event(name.to_owned()));
        }
        let returned = if let Some(error) = message.get("error") {
            let reason = error.get("desc").and_then(Value::as_str);
            Err(printable(reason.unwrap_or("without a reason").as_bytes()))
        } else {
            Ok(message.get_mut("return").ok_or_else(not_qmp)?.take())
        };
        let id = message.get_mut("id").map(Value::take);
        Ok(Message::Answer { id, returned })
    }
}

/// The beginning of what the other side said, fit for a terminal.
pub fn printable(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(&said[..said.len().min(SAID_LIMIT)]);
    let printable = |letter: char| match letter {
        letter if letter.is_whitespace() => ' ',
        letter if letter.is_control() => '?',
        letter => letter,
    };
    text.trim().chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_refused_with_what_was_said() {
        for line in [
            "",
            "QEMU 7.2 monitor",
            "{\"id\": 1}",
            "[]",
            "{\"event\": 1}",
            "\u{1b}[2J",
        ] {
            let NotQmp { said } = Message::parse(line.as_bytes()).unwrap_err();
            assert!(!said.chars().any(char::is_control), "{said:?}");
        }
        let long = Message::parse(&vec![b'x'; 1 << 20]).unwrap_err();
        assert_eq!(long.said.len(), SAID_LIMIT);
    }

    #[test]
    fn a_refusal_comes_before_a_value_and_reaches_a_terminal_harmless() {
        let refusal = b"{\"return\": {}, \"error\": {\"desc\": \"no\\u001b[31m\"}}";
        let Message::Answer { id, returned } = Message::parse(refusal).unwrap() else {
            panic!("it is an answer");
        };
        assert_eq!((id, returned), (None, Err("no?[31m".to_owned())));
        let greeting = b"{\"QMP\": {\"version\": {}}}";
        assert_eq!(Message::parse(greeting), Ok(Message::Greeting));
    }
}
