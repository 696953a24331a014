//! Guests that wait for a debugger, and a client of our own that sends packets and takes what comes back.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::Elf;

/// However busy the machine is.
const AMPLE: Duration = Duration::from_secs(300);

pub(crate) fn heirloom() -> Command {
    Command::new(env!("CARGO_BIN_EXE_heirloom"))
}

/// A guest that waits for gdb.
pub(crate) struct Waiting {
    child: Child,
    /// Where gdb connects.
    pub(crate) place: String,
    said: JoinHandle<String>,
    shown: JoinHandle<String>,
}

/// How a guest came to its end.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
    pub(crate) shown: String,
}

impl Waiting {
    /// Starts the command, and returns when its guest waits.
    pub(crate) fn start(command: &mut Command) -> Waiting {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let place = line
            .trim()
            .strip_prefix("the guest waits for gdb: target remote ");
        let place = place.unwrap_or_else(|| panic!("{line}")).to_owned();
        let mut output = child.stdout.take().unwrap();
        Waiting {
            child,
            place,
            said: thread::spawn(move || {
                let mut said = String::new();
                lines.read_to_string(&mut said).unwrap();
                said
            }),
            shown: thread::spawn(move || {
                let mut shown = String::new();
                output.read_to_string(&mut shown).unwrap();
                shown
            }),
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        Ended {
            code: status.code(),
            said: self.said.join().unwrap(),
            shown: self.shown.join().unwrap(),
        }
    }
}

/// A client of our own: packets, and what comes back.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    received: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(guest: &Waiting) -> Client {
        let stream = UnixStream::connect(&guest.place).unwrap();
        stream.set_read_timeout(Some(AMPLE)).unwrap();
        Client {
            stream,
            received: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, words: &[u8]) {
        let sum = words.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        let mut packet = vec![b'$'];
        packet.extend(words);
        packet.extend(format!("#{sum:02x}").bytes());
        // What is refused for good is not read any more.
        let _ = self.stream.write_all(&packet);
    }

    /// The words of the next packet; `None` at the end.
    pub(crate) fn receive(&mut self) -> Option<String> {
        loop {
            let begin = self.received.iter().position(|byte| *byte == b'$');
            let end = begin.and_then(|begin| {
                let words = self.received[begin..].iter();
                words
                    .clone()
                    .position(|byte| *byte == b'#')
                    .map(|end| begin + end)
            });
            if let (Some(begin), Some(end)) = (begin, end)
                && self.received.len() >= end + 3
            {
                let words = self.received[begin + 1..end].to_vec();
                self.received.drain(..end + 3);
                return Some(String::from_utf8(words).unwrap());
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.received.extend(&bytes[..read]),
            }
        }
    }

    pub(crate) fn ask(&mut self, words: &str) -> String {
        self.send(words.as_bytes());
        self.receive().unwrap()
    }

    /// The register with this number, of eight bytes.
    pub(crate) fn register(&mut self, number: u32) -> u64 {
        let digits = self.ask(&format!("p{number:x}"));
        u64::from_str_radix(&digits, 16).unwrap().swap_bytes()
    }
}

/// What a packet has gdb show.
pub(crate) fn shown_text(words: &str) -> String {
    let digits = words.strip_prefix('O').unwrap().as_bytes().chunks(2);
    let pairs = digits.map(|pair| std::str::from_utf8(pair).unwrap());
    let bytes = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

/// A folder, and a command whose guest waits at a socket in it.
pub(crate) fn at_socket(words: &[&str]) -> (tempfile::TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = heirloom();
    command
        .args(words)
        .arg("--gdb")
        .arg(folder.path().join("gdb"));
    (folder, command)
}

/// A kernel of a few instructions, as a file in `folder`.
pub(crate) fn kernel(folder: &Path, code: &[u8]) -> PathBuf {
    let path = folder.join("kernel");
    fs::write(&path, Elf::new(code).bytes()).unwrap();
    path
}

/// RIP among the registers.
pub(crate) const RIP: u32 = 16;
