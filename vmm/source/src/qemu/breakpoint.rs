//! A guest that is let run until a CPU comes to an address: a hardware breakpoint by QEMU's gdb stub (the remote
//! serial protocol, GDB's manual, appendix E). Nothing is written to its memory.
//!
//! Should this process be killed meanwhile, a small process beside it takes the breakpoint away and lets the guest run
//! on, as it does in the end anyway.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use heirloom_inspect::VirtAddr;
use heirloom_qmp::printable;
use serde_json::{Value, json};

use super::QemuSpec;
use super::connection::{Connection, PATIENCE, QmpError};
use super::resumer::Resumer;

/// What the socket and the character device are called that the stub speaks on.
const NAME: &str = "heirloom-gdb";
/// Time between two looks whether waiting is over.
const STEP: Duration = Duration::from_millis(50);
/// A longer packet is none of a stub's.
const PACKET_BYTES: usize = 16 << 10;

/// Why an address cannot be waited for. The messages go on behind QEMU's name.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum WaitError {
    #[error(transparent)]
    Connection(#[from] QmpError),
    #[error(
        "has its guest stand still ({status}), so that it comes nowhere: let it run first, by `cont`"
    )]
    StandsStill { status: String },
    #[error("has a gdb connected to its stub ({stub}), which takes one at a time: end that gdb")]
    Taken { stub: String },
    #[error("has a gdb stub at {stub}, which cannot be reached: {source}")]
    Unreachable { stub: String, source: io::Error },
    #[error("sets no breakpoint at {address}: its stub says {said}")]
    Refused { address: VirtAddr, said: String },
    #[error(
        "stopped the guest before a CPU came to {address}: its stub says {said}; it is left as it is"
    )]
    Stopped { address: VirtAddr, said: String },
    #[error("let no CPU come to {address} in time")]
    Late { address: VirtAddr },
    #[error("was told to go on before a CPU came to {address}")]
    Cancelled { address: VirtAddr },
    #[error("closed its gdb stub before a CPU came to {address}: QEMU has ended")]
    Gone { address: VirtAddr },
    #[error("does not speak to its gdb stub: {0}")]
    Io(io::Error),
}

/// A CPU has come to the address, and the guest stands still until this is dropped.
#[derive(Debug)]
pub struct Reached {
    resumer: Option<Resumer>,
    /// Closed behind the resumer.
    _stub: UnixStream,
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some(resumer) = self.resumer.take() {
            resumer.dismiss();
        }
    }
}

impl QemuSpec {
    /// Lets the guest run until a CPU comes to `address`, or the time is over, or `is_over` says so. It stands still there
    /// until the value is dropped; it runs on in every other case.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait_for(
        &self,
        address: VirtAddr,
        deadline: Instant,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Reached, WaitError> {
        let connection = Connection::open(&self.socket)?;
        let status = connection.ask("query-status", Value::Null)?;
        if status.get("running").and_then(Value::as_bool) != Some(true) {
            let status = status.get("status").and_then(Value::as_str);
            let status = printable(status.unwrap_or_default().as_bytes());
            return Err(WaitError::StandsStill { status });
        }
        let (stub, resumer) = match own_stub(&connection)? {
            Some(stub) => {
                let resumer = Resumer::of_stub(&stub, None).map_err(QmpError::NoResumer)?;
                (stub, resumer)
            }
            None => self.new_stub(&connection)?,
        };
        // QEMU speaks to one at a time, and whoever looks at the guest next comes by the monitor.
        drop(connection);
        let mut packets = Packets {
            stream: stub,
            received: Vec::new(),
        };
        let reached = packets.reach(address, deadline, is_over);
        let stub = packets.stream;
        match reached {
            Ok(()) => Ok(Reached {
                resumer: Some(resumer),
                _stub: stub,
            }),
            Err(error @ WaitError::Stopped { .. }) => {
                resumer.leave();
                Err(error)
            }
            Err(error) => {
                resumer.dismiss();
                Err(error)
            }
        }
    }

    /// A stub that QEMU is given for this alone.
    fn new_stub(&self, connection: &Connection) -> Result<(UnixStream, Resumer), WaitError> {
        let (ours, theirs) = UnixStream::pair().map_err(WaitError::Io)?;
        let resumer = Resumer::of_stub(&ours, Some(&self.socket)).map_err(QmpError::NoResumer)?;
        let start = || -> Result<(), QmpError> {
            connection.give_as(NAME, &theirs)?;
            let backend = json!({ "type": "socket", "data": {
                "addr": { "type": "fd", "data": { "str": NAME } }, "server": false } });
            connection.ask("chardev-add", json!({ "id": NAME, "backend": backend }))?;
            let line = format!("gdbserver chardev:{NAME}");
            let arguments = json!({ "command-line": line });
            connection.ask("human-monitor-command", arguments).map(drop)
        };
        match start() {
            Ok(()) => Ok((ours, resumer)),
            Err(error) => {
                resumer.leave();
                Err(error.into())
            }
        }
    }
}

/// The stub that QEMU was started with (`-gdb`), if nobody is connected to it.
fn own_stub(connection: &Connection) -> Result<Option<UnixStream>, WaitError> {
    let devices = connection.ask("query-chardev", Value::Null)?;
    let mut devices = devices.as_array().into_iter().flatten();
    let Some(stub) = devices.find(|device| device.get("label") == Some(&json!("gdb"))) else {
        return Ok(None);
    };
    let place = stub.get("filename").and_then(Value::as_str);
    let place = place.unwrap_or_default();
    let shown = || printable(place.as_bytes());
    let Some(place) = place.strip_prefix("disconnected:") else {
        return Err(WaitError::Taken { stub: shown() });
    };
    let place = place.split(',').next().unwrap_or_default();
    let connected = match place.split_once(':') {
        Some(("unix", path)) => UnixStream::connect(path),
        Some(("tcp", address)) => {
            // What listens on every address of this machine does so on its own.
            let address = address.replace("0.0.0.0:", "127.0.0.1:");
            let address = address.replace(":::", "[::1]:");
            TcpStream::connect(address).map(|stream| UnixStream::from(OwnedFd::from(stream)))
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    connected
        .map(Some)
        .map_err(|source| WaitError::Unreachable {
            stub: shown(),
            source,
        })
}

/// The connection to a stub.
struct Packets {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Packets {
    fn reach(
        &mut self,
        address: VirtAddr,
        deadline: Instant,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), WaitError> {
        let gone = || WaitError::Gone { address };
        self.stream
            .set_read_timeout(Some(STEP))
            .and_then(|()| self.stream.set_write_timeout(Some(PATIENCE)))
            .map_err(WaitError::Io)?;
        // It stood still as soon as it was connected.
        let patience = Instant::now() + PATIENCE;
        self.send(&format!("Z1,{:x},1", address.get()))?;
        let said = loop {
            match self.receive().map_err(WaitError::Io)? {
                Received::Packet(said) if said.starts_with('T') || said.starts_with('S') => {}
                Received::Packet(said) => break said,
                Received::End => return Err(gone()),
                Received::Nothing if Instant::now() > patience => break "nothing".into(),
                Received::Nothing => {}
            }
        };
        if said != "OK" {
            return Err(WaitError::Refused { address, said });
        }
        self.send("c")?;
        loop {
            match self.receive().map_err(WaitError::Io)? {
                // SIGTRAP.
                Received::Packet(said) if said.starts_with("T05") || said == "S05" => return Ok(()),
                Received::Packet(said) => return Err(WaitError::Stopped { address, said }),
                Received::End => return Err(gone()),
                Received::Nothing if is_over() => return Err(WaitError::Cancelled { address }),
                Received::Nothing if Instant::now() >= deadline => {
                    return Err(WaitError::Late { address });
                }
                Received::Nothing => {}
            }
        }
    }

    /// Sends a packet: `$words#checksum`.
    fn send(&mut self, words: &str) -> Result<(), WaitError> {
        let sum = words.bytes().fold(0_u8, u8::wrapping_add);
        let packet = format!("${words}#{sum:02x}");
        self.stream
            .write_all(packet.as_bytes())
            .map_err(WaitError::Io)
    }

    /// The words of the next packet, if one is there within a [`STEP`].
    fn receive(&mut self) -> io::Result<Received> {
        loop {
            if let Some(words) = take_packet(&mut self.received) {
                self.stream.write_all(b"+")?;
                return Ok(Received::Packet(printable(&words)));
            }
            if self.received.len() > PACKET_BYTES {
                return Err(io::Error::other("its answer has no end"));
            }
            let mut bytes = [0; 512];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(Received::End),
                Ok(read) => self
                    .received
                    .extend_from_slice(bytes.get(..read).unwrap_or_default()),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(Received::Nothing),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset => return Ok(Received::End),
                    _ => return Err(error),
                },
            }
        }
    }
}

/// What came of a stub.
enum Received {
    Packet(String),
    Nothing,
    End,
}

/// Takes the words of the first packet out of `received`, if it is whole.
fn take_packet(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let begin = received.iter().position(|byte| *byte == b'$')?;
    let end = begin
        + received
            .get(begin..)?
            .iter()
            .position(|byte| *byte == b'#')?;
    if received.len() < end + 3 {
        return None;
    }
    let words = received.get(begin + 1..end)?.to_vec();
    received.drain(..end + 3);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_taken_one_by_one_when_they_are_whole() {
        let mut received = b"++$OK#9a$T05thre".to_vec();
        assert_eq!(take_packet(&mut received), Some(b"OK".to_vec()));
        assert_eq!(take_packet(&mut received), None);
        received.extend_from_slice(b"ad:01;#0");
        assert_eq!(take_packet(&mut received), None);
        received.push(b'7');
        assert_eq!(take_packet(&mut received), Some(b"T05thread:01;".to_vec()));
        assert!(received.is_empty());
        assert_eq!(take_packet(&mut received), None);
    }
}
