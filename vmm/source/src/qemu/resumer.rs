//! A small process beside this one, which lets the guest run on if this one cannot: when it was killed, by
//! whatever signal, or was stopped.
//!
//! It holds the monitor's socket, too, so that QEMU does not see the connection close, and the reading end of
//! a pipe whose other end this process alone has: that closes when this process is gone, however it ended. It
//! has a session of its own, as a terminal's signals go to all of a group.
#![expect(
    unsafe_code,
    reason = "between fork and exit only system calls are safe, and the standard library promises no less"
)]

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
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

impl Resumer {
    /// Starts it. The guest behind `socket` shall run when this process does not look at it.
    ///
    /// # Errors
    /// The system gives no process, or no file descriptors.
    pub(super) fn start(socket: &impl AsRawFd) -> io::Result<Resumer> {
        let (reader, writer) = io::pipe()?;
        // Without it, nobody knows when this process is stopped.
        let status = File::open(format!("/proc/{}/stat", std::process::id())).ok();
        let status_fd = status.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: the child makes system calls only, on memory of its own, and ends by `_exit`.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: this is the child of `fork`, and these are open in it.
            0 => unsafe { wait_in_child(reader.as_raw_fd(), socket.as_raw_fd(), status_fd) },
            pid => Ok(Resumer { pid, pipe: writer }),
        }
    }

    /// Ends it: the guest runs, or has ended.
    pub(super) fn dismiss(mut self) {
        // If it is gone, there is nothing to end.
        let _ = self.pipe.write_all(b"!");
        // SAFETY: it is a child of this process that nobody else waits for; no status is wanted.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// # Safety
/// Only in a child of `fork`, with file descriptors that are open; `status` may be -1.
unsafe fn wait_in_child(pipe: RawFd, socket: RawFd, status: RawFd) -> ! {
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
                    send_cont(socket);
                    has_resumed = true;
                }
                0 => {}
                _ => match libc::read(pipe, byte.as_mut_ptr().cast::<c_void>(), 1) {
                    1 => libc::_exit(0),
                    0 => break,
                    _ => {}
                },
            }
        }
        send_cont(socket);
        // QEMU forgets what it has not begun when the connection closes.
        wait_for_answer(socket);
        libc::_exit(0)
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
unsafe fn send_cont(socket: RawFd) {
    let mut rest = CONT;
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
unsafe fn wait_for_answer(socket: RawFd) {
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
            found = match ANSWERED.get(found) {
                Some(next) if next == byte => found + 1,
                _ => usize::from(ANSWERED.first() == Some(byte)),
            };
            if found == ANSWERED.len() {
                return;
            }
        }
    }
}
