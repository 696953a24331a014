//! A QMP connection: QEMU's machine protocol, JSON lines over a unix socket
//! (docs/interop/qmp-spec.rst in QEMU's tree).
//!
//! Two threads may use it: the one that inspects, and the handler of Ctrl-C, which must let the guest
//! run on while the other waits for an answer. So sending and receiving have a lock each. Whoever
//! receives puts down what it sees of the other's answer.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use heirloom_qmp::{Lines, Message, NotQmp, TooLong, command as command_line, printable};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::resumer::Resumer;

/// How long QEMU may take for what it does at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// And for its greeting, which it sends unasked.
const GREETING: Duration = Duration::from_secs(5);
/// A longer answer is not read.
const LINE_BYTES: usize = 1 << 20;
/// How long a guest may stand still for all questions together; saving its memory is not among them.
const HELD: Duration = Duration::from_secs(20);
/// Answers that nobody fetches: those that came after their asker's patience had ended.
const STRAYS: usize = 16;
/// The `id` of the command that lets the guest run on; all others have numbers.
const RESUME_ID: &str = "resume";

/// Why QEMU could not be asked. The messages go on behind the socket's name.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum QmpError {
    #[error(
        "does not exist: start QEMU with `-qmp unix:PATH,server=on,wait=off`, and give its PATH"
    )]
    Missing,
    #[error(
        "is no socket: give the PATH of QEMU's `-qmp unix:PATH,server=on,wait=off`, not a file"
    )]
    NotASocket,
    #[error("refuses connections: no QEMU listens there (any more); start it, or remove the file")]
    Refused,
    #[error("may not be used: run heirloom as QEMU's user, or as root")]
    Permission,
    #[error("is too long a path for a socket: change to its directory and give it from there")]
    TooLong,
    #[error(
        "is QEMU's monitor for people, not QMP: give the PATH of `-qmp unix:PATH,server=on,wait=off`"
    )]
    HumanMonitor,
    #[error("does not speak QMP, but `{said}`: give the PATH of QEMU's QMP socket")]
    NotQmp { said: String },
    #[error(
        "does not greet: either it is no QMP socket, or another program (libvirt?) is connected, and \
         QEMU serves one at a time; end that one, or give QEMU one more `-qmp`"
    )]
    Busy,
    #[error("gave no answer to `{command}` within {} s: QEMU hangs or is stopped", .waited.as_secs())]
    Timeout { command: String, waited: Duration },
    #[error(
        "gave an answer to `{command}` that is longer than {} MiB: this is no QEMU, or has absurdly many parts",
        LINE_BYTES >> 20
    )]
    TooLongAnswer { command: String },
    #[error(
        "was not asked `{command}`: the guest has stood still for {} s, as QEMU takes so long for each answer",
        HELD.as_secs()
    )]
    HeldTooLong { command: String },
    #[error("was closed before `{command}` was answered: QEMU has ended")]
    Closed { command: String },
    #[error("broke while `{command}` was asked: {source}; see whether QEMU still runs")]
    Io { command: String, source: io::Error },
    #[error("gave an answer to `{command}` that is no QMP: {said}")]
    Nonsense { command: String, said: String },
    #[error("answers `{command}` with an error: {message}")]
    Command { command: String, message: String },
    #[error(
        "is not used: no process can be started that lets the guest run on should this one be killed \
         ({0}); see `ulimit -u` and `ulimit -n`"
    )]
    NoResumer(io::Error),
    #[error("is used no more: the guest was let run on, because heirloom was told to end")]
    Finished,
}

/// The connection to one QEMU.
#[derive(Debug)]
pub(super) struct Connection {
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
    /// Held while the guest is let run on; whether that was tried.
    resuming: Mutex<bool>,
    /// Until when the guest may stand still, once it does.
    held_until: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Sending {
    stream: UnixStream,
    next_id: u64,
    /// Nothing is sent any more: the guest runs on.
    finished: bool,
}

#[derive(Debug)]
struct Receiving {
    stream: UnixStream,
    lines: Lines,
    /// Answers that another thread waits for, by the `id` of the command.
    strays: Vec<(Value, Result<Value, String>)>,
    /// How often the guest has been let run, by whomever.
    resumes: u32,
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// [`QmpError`].
    pub(super) fn open(path: &Path) -> Result<Connection, QmpError> {
        let kind = std::fs::metadata(path).map_err(connect_error)?.file_type();
        if !kind.is_socket() {
            return Err(QmpError::NotASocket);
        }
        let stream = UnixStream::connect(path).map_err(connect_error)?;
        let broken = |source| QmpError::Io {
            command: "connect".into(),
            source,
        };
        stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
        let connection = Connection {
            sending: Mutex::new(Sending {
                stream: stream.try_clone().map_err(broken)?,
                next_id: 0,
                finished: false,
            }),
            receiving: Mutex::new(Receiving {
                stream,
                lines: Lines::new(LINE_BYTES),
                strays: Vec::new(),
                resumes: 0,
            }),
            resuming: Mutex::new(false),
            held_until: Mutex::new(None),
        };
        connection.shake_hands()?;
        Ok(connection)
    }

    fn shake_hands(&self) -> Result<(), QmpError> {
        let mut receiving = lock(&self.receiving);
        let line = receiving
            .line("its greeting", Instant::now() + GREETING, GREETING)
            .map_err(|error| match error {
                QmpError::Timeout { .. } if receiving.lines.rest().is_empty() => QmpError::Busy,
                QmpError::Timeout { .. } => not_qmp(receiving.lines.rest()),
                other => other,
            })?;
        drop(receiving);
        if Message::parse(&line) != Ok(Message::Greeting) {
            return Err(not_qmp(&line));
        }
        self.ask("qmp_capabilities", Value::Null).map(drop)
    }

    /// The process at the other end, as far as the kernel knows: the one that listens.
    pub(super) fn peer(&self) -> Option<Pid> {
        let sending = lock(&self.sending);
        let credentials = getsockopt(&sending.stream, PeerCredentials).ok()?;
        // 0 is a process that this PID namespace does not see.
        (credentials.pid() > 0).then(|| Pid::from_raw(credentials.pid()))
    }

    /// Asks QEMU to do `command`: what it returns.
    ///
    /// # Errors
    /// [`QmpError`].
    pub(super) fn ask(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let left = match *lock(&self.held_until) {
            Some(end) => end.saturating_duration_since(Instant::now()),
            None => PATIENCE,
        };
        if left.is_zero() {
            let command = command.to_owned();
            return Err(QmpError::HeldTooLong { command });
        }
        self.ask_patiently(command, arguments, PATIENCE.min(left))
    }

    /// From now on the guest stands still: there is an end to asking.
    pub(super) fn hold(&self) {
        *lock(&self.held_until) = Some(Instant::now() + HELD);
    }

    /// [`Connection::ask`] for what takes longer, which does not count as asking.
    pub(super) fn ask_patiently(
        &self,
        command: &str,
        arguments: Value,
        patience: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.send(command, arguments, None)?;
        lock(&self.receiving).answer(command, &id, patience)
    }

    /// As [`Connection::ask_patiently`], and the guest may stand still for so much longer.
    pub(super) fn ask_while_held(
        &self,
        command: &str,
        arguments: Value,
        patience: Duration,
    ) -> Result<Value, QmpError> {
        let begun = Instant::now();
        let answer = self.ask_patiently(command, arguments, patience);
        if let Some(end) = &mut *lock(&self.held_until) {
            *end += begun.elapsed();
        }
        answer
    }

    /// A process that lets the guest run on if this one is gone.
    pub(super) fn resumer(&self) -> io::Result<Resumer> {
        Resumer::start(&lock(&self.sending).stream)
    }

    /// Gives QEMU `file` (`add-fd`): its number there.
    pub(super) fn give(&self, file: &impl AsRawFd) -> Result<Value, QmpError> {
        let id = self.send("add-fd", Value::Null, Some(file.as_raw_fd()))?;
        lock(&self.receiving).answer("add-fd", &id, PATIENCE)
    }

    /// Gives QEMU `file` under a name (`getfd`).
    pub(super) fn give_as(&self, name: &str, file: &impl AsRawFd) -> Result<(), QmpError> {
        let arguments = json!({ "fdname": name });
        let id = self.send("getfd", arguments, Some(file.as_raw_fd()))?;
        let answer = lock(&self.receiving).answer("getfd", &id, PATIENCE);
        answer.map(drop)
    }

    fn send(&self, command: &str, arguments: Value, file: Option<i32>) -> Result<Value, QmpError> {
        let mut sending = lock(&self.sending);
        if sending.finished {
            return Err(QmpError::Finished);
        }
        let id = json!(sending.next_id);
        sending.next_id += 1;
        sending.write(command, arguments, &id, file)?;
        Ok(id)
    }

    /// After [`Connection::resume_and_finish`]: somebody else let the guest run before.
    pub(super) fn was_disturbed(&self) -> bool {
        lock(&self.receiving).resumes > 1
    }

    /// Lets the guest run on, from whatever thread, and sends nothing more; returns when QEMU has said
    /// that it runs. Another thread may be waiting for an answer meanwhile. The second time it does
    /// nothing.
    ///
    /// # Errors
    /// [`QmpError`]; the guest may stand still then.
    pub(super) fn resume_and_finish(&self) -> Result<(), QmpError> {
        const STEP: Duration = Duration::from_millis(20);
        let mut resuming = lock(&self.resuming);
        if std::mem::replace(&mut *resuming, true) {
            return Ok(());
        }
        let id = json!(RESUME_ID);
        let mut sending = lock(&self.sending);
        sending.finished = true;
        sending.write("cont", Value::Null, &id, None)?;
        drop(sending);
        // The answer is waited for: QEMU forgets what it has not begun when the connection closes.
        // Another thread that receives hands it over; but it may wait longer than we do.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut receiving = match self.receiving.try_lock() {
                Ok(receiving) => receiving,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    return Err(QmpError::Timeout {
                        command: "cont".into(),
                        waited: PATIENCE,
                    });
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(STEP);
                    continue;
                }
            };
            return receiving.answer("cont", &id, PATIENCE).map(drop);
        }
    }
}

impl Sending {
    /// Sends one line, with a file if there is one.
    fn write(
        &mut self,
        command: &str,
        arguments: Value,
        id: &Value,
        file: Option<i32>,
    ) -> Result<(), QmpError> {
        let line = command_line(command, arguments, id);
        let sent = match file {
            None => 0,
            // The file goes with the first byte.
            Some(file) => sendmsg::<()>(
                self.stream.as_raw_fd(),
                &[io::IoSlice::new(&line)],
                &[ControlMessage::ScmRights(&[file])],
                MsgFlags::MSG_NOSIGNAL,
                None,
            )
            .map_err(|error| closed_or(command, error.into()))?,
        };
        self.stream
            .write_all(line.get(sent..).unwrap_or_default())
            .map_err(|error| closed_or(command, error))
    }
}

impl Receiving {
    /// Receives until the answer with `id` is there.
    fn answer(&mut self, command: &str, id: &Value, patience: Duration) -> Result<Value, QmpError> {
        let refused = |message| QmpError::Command {
            command: command.into(),
            message,
        };
        if let Some(index) = self.strays.iter().position(|(stray, _)| stray == id) {
            return self.strays.swap_remove(index).1.map_err(refused);
        }
        let deadline = Instant::now() + patience;
        loop {
            let line = self.line(command, deadline, patience)?;
            let message = Message::parse(&line).map_err(|NotQmp { said }| QmpError::Nonsense {
                command: command.into(),
                said,
            })?;
            match message {
                Message::Greeting => {}
                Message::Event(event) => {
                    log::debug!("QEMU says {event}");
                    self.resumes += u32::from(event == "RESUME");
                }
                Message::Answer {
                    id: Some(other),
                    returned,
                } if other != *id => {
                    if self.strays.len() < STRAYS {
                        self.strays.push((other, returned));
                    }
                }
                // QEMU cannot say which command it means if it could not read it.
                Message::Answer { returned, .. } => return returned.map_err(refused),
            }
        }
    }

    /// Receives one line, until `deadline`.
    fn line(
        &mut self,
        command: &str,
        deadline: Instant,
        patience: Duration,
    ) -> Result<Vec<u8>, QmpError> {
        loop {
            let taken = self.lines.take().map_err(|TooLong { .. }| {
                let command = command.to_owned();
                QmpError::TooLongAnswer { command }
            })?;
            if let Some(line) = taken {
                return Ok(line);
            }
            let timeout = || QmpError::Timeout {
                command: command.into(),
                waited: patience,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(timeout());
            }
            let mut buffer = [0; 16 << 10];
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(0) => {
                    return Err(QmpError::Closed {
                        command: command.into(),
                    });
                }
                Ok(more) => self.lines.push(&buffer[..more]),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(timeout()),
                    _ => return Err(closed_or(command, error)),
                },
            }
        }
    }
}

fn connect_error(error: io::Error) -> QmpError {
    match error.kind() {
        ErrorKind::NotFound => QmpError::Missing,
        ErrorKind::ConnectionRefused => QmpError::Refused,
        ErrorKind::PermissionDenied => QmpError::Permission,
        ErrorKind::InvalidInput => QmpError::TooLong,
        _ => QmpError::Io {
            command: "connect".into(),
            source: error,
        },
    }
}

fn closed_or(command: &str, source: io::Error) -> QmpError {
    let command = command.to_owned();
    match source.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => QmpError::Closed { command },
        _ => QmpError::Io { command, source },
    }
}

fn not_qmp(said: &[u8]) -> QmpError {
    if said.starts_with(b"QEMU ") {
        return QmpError::HumanMonitor;
    }
    QmpError::NotQmp {
        said: printable(said),
    }
}

/// The lock, also when a thread panicked with it: what it guards is valid after each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
