//! QMP, as far as a machine needs it: one question at a time, and the few events that say that the guest
//! stands still unasked.
//!
//! Whatever is at the other end, an answer is waited for until a deadline and has a bounded length.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use heirloom_qmp::registers::parse;
use heirloom_qmp::{Lines, Message, command};
use serde_json::{Value, json};

use super::error::QemuError;
use super::process::wait;
use super::registers::CpuStanding;
use crate::address::GuestVirtual;
use vm_memory::GuestAddress;

/// Bytes of one message at most; the registers of 256 CPUs take about 1 MB.
const MESSAGE_LIMIT: usize = 4 << 20;
/// What an answer may take when the deadline has passed or is near.
const GRACE: Duration = Duration::from_secs(5);
/// How long QEMU may not read what it is sent.
const STUCK: Duration = Duration::from_secs(10);

/// What QEMU said unasked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// The guest reset its machine, or its CPU did after a triple fault.
    pub(super) reset: bool,
    /// The guest stands still.
    pub(super) stopped: bool,
}

/// QEMU, to be asked.
pub(super) struct Monitor {
    socket: UnixStream,
    /// What was received and not understood yet.
    received: Lines,
    asked: u64,
    news: News,
    deadline: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The other end is closed.
    Closed,
    Silent(String),
    Other(QemuError),
}

impl From<QemuError> for Unanswered {
    fn from(error: QemuError) -> Unanswered {
        Unanswered::Other(error)
    }
}

impl Monitor {
    /// Over `socket`. Answers are waited for until `deadline`.
    pub(super) fn new(socket: UnixStream, deadline: Instant) -> io::Result<Monitor> {
        socket.set_write_timeout(Some(STUCK))?;
        Ok(Monitor {
            socket,
            received: Lines::new(MESSAGE_LIMIT),
            asked: 0,
            news: News::default(),
            deadline,
        })
    }

    /// To wait for what QEMU says.
    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// What was said unasked since the last call.
    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Takes in what has been received, without waiting.
    pub(super) fn listen(&mut self) -> Result<(), Unanswered> {
        self.receive(Duration::ZERO)?;
        while self.message()?.is_some() {}
        Ok(())
    }

    /// Asks one question and waits for its answer.
    pub(super) fn ask(&mut self, question: &str, arguments: Value) -> Result<Value, Unanswered> {
        self.asked += 1;
        let id = self.asked;
        let line = command(question, arguments, &json!(id));
        match self.socket.write_all(&line) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Unanswered::Silent(question.into()));
            }
            Err(_) => return Err(Unanswered::Closed),
        }
        let patience = self.deadline.max(Instant::now() + GRACE);
        loop {
            while let Some(message) = self.message()? {
                // QEMU cannot say which command it means if it could not read it.
                if let Message::Answer {
                    id: answered,
                    returned,
                } = message
                    && answered.is_none_or(|answered| answered == id)
                {
                    let refused = |answer| QemuError::Refused {
                        question: question.to_owned(),
                        answer,
                    };
                    return Ok(returned.map_err(refused)?);
                }
            }
            let rest = patience.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(Unanswered::Silent(question.into()));
            }
            self.receive(rest)?;
        }
    }

    /// What a command of the monitor for people prints.
    fn print(&mut self, line: &str) -> Result<String, Unanswered> {
        let arguments = json!({ "command-line": line });
        let printed = self.ask("human-monitor-command", arguments)?;
        Ok(printed.as_str().unwrap_or_default().to_owned())
    }

    /// Every vCPU.
    pub(super) fn cpus(&mut self) -> Result<Vec<CpuStanding>, Unanswered> {
        const QUESTION: &str = "info registers -a";
        let printed = self.print(QUESTION)?;
        let cpus = parse(&printed).map_err(|problem| form(QUESTION, problem))?;
        Ok(cpus.iter().map(CpuStanding::from).collect())
    }

    /// MAXPHYADDR, and whether there are 1 GiB leaves.
    pub(super) fn cpu_model(&mut self) -> Result<(u8, bool), Unanswered> {
        const QUESTION: &str = "query-cpus-fast";
        let cpus = self.ask(QUESTION, Value::Null)?;
        let path = cpus.get(0).and_then(|cpu| cpu.get("qom-path"));
        let path = path.and_then(Value::as_str).map(str::to_owned);
        let path = path.ok_or_else(|| form(QUESTION, "no qom-path".into()))?;
        let mut property = |name: &str| {
            let arguments = json!({ "path": path, "property": name });
            self.ask("qom-get", arguments)
        };
        let bits = property("phys-bits")?.as_u64();
        let bits = bits.and_then(|bits| u8::try_from(bits).ok());
        let bits = bits.filter(|bits| (32..=52).contains(bits));
        let bits = bits.ok_or_else(|| form("qom-get", "phys-bits is no number of bits".into()))?;
        let gigabyte_pages = property("pdpe1gb")?.as_bool();
        let gigabyte_pages =
            gigabyte_pages.ok_or_else(|| form("qom-get", "pdpe1gb is not yes or no".into()))?;
        Ok((bits, gigabyte_pages))
    }

    /// What QEMU makes of `address` in the first CPU's present address space; `None` if it is unmapped.
    pub(super) fn translate(
        &mut self,
        address: GuestVirtual,
    ) -> Result<Option<GuestAddress>, Unanswered> {
        let question = format!("gva2gpa {:#x}", address.0);
        let printed = self.print(&question)?;
        let printed = printed.trim();
        if printed == "Unmapped" {
            return Ok(None);
        }
        let found = printed
            .strip_prefix("gpa: ")
            // 0 has no prefix.
            .map(|number| number.strip_prefix("0x").unwrap_or(number))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let found = found.ok_or_else(|| form(&question, "no address".into()))?;
        Ok(Some(GuestAddress(found)))
    }

    /// Receives what there is, or waits for it so long.
    fn receive(&mut self, patience: Duration) -> Result<(), Unanswered> {
        let [ready] =
            wait([Some(self.socket.as_fd())], patience).map_err(|source| QemuError::Host {
                what: "wait",
                source,
            })?;
        if !ready {
            return Ok(());
        }
        let mut piece = [0; 16 << 10];
        match self.socket.read(&mut piece) {
            Ok(0) => Err(Unanswered::Closed),
            Ok(count) => {
                self.received.push(&piece[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(Unanswered::Closed),
        }
    }

    /// The next whole message that has been received; events are taken note of on the way.
    fn message(&mut self) -> Result<Option<Message>, Unanswered> {
        let unknown = |problem| form("qmp_capabilities", problem);
        let line = self.received.take();
        let Some(line) = line.map_err(|long| unknown(long.to_string()))? else {
            return Ok(None);
        };
        let message = Message::parse(&line).map_err(|not| unknown(not.to_string()))?;
        match &message {
            Message::Event(name) if name == "SHUTDOWN" || name == "RESET" => self.news.reset = true,
            Message::Event(name) if name == "STOP" => self.news.stopped = true,
            _ => {}
        }
        Ok(Some(message))
    }
}

fn form(question: &str, problem: String) -> Unanswered {
    Unanswered::Other(QemuError::Form {
        question: question.to_owned(),
        problem,
    })
}
