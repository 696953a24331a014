//! What gdb asks for, and what it is answered.

use super::breakpoints::Kind;
use super::packet::{PACKET_BYTES, bytes, digits, push_hex};
use super::session::{Resume, Session};
use super::{documents, memory, registers};
use crate::kvm::KvmError;
use crate::machine::Machine;
use crate::run::RunError;

/// What comes of a command.
pub(super) enum Answer {
    Words(Vec<u8>),
    /// What answers comes later, or never.
    Nothing,
    Resume(Resume),
    Detach,
    Kill(&'static [u8]),
}

impl Answer {
    /// What is not known is answered so (GDB's manual, E.1).
    const UNKNOWN: Answer = Answer::Words(Vec::new());

    fn ok() -> Answer {
        Answer::words("OK")
    }

    fn hex(bytes: &[u8]) -> Answer {
        let mut text = Vec::new();
        push_hex(&mut text, bytes);
        Answer::Words(text)
    }

    fn words(text: impl Into<String>) -> Answer {
        Answer::Words(text.into().into_bytes())
    }
}

/// Why a command is not done.
enum Problem {
    /// In words for people.
    Refused(String),
    /// The machine cannot go on.
    Machine(RunError),
}

impl From<&str> for Problem {
    fn from(why: &str) -> Problem {
        Problem::Refused(why.into())
    }
}

impl From<String> for Problem {
    fn from(why: String) -> Problem {
        Problem::Refused(why)
    }
}

impl From<KvmError> for Problem {
    fn from(error: KvmError) -> Problem {
        Problem::Machine(error.into())
    }
}

/// A command that is not as the manual has it.
const MALFORMED: &str = "the command is malformed";
/// What is read at a time, at most: two digits stand for a byte.
pub(super) const MAX_READ: u64 = PACKET_BYTES as u64 / 2 - 8;
/// What both ends can do (GDB's manual, E.4, `qSupported`).
const SUPPORTED: &str = "qXfer:features:read+;qXfer:memory-map:read+;vContSupported+;QStartNoAckMode+;swbreak+;hwbreak+";

impl Session {
    /// Does what gdb asks for.
    ///
    /// # Errors
    /// The machine cannot go on.
    pub(super) fn command(
        &mut self,
        machine: &mut Machine,
        words: &[u8],
    ) -> Result<Answer, RunError> {
        match self.answer(machine, words) {
            Ok(answer) => Ok(answer),
            Err(Problem::Machine(error)) => Err(error),
            Err(Problem::Refused(why)) => {
                log::debug!("gdb is refused something: {why}");
                // gdb before version 14 takes texts in answers to a few commands alone.
                let takes_texts = words
                    .first()
                    .is_some_and(|letter| b"ZzvcCsS".contains(letter));
                Ok(if takes_texts || self.takes_error_texts {
                    Answer::words(format!("E.{why}"))
                } else {
                    Answer::words("E01")
                })
            }
        }
    }

    fn answer(&mut self, machine: &mut Machine, words: &[u8]) -> Result<Answer, Problem> {
        let Some((&letter, rest)) = words.split_first() else {
            return Ok(Answer::UNKNOWN);
        };
        match letter {
            b'?' => Ok(Answer::words(
                self.halt
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string),
            )),
            b'g' => self.registers(machine),
            b'G' => self.set_registers(machine, &bytes(rest).ok_or(MALFORMED)?),
            b'p' => self.register(machine, rest),
            b'P' => self.set_register(machine, rest),
            b'm' => self.read(machine, rest),
            b'M' => self.write(machine, rest, bytes),
            b'X' => self.write(machine, rest, |raw| Some(raw.to_vec())),
            b'Z' | b'z' => self.breakpoint(letter == b'Z', rest),
            b'H' => self.choose(machine, rest),
            b'T' => thread(machine, rest).map(|_| Answer::ok()),
            b'c' | b'C' | b's' | b'S' => self.old_resume(machine, letter, rest),
            b'v' => self.v_command(machine, rest),
            b'q' | b'Q' => self.query(machine, words),
            b'D' => Ok(Answer::Detach),
            // Nobody waits for an answer.
            b'k' => Ok(Answer::Kill(b"")),
            _ => Ok(Answer::UNKNOWN),
        }
    }

    fn registers(&self, machine: &Machine) -> Result<Answer, Problem> {
        Ok(Answer::hex(&registers::write(&machine.state(self.asked)?)))
    }

    fn set_registers(&self, machine: &Machine, new: &[u8]) -> Result<Answer, Problem> {
        let old = machine.state(self.asked)?;
        let new = registers::read(&old, new)
            .ok_or("selectors, control registers and the FPU's own are not set by a debugger")?;
        // What KVM does not take is the user's mistake.
        let set = machine.set_state(self.asked, &old, &new);
        set.map_err(|error| error.to_string())?;
        Ok(Answer::ok())
    }

    fn register(&self, machine: &Machine, number: &[u8]) -> Result<Answer, Problem> {
        let place = digits(number).and_then(registers::place);
        let place = place.ok_or("there is no such register")?;
        let all = registers::write(&machine.state(self.asked)?);
        Ok(Answer::hex(&all[place]))
    }

    fn set_register(&self, machine: &Machine, words: &[u8]) -> Result<Answer, Problem> {
        let (number, value) = split(words, b'=').ok_or(MALFORMED)?;
        let place = digits(number).and_then(registers::place);
        let place = place.ok_or("there is no such register")?;
        let value = bytes(value).filter(|value| value.len() == place.len());
        let mut all = registers::write(&machine.state(self.asked)?);
        all[place].copy_from_slice(&value.ok_or(MALFORMED)?);
        self.set_registers(machine, &all)
    }

    fn read(&self, machine: &Machine, words: &[u8]) -> Result<Answer, Problem> {
        let (at, length) = place(words)?;
        let length = usize::try_from(length.min(MAX_READ)).unwrap_or(0);
        let cpu = machine.state(self.asked)?.registers();
        let read = memory::read(machine, &cpu, at, length);
        Ok(Answer::hex(&read.map_err(|why| format!("{at:#x}: {why}"))?))
    }

    fn write(
        &self,
        machine: &mut Machine,
        words: &[u8],
        value: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<Answer, Problem> {
        let (words, value_words) = split(words, b':').ok_or(MALFORMED)?;
        let (at, length) = place(words)?;
        let value = value(value_words).filter(|value| u64::try_from(value.len()) == Ok(length));
        let cpu = machine.state(self.asked)?.registers();
        let written = memory::write(machine, &cpu, at, &value.ok_or(MALFORMED)?);
        written.map_err(|why| format!("{at:#x}: {why}"))?;
        // No log of KVM's tells of it, and it may have been a page table.
        machine.forget_written_frames();
        Ok(Answer::ok())
    }

    fn breakpoint(&mut self, sets: bool, words: &[u8]) -> Result<Answer, Problem> {
        let (kind, rest) = split(words, b',').ok_or(MALFORMED)?;
        let (address, _) = split(rest, b',').ok_or(MALFORMED)?;
        let address = digits(address).ok_or(MALFORMED)?;
        let kind = match kind {
            b"0" => Kind::Software,
            b"1" => Kind::Hardware,
            // Watchpoints.
            _ => return Ok(Answer::UNKNOWN),
        };
        if !sets {
            self.breakpoints.remove(kind, address);
        } else if !self.breakpoints.set(kind, address) {
            return Err("all four breakpoints that a CPU has are set".into());
        }
        Ok(Answer::ok())
    }

    /// `H`: which CPU what follows is about.
    fn choose(&mut self, machine: &Machine, words: &[u8]) -> Result<Answer, Problem> {
        let (what, id) = words.split_first().ok_or(MALFORMED)?;
        // Any, and all.
        let cpu = match id {
            b"0" | b"-1" => None,
            id => Some(thread(machine, id)?),
        };
        match what {
            b'g' => self.asked = cpu.unwrap_or(self.asked),
            b'c' => self.moved = cpu.unwrap_or(self.moved),
            _ => return Err(MALFORMED.into()),
        }
        Ok(Answer::ok())
    }

    /// `c`, `s` and their like, which gdb uses where it knows nothing better.
    fn old_resume(&self, machine: &Machine, letter: u8, rest: &[u8]) -> Result<Answer, Problem> {
        let address = match letter {
            b'C' | b'S' => split(rest, b';').map_or(&b""[..], |(_, address)| address),
            _ => rest,
        };
        if !address.is_empty() {
            return Err("set RIP instead".into());
        }
        let steps = letter.eq_ignore_ascii_case(&b's');
        self.resume(
            machine,
            Resume {
                only: None,
                stepping: steps.then_some(self.moved).into_iter().collect(),
            },
        )
    }

    fn v_command(&self, machine: &Machine, words: &[u8]) -> Result<Answer, Problem> {
        match words {
            b"Cont?" => Ok(Answer::words("vCont;c;C;s;S")),
            _ if words.starts_with(b"Kill") => Ok(Answer::Kill(b"OK")),
            _ => match words.strip_prefix(b"Cont;") {
                Some(actions) => self.resume(machine, actions_of(machine, self.asked, actions)?),
                None => Ok(Answer::UNKNOWN),
            },
        }
    }

    /// What would not come to an end is refused.
    fn resume(&self, machine: &Machine, resume: Resume) -> Result<Answer, Problem> {
        for cpu in &resume.stepping {
            if machine.waits_to_be_started(*cpu)? {
                return Err(format!("CPU {cpu} is not started yet").into());
            }
            if self.ring_3_is_out_of_reach && machine.state(*cpu)?.registers().cpl == 3 {
                return Err("this host's KVM (kvm_pvm) makes no single steps in ring 3".into());
            }
        }
        Ok(Answer::Resume(resume))
    }

    fn query(&mut self, machine: &Machine, words: &[u8]) -> Result<Answer, Problem> {
        let (name, rest) = match words.iter().position(|byte| b":,".contains(byte)) {
            Some(at) => (&words[..at], &words[at + 1..]),
            None => (words, &b""[..]),
        };
        Ok(match name {
            b"qSupported" => {
                let mut offered = rest.split(|byte| *byte == b';');
                self.takes_error_texts = offered.any(|feature| feature == b"error-message+");
                Answer::words(format!("PacketSize={PACKET_BYTES:x};{SUPPORTED}"))
            }
            b"QStartNoAckMode" => {
                self.acknowledges = false;
                Answer::ok()
            }
            b"qAttached" => Answer::words("1"),
            b"qC" => Answer::words(format!("QC{:x}", self.asked + 1)),
            b"qfThreadInfo" => {
                let threads = (1..=machine.cpu_count()).map(|id| format!("{id:x}"));
                Answer::words(format!("m{}", threads.collect::<Vec<_>>().join(",")))
            }
            b"qsThreadInfo" => Answer::words("l"),
            b"qThreadExtraInfo" => Answer::hex(about(machine, thread(machine, rest)?)?.as_bytes()),
            b"qXfer" => documents::part(machine, rest).map_or(Answer::words("E00"), Answer::Words),
            b"qRcmd" => {
                let command = bytes(rest).ok_or(MALFORMED)?;
                let command = String::from_utf8_lossy(&command);
                let text = (self.monitor)(machine, self.asked, command.trim());
                self.say(&text);
                Answer::ok()
            }
            _ => Answer::UNKNOWN,
        })
    }
}

/// What people read about a CPU.
fn about(machine: &Machine, cpu: usize) -> Result<String, KvmError> {
    Ok(if machine.waits_to_be_started(cpu)? {
        format!("CPU {cpu}, not started")
    } else {
        format!("CPU {cpu}, ring {}", machine.state(cpu)?.registers().cpl)
    })
}

/// What each CPU is to do by `vCont`: the first action that is about it.
fn actions_of(machine: &Machine, any: usize, words: &[u8]) -> Result<Resume, Problem> {
    let mut actions = vec![None; machine.cpu_count()];
    for action in words.split(|byte| *byte == b';') {
        let (action, id) =
            split(action, b':').map_or((action, None), |(action, id)| (action, Some(id)));
        let steps = match action.first() {
            Some(b's' | b'S') => true,
            Some(b'c' | b'C') => false,
            _ => return Err(MALFORMED.into()),
        };
        let cpus = match id {
            None | Some(b"-1") => 0..actions.len(),
            Some(b"0") => any..any + 1,
            Some(id) => {
                let cpu = thread(machine, id)?;
                cpu..cpu + 1
            }
        };
        for action in &mut actions[cpus] {
            action.get_or_insert(steps);
        }
    }
    let chosen = |wanted: &dyn Fn(Option<bool>) -> bool| -> Vec<usize> {
        let numbered = actions
            .iter()
            .enumerate()
            .filter(|(_, action)| wanted(**action));
        numbered.map(|(cpu, _)| cpu).collect()
    };
    let stepping = chosen(&|action| action == Some(true));
    match chosen(&|action: Option<bool>| action.is_some())[..] {
        [] => Err(MALFORMED.into()),
        [cpu] if actions.len() > 1 => Ok(Resume {
            only: Some(cpu),
            stepping,
        }),
        ref running if running.len() == actions.len() => Ok(Resume {
            only: None,
            stepping,
        }),
        _ => Err("either one CPU runs or all do".into()),
    }
}

/// The CPU that gdb calls by this number.
fn thread(machine: &Machine, id: &[u8]) -> Result<usize, Problem> {
    let id = digits(id).and_then(|id| usize::try_from(id).ok());
    let cpu = id.and_then(|id| id.checked_sub(1));
    let cpu = cpu.filter(|cpu| *cpu < machine.cpu_count());
    cpu.ok_or_else(|| "there is no such CPU".into())
}

/// An address and a length, as `m` and its like have them.
fn place(words: &[u8]) -> Result<(u64, u64), Problem> {
    let (at, length) = split(words, b',').ok_or(MALFORMED)?;
    Ok((
        digits(at).ok_or(MALFORMED)?,
        digits(length).ok_or(MALFORMED)?,
    ))
}

/// What is before the first `byte` and behind it.
pub(super) fn split(words: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = words.iter().position(|other| *other == byte)?;
    Some((&words[..at], &words[at + 1..]))
}
