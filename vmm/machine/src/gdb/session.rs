//! The connection to gdb while it lasts: the guest is held, and run on as gdb wants. The protocol is gdbstub's.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use gdbstub::common::{Signal, Tid};
use gdbstub::conn::Connection as _;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};

use super::breakpoints::Kind;
use super::listen::{Connection, Input};
use super::target::{Wishes, tid};
use crate::machine::Machine;
use crate::run::{RunError, Stop};

/// Bytes of the longest packet that is taken; gdb is told.
pub(super) const PACKET_BYTES: usize = 16 << 10;
/// Bytes of text that gdb is shown at a time.
pub(super) const TEXT_BYTES: usize = 2048;
/// Time between two looks whether gdb wants the guest to stop, and whether the run is to be ended while gdb holds the
/// guest.
const STEP: Duration = Duration::from_millis(50);

/// The protocol, where it stands.
type Stub = GdbStubStateMachine<'static, Machine, Connection>;
/// Why it does not go on.
type StubError = GdbStubError<RunError, io::Error>;
/// Why the guest is held.
type Halt = MultiThreadStopReason<u64>;

/// gdb while it is connected.
pub(crate) struct Session {
    /// None once it is over.
    stub: Option<Stub>,
    /// What was taken out of the connection and not dealt with.
    received: VecDeque<u8>,
    place: Place,
    /// It was over because gdb ended the guest.
    was_killed: bool,
}

/// Where the next byte of gdb's belongs: between packets, or into one, `$words#12`.
#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Between,
    Words,
    FirstDigit,
    SecondDigit,
}

impl Place {
    /// Whether gdbstub is to have `byte`. gdb sends `-` where an answer takes longer than two seconds, as one of
    /// `monitor` may. It comes all the same, as nothing is lost on the way; gdbstub takes it for the end.
    fn wants(&mut self, byte: u8) -> bool {
        *self = match (&self, byte) {
            (Place::Between, b'-') => return false,
            (Place::Between, b'$') => Place::Words,
            (Place::Between | Place::SecondDigit, _) => Place::Between,
            (Place::Words, b'#') => Place::FirstDigit,
            (Place::Words, _) => Place::Words,
            (Place::FirstDigit, _) => Place::SecondDigit,
        };
        true
    }
}

impl Session {
    /// `machine` is held before its first instruction.
    pub(super) fn begin(connection: Connection, machine: &mut Machine) -> Session {
        // One for each guest that is debugged. It is never given back, as what borrows it is kept here.
        let buffer = vec![0; PACKET_BYTES].leak();
        let stub = GdbStub::builder(connection).with_packet_buffer(buffer);
        let stub = stub.build().map_err(|error| error.to_string());
        let stub = stub.and_then(|stub| {
            let stub = stub.run_state_machine(machine);
            stub.map_err(|error| error.to_string())
        });
        Session {
            stub: stub
                .inspect_err(|error| log::warn!("gdb cannot be talked to: {error}"))
                .ok(),
            received: VecDeque::new(),
            place: Place::default(),
            was_killed: false,
        }
    }

    /// Runs the guest as gdb wants until there is something for somebody else; `None` once gdb is gone.
    pub(crate) fn run(
        &mut self,
        machine: &mut Machine,
        deadline: Instant,
    ) -> Result<Option<Stop>, RunError> {
        loop {
            if self.holds() {
                self.hold(machine)?;
            } else {
                // A little at a time: whoever never ends does not hold the guest.
                self.receive(machine, Duration::ZERO)?;
            }
            if self.stub.is_none() {
                return Ok(self.was_killed.then_some(Stop::Killed));
            }
            if self.holds() {
                if machine.interrupter().is_wanted() {
                    return Ok(Some(Stop::Interrupted));
                }
                continue;
            }
            if let Some(why) = machine.wishes.refused.take() {
                self.say(&format!("heirloom: {why}\n"));
                // Without a signal gdb takes it for no step, and makes no other one.
                let cpu = machine.wishes.looked_at;
                self.halt(machine, cpu, signalled(Signal::SIGZERO))?;
                continue;
            }
            machine.debug(
                &machine.wishes.breakpoints.addresses(),
                &machine.wishes.resume.stepping,
            )?;
            let slice = deadline.min(Instant::now() + STEP);
            let stop = machine.run_cpus(machine.wishes.resume.only, slice)?;
            match &stop {
                Stop::Debug => {
                    let at = machine.registers()?.rip;
                    let breakpoint = machine.wishes.breakpoints.at(at);
                    self.halt(machine, machine.stopped_by(), |tid| match breakpoint {
                        Some(Kind::Software) => Halt::SwBreak(tid),
                        Some(Kind::Hardware) => Halt::HwBreak(tid),
                        None => signalled(Signal::SIGTRAP)(tid),
                    })?;
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
        self.halt(machine, machine.stopped_by(), signalled(Signal::SIGABRT))?;
        self.hold(machine)
    }

    fn holds(&self) -> bool {
        matches!(self.stub, Some(Stub::Idle(_)))
    }

    /// Answers gdb until it lets the guest run, or the run is to be ended.
    fn hold(&mut self, machine: &mut Machine) -> Result<(), RunError> {
        let begin = Instant::now();
        machine.settle();
        machine.wishes.is_held = true;
        let mut dealt = Ok(());
        while dealt.is_ok() && self.holds() && !machine.interrupter().is_wanted() {
            dealt = self.receive(machine, STEP);
        }
        machine.wishes.is_held = false;
        machine.held += begin.elapsed();
        dealt
    }

    /// Deals with what has come, waiting no longer than `time` for it, until the guest is held for it, or let go.
    fn receive(&mut self, machine: &mut Machine, time: Duration) -> Result<(), RunError> {
        let Some(mut stub) = self.stub.take() else {
            return Ok(());
        };
        if self.received.is_empty() {
            match connection(&mut stub).read(time) {
                Ok(Input::Nothing) => {}
                Ok(Input::Bytes(bytes)) => self.received.extend(bytes),
                Ok(Input::End) => return lost(machine, ""),
                Err(error) => return lost(machine, &format!(" ({error})")),
            }
        }
        let held = matches!(stub, Stub::Idle(_));
        while matches!(stub, Stub::Idle(_)) == held
            && !matches!(stub, Stub::Disconnected(_))
            && let Some(byte) = self.received.pop_front()
        {
            if !self.place.wants(byte) {
                continue;
            }
            stub = match take(stub, machine, byte) {
                Ok(stub) => stub,
                Err(error) => return failed(machine, error),
            };
        }
        // gdbstub leaves what acknowledges a command to run on.
        if let Err(error) = connection(&mut stub).flush() {
            return lost(machine, &format!(" ({error})"));
        }
        let Stub::Disconnected(end) = &stub else {
            self.stub = Some(stub);
            return Ok(());
        };
        if end.get_reason() == DisconnectReason::Kill {
            self.was_killed = true;
            // gdbstub does not answer this, and gdb waits for it.
            send(connection(&mut stub), "OK");
            return Ok(());
        }
        let_go(machine)
    }

    /// The guest is held from now on, and gdb is told so of CPU `cpu`.
    fn halt(
        &mut self,
        machine: &mut Machine,
        cpu: usize,
        halt: impl FnOnce(Tid) -> Halt,
    ) -> Result<(), RunError> {
        machine.wishes.looked_at = cpu;
        self.report(machine, halt(tid(cpu)))
    }

    /// Tells gdb, if it waits for that, why the guest does not run any more.
    fn report(&mut self, machine: &mut Machine, halt: Halt) -> Result<(), RunError> {
        self.stub = match self.stub.take() {
            Some(Stub::Running(running)) => match running.report_stop(machine, halt) {
                Ok(stub) => Some(stub),
                Err(error) => return failed(machine, error),
            },
            other => other,
        };
        Ok(())
    }

    /// Shows the user of gdb a text, if gdb waits for the guest. gdbstub has texts in answers alone.
    fn say(&mut self, text: &str) {
        let Some(stub @ Stub::Running(_)) = &mut self.stub else {
            return;
        };
        for part in text.as_bytes().chunks(TEXT_BYTES) {
            let mut words = String::from("O");
            for byte in part {
                let _ = write!(words, "{byte:02x}");
            }
            send(connection(stub), &words);
        }
    }

    /// The guest has come to its end, with this status; gdb has nothing more to do.
    pub(crate) fn end(&mut self, machine: &mut Machine, status: u8) {
        if let Err(error) = self.report(machine, Halt::Exited(status)) {
            log::debug!("gdb is not told of the guest's end: {error}");
        }
        self.stub = None;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The run was ended by somebody else.
        if let Some(stub @ Stub::Running(_)) = &mut self.stub {
            send(connection(stub), &format!("X{:02x}", Signal::SIGKILL.0));
        }
    }
}

/// One byte of what gdb says.
fn take(stub: Stub, machine: &mut Machine, byte: u8) -> Result<Stub, StubError> {
    let stub = match stub {
        Stub::Running(stub) => stub.incoming_data(machine, byte)?,
        Stub::Idle(stub) => match stub.incoming_data(machine, byte)? {
            // It stands still.
            Stub::CtrlCInterrupt(stub) => stub.interrupt_handled(machine, None::<Halt>)?,
            stub => stub,
        },
        stub => stub,
    };
    let Stub::CtrlCInterrupt(stub) = stub else {
        return Ok(stub);
    };
    machine.wishes.looked_at = 0;
    stub.interrupt_handled(machine, Some(signalled(Signal::SIGINT)(tid(0))))
}

fn signalled(signal: Signal) -> impl FnOnce(Tid) -> Halt {
    move |tid| Halt::SignalWithThread { tid, signal }
}

fn connection(stub: &mut Stub) -> &mut Connection {
    match stub {
        Stub::Idle(stub) => stub.borrow_conn(),
        Stub::Running(stub) => stub.borrow_conn(),
        Stub::CtrlCInterrupt(stub) => stub.borrow_conn(),
        Stub::Disconnected(stub) => stub.borrow_conn(),
    }
}

/// Sends a packet of `words` in which nothing is to be escaped. A connection that cannot be written to is found to be
/// lost when it is read.
fn send(connection: &mut Connection, words: &str) {
    let sum = words.bytes().fold(0_u8, u8::wrapping_add);
    let sent = connection.write_out(format!("${words}#{sum:02x}").as_bytes());
    if let Err(error) = sent {
        log::debug!("gdb does not take what it is sent: {error}");
    }
}

fn failed(machine: &mut Machine, error: StubError) -> Result<(), RunError> {
    let why = error.to_string();
    if error.is_target_error() {
        return error.into_target_error().map_or(Ok(()), Err);
    }
    log::debug!("{why}");
    match error.into_connection_error() {
        Some((error, _)) => lost(machine, &format!(" ({error})")),
        None => lost(machine, " (it sent what is no packet of gdb)"),
    }
}

/// gdb is gone, and has not said so.
fn lost(machine: &mut Machine, why: &str) -> Result<(), RunError> {
    log::warn!("the connection to gdb is lost{why}: the guest runs on without");
    let_go(machine)
}

/// The guest is debugged no more.
fn let_go(machine: &mut Machine) -> Result<(), RunError> {
    machine.wishes = Wishes::default();
    Ok(machine.debug(&machine.wishes.breakpoints.addresses(), &[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_between_packets_is_a_hyphen_what_gdb_sends_when_it_waits() {
        let mut place = Place::default();
        let sent = b"--+$Hc-1#09-$vCont;c:p1.-1#--$#00\x03-";
        let wanted: Vec<u8> = sent
            .iter()
            .copied()
            .filter(|byte| place.wants(*byte))
            .collect();
        assert_eq!(wanted, b"+$Hc-1#09$vCont;c:p1.-1#--$#00\x03");
    }
}
