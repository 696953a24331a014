//! QEMU's machine protocol, JSON lines over a socket (docs/interop/qmp-spec.rst in QEMU's tree), as bytes
//! that come and go: who connects, who waits, and for how long is each user's own.
//!
//! - [`command`]: a command, ready to be sent;
//! - [`Lines`]: what was received, cut into lines of bounded length;
//! - [`Message`]: what one line says;
//! - [`registers`]: every vCPU's registers, from what `info registers -a` prints.
//!
//! ```
//! use heirloom_qmp::{Lines, Message, command};
//! use serde_json::{Value, json};
//!
//! let sent = command("query-status", Value::Null, &json!(1));
//! assert_eq!(sent, b"{\"execute\":\"query-status\",\"id\":1}\n");
//!
//! let mut lines = Lines::new(1 << 20);
//! lines.push(b"{\"event\": \"STOP\"}\n{\"id\": 1, \"return\": {\"runn");
//! let event = lines.take()?.expect("it is whole");
//! assert_eq!(Message::parse(&event)?, Message::Event("STOP".into()));
//! assert_eq!(lines.take()?, None);
//!
//! lines.push(b"ing\": true}}\n");
//! let answer = Message::parse(&lines.take()?.expect("it is whole"))?;
//! let returned = Ok(json!({ "running": true }));
//! assert_eq!(answer, Message::Answer { id: Some(json!(1)), returned });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod lines;
mod message;
pub mod registers;

pub use lines::{Lines, TooLong};
pub use message::{Message, NotQmp, command, printable};
