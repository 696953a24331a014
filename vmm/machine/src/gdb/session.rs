//! The connection to gdb while it lasts: the guest is held, and run on as gdb wants.

use std::io;
use std::time::{Duration, Instant};

use crate::kvm::KvmModule;
use crate::machine::Machine;
use crate::run::{RunError, Stop};

use super::Monitor;
use super::breakpoints::{Breakpoints, Kind};
use super::command::Answer;
use super::listen::{Connection, Input};
use super::packet::{Decoder, Received, packet, push_hex};

/// Time between two looks whether gdb wants the guest to stop, and whether the run is to be ended while gdb holds the
/// guest.
const STEP: Duration = Duration::from_millis(50);
/// Bytes of text that gdb is shown at a time.
const TEXT_BYTES: usize = 2048;

/// Signals as gdb numbers them (GDB's manual, E.2).
const SIGINT: u8 = 2;
const SIGTRAP: u8 = 5;
const SIGABRT: u8 = 6;
const SIGKILL: u8 = 9;

/// Which CPUs run, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resume {
    /// This one alone; else all.
    pub only: Option<usize>,
    /// Those that make one step.
    pub stepping: Vec<usize>,
}

/// Why the guest is held.
#[derive(Clone, Debug)]
pub(super) struct Halt {
    pub signal: u8,
    pub cpu: usize,
    /// The breakpoint that a CPU came to.
    pub breakpoint: Option<Kind>,
}

/// How it came that the guest is no longer held.
enum Released {
    Resumed,
    /// The run is to be ended.
    Interrupted,
    Killed,
    /// The guest is to run on without.
    Gone,
}

/// gdb and what it wants.
pub(crate) struct Session {
    /// None once it is over.
    connection: Option<Connection>,
    decoder: Decoder,
    /// What was taken out of the connection and not dealt with.
    received: std::collections::VecDeque<Received>,
    last: Vec<u8>,
    /// What both ends have agreed on.
    pub(super) acknowledges: bool,
    pub(super) takes_error_texts: bool,
    pub(super) breakpoints: Breakpoints,
    pub(super) monitor: Monitor,
    /// Whether KVM emulates ring 0 and debugs nothing else.
    pub(super) ring_3_is_out_of_reach: bool,
    /// The CPU whose registers and memory gdb asks for, and the one that it steps by old commands.
    pub(super) asked: usize,
    pub(super) moved: usize,
    pub(super) halt: Option<Halt>,
    resume: Resume,
}

impl Session {
    pub(super) fn new(
        connection: Connection,
        module: Option<KvmModule>,
        monitor: Monitor,
    ) -> Session {
        Session {
            connection: Some(connection),
            decoder: Decoder::default(),
            received: std::collections::VecDeque::new(),
            last: Vec::new(),
            acknowledges: true,
            takes_error_texts: false,
            breakpoints: Breakpoints::default(),
            monitor,
            ring_3_is_out_of_reach: module == Some(KvmModule::Pvm),
            asked: 0,
            moved: 0,
            // The guest has not begun.
            halt: Some(Halt {
                signal: SIGTRAP,
                cpu: 0,
                breakpoint: None,
            }),
            resume: Resume::default(),
        }
    }

    /// Runs the guest as gdb wants until there is something for somebody else; `None` once gdb is gone.
    pub(crate) fn run(
        &mut self,
        machine: &mut Machine,
        deadline: Instant,
    ) -> Result<Option<Stop>, RunError> {
        loop {
            if self.halt.is_some() {
                match self.hold(machine)? {
                    Released::Resumed => {}
                    Released::Killed => return Ok(Some(Stop::Killed)),
                    Released::Interrupted => return Ok(Some(Stop::Interrupted)),
                    Released::Gone => return Ok(None),
                }
            }
            if !self.listen(machine)? {
                return Ok(None);
            }
            if self.halt.is_some() {
                continue;
            }
            machine.debug(&self.breakpoints.addresses(), &self.resume.stepping)?;
            let slice = deadline.min(Instant::now() + STEP);
            let stop = machine.run_cpus(self.resume.only, slice)?;
            match &stop {
                Stop::Debug => {
                    let breakpoint = self.breakpoints.at(machine.registers()?.rip);
                    self.tell_halt(Halt {
                        signal: SIGTRAP,
                        cpu: machine.stopped_by(),
                        breakpoint,
                    });
                }
                Stop::TimeLimit if Instant::now() < deadline => {}
                Stop::InternalError { .. } | Stop::Shutdown | Stop::FailEntry { .. } => {
                    let why = match &stop {
                        Stop::InternalError { suberror: 1, .. } => {
                            "KVM cannot run the instruction at RIP"
                        }
                        Stop::Shutdown => "the guest crashed (triple fault)",
                        _ => "KVM cannot run the guest on",
                    };
                    self.last_look(machine, why)?;
                    return Ok(Some(stop));
                }
                _ => return Ok(Some(stop)),
            }
        }
    }

    /// Has gdb hold a guest that is lost until its user has seen enough.
    pub(crate) fn last_look(&mut self, machine: &mut Machine, why: &str) -> Result<(), RunError> {
        self.say(&format!("heirloom: {why}; this is its last state\n"));
        self.tell_halt(Halt {
            signal: SIGABRT,
            cpu: machine.stopped_by(),
            breakpoint: None,
        });
        self.hold(machine).map(drop)
    }

    /// Answers gdb until it lets the guest run.
    fn hold(&mut self, machine: &mut Machine) -> Result<Released, RunError> {
        let begin = Instant::now();
        machine.settle();
        let released = self.answer_until_released(machine);
        machine.held += begin.elapsed();
        released
    }

    fn answer_until_released(&mut self, machine: &mut Machine) -> Result<Released, RunError> {
        loop {
            if machine.interrupter().is_wanted() {
                return Ok(Released::Interrupted);
            }
            let received = match self.receive(STEP) {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(error) => return self.lost(machine, &error),
            };
            let answer = match received {
                Received::Packet(words) => {
                    if self.acknowledges {
                        self.send_raw(b"+");
                    }
                    self.command(machine, &words)?
                }
                Received::Damaged => {
                    self.send_raw(b"-");
                    Answer::Nothing
                }
                Received::Again => {
                    let last = std::mem::take(&mut self.last);
                    self.send_raw(&last);
                    self.last = last;
                    Answer::Nothing
                }
                // It stands still.
                Received::Interrupt => Answer::Nothing,
            };
            match answer {
                Answer::Nothing => {}
                Answer::Words(words) => self.send(&words),
                Answer::Resume(resume) => {
                    self.halt = None;
                    self.resume = resume;
                    return Ok(Released::Resumed);
                }
                Answer::Detach => {
                    self.send(b"OK");
                    self.connection = None;
                    self.let_go(machine)?;
                    return Ok(Released::Gone);
                }
                Answer::Kill(words) => {
                    self.send(words);
                    self.connection = None;
                    return Ok(Released::Killed);
                }
            }
        }
    }

    /// Whether gdb is still there; what it has said while the guest ran is dealt with.
    fn listen(&mut self, machine: &mut Machine) -> Result<bool, RunError> {
        // A little at a time: whoever never ends does not hold the guest.
        let received = match self.receive(Duration::ZERO) {
            Ok(received) => received,
            Err(error) => return self.lost(machine, &error).map(|_| false),
        };
        match received {
            Some(Received::Interrupt) => self.tell_halt(Halt {
                signal: SIGINT,
                cpu: 0,
                breakpoint: None,
            }),
            Some(Received::Packet(_)) => {
                if self.acknowledges {
                    self.send_raw(b"+");
                }
                self.send(b"E.the guest runs");
            }
            Some(Received::Damaged | Received::Again) | None => {}
        }
        Ok(true)
    }

    /// The next thing that has come, waiting no longer than `time` for it.
    fn receive(&mut self, time: Duration) -> io::Result<Option<Received>> {
        if self.received.is_empty() {
            let Some(connection) = &mut self.connection else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let bytes = match connection.read(time)? {
                Input::Nothing => return Ok(None),
                Input::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Input::Bytes(bytes) => bytes,
            };
            for byte in bytes {
                let taken = self.decoder.take(byte);
                let too_long = |_| io::Error::other("it sent a packet that is too long");
                self.received.extend(taken.map_err(too_long)?);
            }
        }
        Ok(self.received.pop_front())
    }

    /// The guest is held from now on, and gdb is told why.
    pub(super) fn tell_halt(&mut self, halt: Halt) {
        self.resume = Resume::default();
        self.asked = halt.cpu;
        self.moved = halt.cpu;
        let words = halt.to_string();
        self.halt = Some(halt);
        self.send(words.as_bytes());
    }

    /// Shows the user of gdb a text. Only while gdb waits for an answer.
    pub(super) fn say(&mut self, text: &str) {
        for part in text.as_bytes().chunks(TEXT_BYTES) {
            let mut words = vec![b'O'];
            push_hex(&mut words, part);
            self.send(&words);
        }
    }

    fn send(&mut self, words: &[u8]) {
        let packet = packet(words);
        self.send_raw(&packet);
        self.last = packet;
    }

    /// A connection that cannot be written to is found to be lost when it is read.
    fn send_raw(&mut self, bytes: &[u8]) {
        if let Some(connection) = &mut self.connection
            && let Err(error) = connection.write(bytes)
        {
            log::debug!("gdb does not take what it is sent: {error}");
            self.connection = None;
        }
    }

    /// gdb is gone, and has not said so.
    fn lost(&mut self, machine: &mut Machine, error: &io::Error) -> Result<Released, RunError> {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => String::new(),
            _ => format!(" ({error})"),
        };
        log::warn!("the connection to gdb is lost{why}: the guest runs on without");
        self.connection = None;
        self.let_go(machine)?;
        Ok(Released::Gone)
    }

    /// The guest is debugged no more.
    fn let_go(&mut self, machine: &mut Machine) -> Result<(), RunError> {
        self.breakpoints = Breakpoints::default();
        self.halt = None;
        Ok(machine.debug(&self.breakpoints.addresses(), &[])?)
    }

    /// The guest has come to its end, with this status; gdb has nothing more to do.
    pub(crate) fn end(&mut self, status: u8) {
        self.send(format!("W{status:02x}").as_bytes());
        self.connection = None;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The run was ended by somebody else.
        self.send(format!("X{SIGKILL:02x}").as_bytes());
    }
}

/// As a stop reply packet (GDB's manual, E.3).
impl std::fmt::Display for Halt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "T{:02x}thread:{:x};", self.signal, self.cpu + 1)?;
        match self.breakpoint {
            Some(Kind::Software) => f.write_str("swbreak:;"),
            Some(Kind::Hardware) => f.write_str("hwbreak:;"),
            None => Ok(()),
        }
    }
}
