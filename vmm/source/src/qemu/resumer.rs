//! A small process beside this one, which lets the guest run on if this one cannot: when it was killed, by
//! whatever signal, or was stopped.
//!
//! It holds the monitor's socket, too, so that QEMU does not see the connection close, and the reading end of
//! a pipe whose other end this process alone has: that closes when this process is gone, however it ended. It
//! has a session of its own, as a terminal's signals go to all of a group.
//!
//! Where the guest is debugged, it does the same by QEMU's gdb stub, whether this process is gone or has done: by then
//! this one may not connect to anything any more.
#![expect(
    unsafe_code,
    reason = "between fork and exit only system calls are safe, and the standard library promises no less"
)]

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use libc::{c_int, c_void, pid_t};

/// What it sends.
const CONT: &[u8] = b"{\"execute\": \"cont\", \"id\": \"resumed\"}\n";
/// What QEMU's answer to that has, and nothing else that it says.
const ANSWERED: &[u8] = b"\"resumed\"";
/// How often it looks whether this process is stopped.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
/// How long it waits for QEMU's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process, which waits.
#[derive(Debug)]
pub(super) struct Resumer {
    pid: pid_t,
    pipe: PipeWriter,
}

/// What it does in the end, on the socket that it holds.
#[derive(Clone, Copy)]
enum Duty {
    /// Says `cont` to QEMU's monitor, unless it is dismissed.
    Cont,
    /// Ends debugging by QEMU's stub, and has the monitor at this address take the stub away again, if there is one.
    Detach(Option<libc::sockaddr_un>),
}

/// The stub's packet that removes all breakpoints and lets the guest run.
const DETACH: &[u8] = b"$D;1#b0";
/// What stops a guest that runs, so that the stub listens.
const STOP: &[u8] = b"\x03";
/// What takes the stub away. QEMU forgets what it had as a line.
const NO_STUB: &[u8] =
    b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"human-monitor-command\", \
    \"arguments\": {\"command-line\": \"gdbserver none\"}, \"id\": \"resumed\"}\n";
/// How long the stub may take to say that the guest stands still; it says nothing if that was so before.
const STOPS_WITHIN: Duration = Duration::from_millis(500);
/// And for its other answers.
const DETACHES_WITHIN: Duration = Duration::from_secs(5);
/// The byte by which it is told that the guest shall stay as it is.
const LEAVE: u8 = b'p';

impl Resumer {
    /// Starts it. The guest behind `socket` shall run when this process does not look at it.
    ///
    /// # Errors
    /// The system gives no process, or no file descriptors.
    pub(super) fn start(socket: &impl AsRawFd) -> io::Result<Resumer> {
        Resumer::with_duty(socket, Duty::Cont)
    }

    /// Starts it for a guest that is debugged by the stub behind `socket`, and shall not be when this process is gone or
    /// has dismissed it. If it is to take the stub away, `monitor` is the path of QEMU's monitor.
    ///
    /// # Errors
    /// As [`Resumer::start`].
    pub(super) fn of_stub(socket: &impl AsRawFd, monitor: Option<&Path>) -> io::Result<Resumer> {
        let monitor = monitor.map(address_of).transpose()?;
        Resumer::with_duty(socket, Duty::Detach(monitor))
    }

    fn with_duty(socket: &impl AsRawFd, duty: Duty) -> io::Result<Resumer> {
        let (reader, writer) = io::pipe()?;
        // Without it, nobody knows when this process is stopped.
        let status = File::open(format!("/proc/{}/stat", std::process::id())).ok();
        let status_fd = status.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: the child makes system calls only, on memory of its own, and ends by `_exit`.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: this is the child of `fork`, and these are open in it.
            0 => unsafe { wait_in_child(reader.as_raw_fd(), socket.as_raw_fd(), status_fd, duty) },
            pid => Ok(Resumer { pid, pipe: writer }),
        }
    }

    /// Ends it: the guest runs, or has ended. One of a stub first does its duty.
    pub(super) fn dismiss(self) {
        self.end(b'!');
    }

    /// The same, with the guest left standing still.
    pub(super) fn leave(self) {
        self.end(LEAVE);
    }

    fn end(mut self, how: u8) {
        // If it is gone, there is nothing to end.
        let _ = self.pipe.write_all(&[how]);
        // SAFETY: it is a child of this process that nobody else waits for; no status is wanted.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// A socket's address for `connect`.
fn address_of(path: &Path) -> io::Result<libc::sockaddr_un> {
    let mut address = libc::sockaddr_un {
        sun_family: libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default(),
        sun_path: [0; 108],
    };
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Ok(address)
}

/// # Safety
/// Only in a child of `fork`, with file descriptors that are open; `status` may be -1.
unsafe fn wait_in_child(pipe: RawFd, socket: RawFd, status: RawFd, duty: Duty) -> ! {
    // SAFETY: system calls without obligations, and with a buffer that lives as long as they last.
    unsafe {
        libc::setsid();
        for signal in [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGTERM,
            libc::SIGPIPE,
            libc::SIGTSTP,
        ] {
            libc::signal(signal, libc::SIG_IGN);
        }
        // The writing end of the pipe is among them.
        close_all_but([pipe, socket, status]);
        let mut has_resumed = false;
        let mut byte = [0_u8];
        loop {
            match wait_for(pipe, LOOKS_EVERY) {
                0 if !has_resumed && is_stopped(status) => {
                    // Whoever stopped it may let it go on, and it would miss an answer that is read here.
                    match duty {
                        Duty::Cont => send(socket, CONT),
                        Duty::Detach(monitor) => detach(socket, monitor),
                    }
                    has_resumed = true;
                }
                0 => {}
                _ => match libc::read(pipe, byte.as_mut_ptr().cast::<c_void>(), 1) {
                    1 if byte == [LEAVE] => {
                        if let Duty::Detach(Some(monitor)) = duty {
                            take_stub_away(&monitor);
                        }
                        libc::_exit(0)
                    }
                    1 if matches!(duty, Duty::Cont) => libc::_exit(0),
                    0 | 1 => break,
                    _ => {}
                },
            }
        }
        match duty {
            Duty::Cont => {
                send(socket, CONT);
                // QEMU forgets what it has not begun when the connection closes.
                wait_for_answer(socket, ANSWERED);
            }
            Duty::Detach(_) if has_resumed => {}
            Duty::Detach(monitor) => detach(socket, monitor),
        }
        libc::_exit(0)
    }
}

/// # Safety
/// Only in a child of `fork`; `stub` is open.
unsafe fn detach(stub: RawFd, monitor: Option<libc::sockaddr_un>) {
    let mut bytes = [0_u8; 512];
    // SAFETY: the buffer lives as long as the calls.
    unsafe {
        // A guest that runs is stopped first: until then nothing is read.
        send(stub, STOP);
        if wait_for(stub, STOPS_WITHIN) > 0 {
            libc::read(stub, bytes.as_mut_ptr().cast::<c_void>(), bytes.len());
        }
        send(stub, DETACH);
        if wait_for(stub, DETACHES_WITHIN) > 0 {
            libc::read(stub, bytes.as_mut_ptr().cast::<c_void>(), bytes.len());
        }
        if let Some(monitor) = monitor {
            take_stub_away(&monitor);
        }
    }
}

/// # Safety
/// Only in a child of `fork`.
unsafe fn take_stub_away(monitor: &libc::sockaddr_un) {
    // SAFETY: the address lives as long as the call, and has this length.
    unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        let address = std::ptr::from_ref(monitor).cast::<libc::sockaddr>();
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap_or_default();
        if libc::connect(socket, address, length) == 0 {
            send(socket, NO_STUB);
            wait_for_answer(socket, ANSWERED);
        }
    }
}

/// # Safety
/// No other file descriptor is used any more.
unsafe fn close_all_but(mut kept: [RawFd; 3]) {
    /// Of kernels without `close_range`.
    const MOST: c_int = 1 << 16;
    kept.sort_unstable();
    let mut first = 0;
    for end in kept.into_iter().chain([c_int::MAX]).filter(|end| *end >= 0) {
        if first < end {
            // SAFETY: as the caller says.
            unsafe {
                if libc::syscall(libc::SYS_close_range, first, end - 1, 0) != 0 {
                    for fd in first..end.min(MOST) {
                        libc::close(fd);
                    }
                }
            }
        }
        first = end.saturating_add(1);
    }
}

/// What `poll` says of one file descriptor.
///
/// # Safety
/// None.
unsafe fn wait_for(fd: c_int, time: Duration) -> c_int {
    let mut waited = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let time = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: one `pollfd` that lives as long as the call.
    unsafe { libc::poll(&raw mut waited, 1, time) }
}

/// Whether the process that made this one is stopped (`T` in proc_pid_stat(5)).
///
/// # Safety
/// None.
unsafe fn is_stopped(status: RawFd) -> bool {
    let mut stat = [0_u8; 512];
    let buffer = stat.as_mut_ptr().cast::<c_void>();
    // SAFETY: the buffer has so many bytes.
    let read = unsafe { libc::pread(status, buffer, stat.len(), 0) };
    let read = stat.get(..usize::try_from(read).unwrap_or(0));
    // The name may hold anything, and ends with the last bracket.
    let state = read.and_then(|stat| {
        let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
        stat.get(name_ends + 2)
    });
    state == Some(&b'T')
}

/// # Safety
/// None.
unsafe fn send(socket: RawFd, mut rest: &[u8]) {
    while !rest.is_empty() {
        // SAFETY: `rest` has so many bytes.
        let sent = unsafe { libc::write(socket, rest.as_ptr().cast::<c_void>(), rest.len()) };
        match usize::try_from(sent) {
            Ok(sent) if sent > 0 => rest = rest.get(sent..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// # Safety
/// None.
unsafe fn wait_for_answer(socket: RawFd, answer: &[u8]) {
    let steps = PATIENCE.as_millis() / LOOKS_EVERY.as_millis();
    let mut bytes = [0_u8; 4096];
    let mut found = 0;
    let mut waited = 0;
    while waited < steps {
        // SAFETY: none is needed.
        if unsafe { wait_for(socket, LOOKS_EVERY) } == 0 {
            waited += 1;
            continue;
        }
        let buffer = bytes.as_mut_ptr().cast::<c_void>();
        // SAFETY: the buffer has so many bytes.
        let read = unsafe { libc::read(socket, buffer, bytes.len()) };
        let Some(read) = usize::try_from(read).ok().filter(|read| *read > 0) else {
            return;
        };
        // The quotation mark is at its ends only, so that a match that fails begins anew at this byte.
        for byte in bytes.iter().take(read) {
            found = match answer.get(found) {
                Some(next) if next == byte => found + 1,
                _ => usize::from(answer.first() == Some(byte)),
            };
            if found == answer.len() {
                return;
            }
        }
    }
}
