//! The QEMU process: started with the files that it shares with us, and gone when we are.
#![expect(
    unsafe_code,
    reason = "memfd_create, poll and what a child does before it executes have no safe form in std"
)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of standard error that are kept.
const SAID_LIMIT: usize = 2048;
/// How long a process that has closed its monitor may take to be gone.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// A child that is killed when this is dropped, and by the system when this process ends, however it does.
pub(super) struct Process {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    /// Closed once all that it wrote to standard error is in `said`.
    all_is_said: mpsc::Receiver<()>,
}

impl Process {
    /// Starts `command` with `shared` open under the same numbers as here.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn start(mut command: Command, shared: Vec<OwnedFd>) -> io::Result<Process> {
        let numbers: Vec<_> = shared.iter().map(AsRawFd::as_raw_fd).collect();
        let parent = std::process::id();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // What the terminal sends to this program's group, ^C, is for this program alone.
            .process_group(0);
        // SAFETY: between `fork` and `exec` the closure only makes system calls that are async-signal-safe,
        // and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have gone before the line above.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                for number in &numbers {
                    if libc::fcntl(*number, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let (started, start) = mpsc::channel();
        let (listening, all_is_said) = mpsc::channel();
        // The signal at a parent's death is sent when the thread dies that made the child: this one lives as
        // long as the child can write to standard error.
        thread::Builder::new().name("qemu".into()).spawn(move || {
            let mut child = command.spawn();
            // From here on only the child has its ends of the sockets.
            drop(shared);
            let stderr = child.as_mut().ok().and_then(|child| child.stderr.take());
            if started.send(child).is_ok()
                && let Some(stderr) = stderr
            {
                listen(stderr, &heard);
            }
            drop(listening);
        })?;
        let child = start
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(Process {
            child,
            said,
            all_is_said,
        })
    }

    /// What it wrote to standard error last, for the end of a message; nothing if it wrote nothing.
    pub(super) fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&said);
        let text: String = text
            .trim()
            .chars()
            .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
            .collect();
        if text.is_empty() {
            return text;
        }
        format!(": {}", text.replace('\n', "\n  "))
    }

    /// How it ended, if it does so soon.
    pub(super) fn ended(&mut self) -> Option<String> {
        let patience = Instant::now() + LAST_BREATH;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    // What it wrote last may still be on its way; a child of its own may keep the pipe open.
                    let rest = patience.saturating_duration_since(Instant::now());
                    let _ = self.all_is_said.recv_timeout(rest);
                    return Some(status.to_string());
                }
                Ok(None) if Instant::now() < patience => thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the last bytes of what is written, to the end.
fn listen(mut stderr: ChildStderr, heard: &Mutex<Vec<u8>>) {
    let mut piece = [0; 1024];
    loop {
        match stderr.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend_from_slice(&piece[..count]);
                let surplus = heard.len().saturating_sub(SAID_LIMIT);
                heard.drain(..surplus);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A file of `bytes` zeros in memory, without a name in any folder.
///
/// # Errors
/// The system's.
pub(super) fn memory_file(name: &'static std::ffi::CStr, bytes: u64) -> io::Result<File> {
    // SAFETY: the name ends with a NUL.
    let number = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is of a file that was just opened, and nobody else has it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
    file.set_len(bytes)?;
    Ok(file)
}

/// Waits until one of `files` can be read or was closed, and says which; none if the time is over or a signal
/// came, and never one that is `None`.
///
/// # Errors
/// The system's.
pub(super) fn wait<const N: usize>(
    files: [Option<BorrowedFd<'_>>; N],
    patience: Duration,
) -> io::Result<[bool; N]> {
    let mut polled = files.map(|file| libc::pollfd {
        // The system passes over negative numbers.
        fd: file.map_or(-1, |file| file.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let count = libc::nfds_t::try_from(N).unwrap_or(0);
    let milliseconds = i32::try_from(patience.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
    // SAFETY: `polled` has `count` elements and lives until the call returns.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), count, milliseconds) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok([false; N]);
    }
    Ok(polled.map(|file| file.revents != 0))
}
