//! Where gdb connects: a port of this host alone, or a UNIX socket. Who is connected can read and write the whole guest.
#![expect(
    unsafe_code,
    reason = "waiting for a socket is a call of the C library"
)]

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long the other end may take to read what was sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are read at a time.
const PIECE: usize = 4096;

/// Where gdb connects: a port of the loopback device (`1234`, `:1234`, `localhost:1234`, `[::1]:1234`), or a path, which
/// has a `/` or `unix:` in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port of this host.
    Tcp(SocketAddr),
    /// A UNIX socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text
            .strip_prefix("unix:")
            .or(text.contains('/').then_some(text))
        {
            if path.is_empty() {
                return Err("unix: needs a path behind it".into());
            }
            return Ok(Address::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port: u16 = port.parse().map_err(|_| {
            format!("`{port}` is no port; an address is :1234, localhost:1234, [::1]:1234, or the path of a UNIX socket")
        })?;
        let loopback = Ok(IpAddr::from(Ipv4Addr::LOCALHOST));
        let host = match host.trim_start_matches('[').trim_end_matches(']') {
            "" | "localhost" => loopback,
            host => host.parse(),
        };
        match host {
            Ok(host) if host.is_loopback() => Ok(Address::Tcp((host, port).into())),
            _ => Err(format!(
                "gdb is listened for on this host alone, as anybody could connect: use :{port}, and from elsewhere \
                 `ssh -L {port}:localhost:{port} HOST`"
            )),
        }
    }
}

/// As gdb takes it behind `target remote`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) if address.ip() == Ipv4Addr::LOCALHOST => {
                write!(f, "localhost:{}", address.port())
            }
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
#[error("could not listen for gdb at {address}: {source}{}", remedy(source))]
pub struct ListenError {
    /// Where.
    pub address: Address,
    /// What the system says.
    pub source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "; use another one, or for a port 0, which takes any that is free",
        ErrorKind::PermissionDenied => "; use a port from 1024, or a folder that you may write",
        _ => "",
    }
}

/// Waits for gdb to connect, once.
#[derive(Debug)]
pub struct Listener {
    listening: Listening,
    address: Address,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens there. A socket that a program which is gone has left behind is replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(address: Address) -> Result<Listener, ListenError> {
        let bound = match &address {
            Address::Tcp(at) => TcpListener::bind(at).map(Listening::Tcp),
            Address::Unix(path) => bind_unix(path).map(Listening::Unix),
        };
        let listening = bound.map_err(|source| ListenError {
            address: address.clone(),
            source,
        })?;
        // Port 0 has become another one.
        let address = match &listening {
            Listening::Tcp(listener) => listener.local_addr().map_or(address, Address::Tcp),
            Listening::Unix(_) => address,
        };
        Ok(Listener { listening, address })
    }

    /// Where it listens, for gdb.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits until somebody connects. Nobody else can from then on.
    ///
    /// # Errors
    /// The system's.
    pub fn accept(self) -> io::Result<Connection> {
        let stream = match &self.listening {
            Listening::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                OwnedFd::from(stream)
            }
            Listening::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                OwnedFd::from(stream)
            }
        };
        Ok(Connection {
            // Read and written as files are, which a sandbox lets through.
            stream: File::from(stream),
            unsent: Vec::new(),
            is_stuck: false,
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // It leads nowhere any more; whoever has taken it away was right.
            let _ = fs::remove_file(path);
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_left_behind = fs::symlink_metadata(path).is_ok_and(|at| at.file_type().is_socket())
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    if is_left_behind {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The connection to gdb.
#[derive(Debug)]
pub struct Connection {
    stream: File,
    unsent: Vec<u8>,
    /// Something could not be sent.
    is_stuck: bool,
}

/// What a connection has.
pub(super) enum Input {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

impl Connection {
    /// What has come, waiting no longer than `time`.
    pub(super) fn read(&mut self, time: Duration) -> io::Result<Input> {
        if !self.wait(libc::POLLIN, time)? {
            return Ok(Input::Nothing);
        }
        let mut bytes = vec![0; PIECE];
        match self.stream.read(&mut bytes) {
            Ok(0) => Ok(Input::End),
            Ok(read) => {
                bytes.truncate(read);
                Ok(Input::Bytes(bytes))
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(Input::Nothing),
                ErrorKind::ConnectionReset => Ok(Input::End),
                _ => Err(error),
            },
        }
    }

    /// Sends all, unless something before it could not be sent.
    pub(super) fn write_out(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_stuck {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let sent = self.send(bytes);
        self.is_stuck = sent.is_err();
        sent
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let what = "it has read nothing for ten seconds";
                        return Err(io::Error::new(ErrorKind::TimedOut, what));
                    }
                    self.wait(libc::POLLOUT, left)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the stream is ready for `what` within `time`.
    fn wait(&self, what: i16, time: Duration) -> io::Result<bool> {
        let mut waited = libc::pollfd {
            fd: self.stream.as_raw_fd(),
            events: what,
            revents: 0,
        };
        let time = time.as_millis().try_into().unwrap_or(i32::MAX);
        // SAFETY: one structure is there, and it lives as long as the call.
        let ready = unsafe { libc::poll(&raw mut waited, 1, time) };
        match ready {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
            ready => Ok(ready > 0),
        }
    }
}

impl gdbstub::conn::Connection for Connection {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.unsent.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        self.write_out(&unsent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_of_this_host_or_a_path() {
        for (text, shown) in [
            ("1234", "localhost:1234"),
            (":1234", "localhost:1234"),
            ("localhost:0", "localhost:0"),
            ("127.0.0.1:1", "localhost:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("[::1]:1234", "[::1]:1234"),
            ("./gdb", "./gdb"),
            ("unix:gdb", "gdb"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for (text, words) in [
            ("0.0.0.0:1234", "ssh -L 1234"),
            ("[::]:1234", "ssh -L"),
            ("example.org:1234", "this host alone"),
            ("gdb", "no port"),
            (":65536", "no port"),
            ("", "no port"),
            ("unix:", "a path"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gdb");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        // A program that another test starts just now has what was open until it is loaded.
        while UnixStream::connect(&path).is_ok() {
            std::thread::yield_now();
        }
        let listener = Listener::bind(Address::Unix(path.clone())).unwrap();
        let error = Listener::bind(Address::Unix(path.clone())).unwrap_err();
        assert!(error.to_string().contains("use another one"), "{error}");
        let others = fs::metadata(&path).unwrap().permissions().mode() & 0o077;
        assert_eq!(others, 0);
        let _gdb = UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        Listener::bind(Address::Unix(path.clone())).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }
}
