//! A QEMU that is a thread of the test: it says what the test wants, and the guest's memory is the
//! test's own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::TempDir;

const GREETING: &str =
    r#"{"QMP":{"version":{"qemu":{"major":9,"minor":2,"micro":0}},"capabilities":["oob"]}}"#;
const REGISTERS: &str = include_str!("../../../qmp/src/tests/registers.txt");
/// The only RAM that the fake guest has.
pub(crate) const RAM: usize = 64 << 10;

/// How the fake behaves.
pub(crate) struct Fake {
    pub(crate) greeting: &'static str,
    pub(crate) running: bool,
    /// Lines sent in front of each answer.
    pub(crate) events: &'static str,
    /// Whole answer lines in place of the sound ones, `ID` standing for the command's; none to hang.
    pub(crate) instead: HashMap<&'static str, Option<String>>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            greeting: GREETING,
            running: true,
            events: "",
            instead: HashMap::new(),
        }
    }
}

/// A fake that listens, and what it was asked.
pub(crate) struct Served {
    pub(crate) spec: String,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

/// What the fake guest has in memory.
pub(crate) fn memory() -> Vec<u8> {
    (0..RAM / 8).flat_map(usize::to_le_bytes).collect()
}

impl Fake {
    pub(crate) fn instead(mut self, command: &'static str, answer: impl Into<String>) -> Fake {
        self.instead.insert(command, Some(answer.into()));
        self
    }

    pub(crate) fn hang(mut self, command: &'static str) -> Fake {
        self.instead.insert(command, None);
        self
    }

    /// Serves one connection.
    pub(crate) fn serve(self) -> Served {
        self.serve_while(|count| count == 0)
    }

    /// Serves connections, one after the other, while this is so of how many there have been.
    pub(crate) fn serve_while(mut self, more: impl Fn(usize) -> bool + Send + 'static) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let thread = std::thread::spawn(move || {
            for count in 0.. {
                if !more(count) {
                    break;
                }
                if let Ok((stream, _)) = listener.accept() {
                    // The client may go at any time.
                    let _ = self.talk(stream, &log);
                }
            }
        });
        Served {
            spec: format!("qemu:{}", path.display()),
            asked,
            thread: Some(thread),
            _directory: directory,
        }
    }

    fn talk(&mut self, stream: UnixStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
        let memory = memory();
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut out = stream;
        writeln!(out, "{}", self.greeting)?;
        while let Some(Ok(line)) = lines.next() {
            let message: Value = serde_json::from_str(&line).unwrap();
            let command = message["execute"].as_str().unwrap().to_owned();
            let arguments = &message["arguments"];
            let question = match arguments["command-line"].as_str() {
                Some(line) => line.to_owned(),
                None => match (arguments["path"].as_str(), arguments["property"].as_str()) {
                    (Some(path), Some(property)) => format!("{path} {property}"),
                    _ => command,
                },
            };
            let first = question.split(' ').next().unwrap().to_owned();
            log.lock().unwrap().push(question.clone());
            let events = self.events.to_owned();
            if !events.is_empty() {
                writeln!(out, "{events}")?;
            }
            let key = [question.as_str(), first.as_str()]
                .into_iter()
                .find(|key| self.instead.contains_key(key));
            if let Some(key) = key {
                match &self.instead[key] {
                    Some(answer) => {
                        writeln!(out, "{}", answer.replace("ID", &message["id"].to_string()))?;
                    }
                    None => continue,
                }
                continue;
            }
            let value = self.answer(&question, &memory);
            writeln!(out, "{}", json!({ "return": value, "id": message["id"] }))?;
        }
        Ok(())
    }

    fn answer(&mut self, question: &str, memory: &[u8]) -> Value {
        let mut words = question.split(' ');
        let command = words.next().unwrap();
        let last = words.next_back().unwrap_or_default();
        let address = || usize::from_str_radix(last.trim_start_matches("0x"), 16).unwrap();
        match command {
            "query-status" => json!({ "running": self.running, "status": "any" }),
            "stop" | "cont" => {
                self.running = command == "cont";
                json!({})
            }
            "query-cpus-fast" => {
                let cpu = json!({ "thread-id": std::process::id(), "qom-path": "/cpu" });
                json!([cpu, cpu])
            }
            "/cpu" => json!(40),
            "info" if last == "-a" => json!(REGISTERS),
            "info" => json!(
                "FlatView #0\n AS \"memory\", root: system\n Root memory region: system\n  \
                 0000000000000000-000000000000ffff (prio 0, ram): pc.ram\n"
            ),
            "gpa2hva" if address() >= RAM => json!("No memory is mapped at address\r\n"),
            "gpa2hva" => json!(format!(
                "Host virtual address for {last} (pc.ram) is {:#x}\r\n",
                memory.as_ptr() as usize + address()
            )),
            "xp" => {
                let at = address();
                let word = |at: usize| {
                    memory[at..]
                        .first_chunk()
                        .map(|word| u64::from_le_bytes(*word))
                };
                let words = [at, at + 8].map(|at| word(at).unwrap());
                json!(format!(
                    "{at:016x}: {:#018x} {:#018x}\r\n",
                    words[0], words[1]
                ))
            }
            _ => json!({}),
        }
    }
}

impl Served {
    /// What it was asked, when the connection has ended.
    pub(crate) fn asked(mut self) -> Vec<String> {
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}
