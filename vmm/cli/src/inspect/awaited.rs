//! The moment to look at a guest: when it has printed something on its serial console, or a CPU comes to a symbol.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::builder::NonEmptyStringValueParser;
use heirloom_inspect::VirtAddr;
use heirloom_inspect::names::Address;
use heirloom_source::{Reached, Source, WaitError};

use super::number;
use crate::boot::console::Search;
use crate::exit::{Exit, Failure};
use crate::signals;

/// Time between two looks at a file, and for how long a socket is listened to at once.
const STEP: Duration = Duration::from_millis(100);
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Which moment that is.
#[derive(clap::Args)]
// The other options of `check` have the same type name, and clap makes a group of each.
#[group(skip)]
pub(super) struct Options {
    /// First waits until the guest has printed this on its serial console.
    #[arg(long, value_name = "TEXT", requires = "console", value_parser = NonEmptyStringValueParser::new())]
    wait: Option<String>,
    /// Where QEMU writes the serial console: FILE of -serial file:FILE, or SOCKET of -serial
    /// unix:SOCKET,server=on,wait=off.
    #[arg(long, value_name = "FILE|SOCKET", requires = "wait")]
    console: Option<PathBuf>,
    /// Looks when a CPU comes to this symbol of the kernel's (do_exit, do_exit+0x12), or to an address. It is of
    /// qemu:SOCKET alone, and takes a gdb stub of QEMU's for so long; the guest runs on afterwards.
    #[arg(long, value_name = "SYMBOL|ADDRESS")]
    wait_for: Option<Address>,
    /// Gives waiting up after so long.
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = number::duration)]
    timeout: Duration,
}

impl Options {
    /// Waits for it, if there is something to wait for.
    ///
    /// # Errors
    /// The guest did not print it in time, or its console cannot be read.
    pub(super) fn wait(&self) -> Result<(), Failure> {
        let (Some(text), Some(path)) = (&self.wait, &self.console) else {
            return Ok(());
        };
        let deadline = Instant::now() + self.timeout;
        let failed = |exit, why: &str| Failure::new(exit, format!("{}: {why}", path.display()));
        let unread = |error: io::Error| {
            let why = format!("the console cannot be read: {error}");
            failed(Exit::Usage, &why)
        };
        let late = |what: &str| {
            let seconds = self.timeout.as_secs_f64();
            let why = format!("the {what} within {seconds} s; --timeout gives it more");
            failed(Exit::Guest, &why)
        };
        let mut console = loop {
            match Console::open(path) {
                Ok(console) => break console,
                // QEMU may just be starting.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) =>
                {
                    if Instant::now() >= deadline {
                        return Err(late("console did not come into being"));
                    }
                    thread::sleep(STEP);
                }
                Err(error) => return Err(unread(error)),
            }
        };
        let mut search = Search::new(text);
        let mut piece = vec![0; PIECE];
        loop {
            match console.read(&mut piece).map_err(unread)? {
                Some(0) => {
                    let why = format!("QEMU closed the console before it said `{text}`");
                    return Err(failed(Exit::Guest, &why));
                }
                Some(length) if search.finds(&piece[..length]) => return Ok(()),
                Some(_) | None => {}
            }
            if Instant::now() >= deadline {
                return Err(late(&format!("console did not say `{text}`")));
            }
        }
    }
}

impl Options {
    /// Waits until a CPU comes to the symbol, if there is one to wait for. The guest stands still there until the value is
    /// dropped.
    ///
    /// # Errors
    /// No CPU came there in time, or that cannot be seen.
    pub(super) fn reached(&self, common: &super::Options) -> Result<Option<Reached>, Failure> {
        let Some(wanted) = &self.wait_for else {
            return Ok(None);
        };
        let Source::Qemu(qemu) = common.target.source() else {
            let what = format!(
                "--wait-for is for a QEMU that runs, qemu:SOCKET, and {} is none",
                common.target
            );
            return Err(Failure::new(Exit::Usage, what));
        };
        let deadline = Instant::now() + self.timeout;
        let address = place(wanted, common, deadline)?;
        log::info!("waiting until a CPU comes to {address}");
        let reached = qemu.wait_for(address, deadline, &signals::is_ending);
        reached.map(Some).map_err(|error| {
            let exit = match error {
                WaitError::Late { .. }
                | WaitError::Stopped { .. }
                | WaitError::Gone { .. }
                | WaitError::Cancelled { .. } => Exit::Guest,
                _ => Exit::Usage,
            };
            let late = match error {
                WaitError::Late { .. } => "; --timeout gives it more",
                _ => "",
            };
            Failure::new(exit, format!("{}: QEMU {error}{late}", common.target))
        })
    }
}

/// The address that is meant. The kernel may not have come to where its names are known.
fn place(
    wanted: &Address,
    common: &super::Options,
    deadline: Instant,
) -> Result<VirtAddr, Failure> {
    if let Address::Number(number) = wanted {
        return Ok(VirtAddr::new(*number));
    }
    // More looks follow, which begin with a process beside this one.
    let sandbox = common.sandbox().never_entered();
    loop {
        let target = common.open_in(&sandbox)?;
        let found = common.discover_in(&target).and_then(|(_, mut discovery)| {
            common.name(&target, &mut discovery)?;
            let at = wanted.resolve(&discovery);
            at.map_err(|error| Failure::new(Exit::Usage, error))
        });
        drop(target);
        match found {
            Ok(address) => return Ok(address),
            Err(_) if signals::is_ending() => {
                return Err(Failure::new(Exit::Guest, "interrupted"));
            }
            Err(failure) if Instant::now() >= deadline => return Err(failure),
            Err(_) => thread::sleep(STEP),
        }
    }
}

/// The serial console of a guest.
enum Console {
    /// Whatever it printed since QEMU began.
    File(File),
    /// What it prints from now on.
    Socket(UnixStream),
}

impl Console {
    fn open(path: &Path) -> io::Result<Console> {
        let kind = fs::metadata(path)?.file_type();
        if kind.is_socket() {
            let socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(STEP))?;
            Ok(Console::Socket(socket))
        } else if kind.is_file() {
            Ok(Console::File(File::open(path)?))
        } else {
            Err(io::Error::other("it is neither a file nor a socket"))
        }
    }

    /// What came meanwhile; nothing after a while in which nothing came, zero bytes if nothing can come any more.
    fn read(&mut self, piece: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Console::File(file) => {
                if file.metadata()?.len() < file.stream_position()? {
                    // It was begun anew.
                    file.rewind()?;
                }
                let length = file.read(piece)?;
                if length == 0 {
                    thread::sleep(STEP);
                    return Ok(None);
                }
                Ok(Some(length))
            }
            Console::Socket(socket) => match socket.read(piece) {
                Ok(length) => Ok(Some(length)),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    Ok(None)
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Some(0)),
                Err(error) => Err(error),
            },
        }
    }
}
