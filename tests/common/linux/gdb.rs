//! QEMU's GDB stub (the remote serial protocol, GDB's manual, appendix E), for the one thing that QMP
//! cannot do: to change a register. With another CR3, QEMU's own walker shows any address space.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use heirloom_inspect::PhysAddr;

/// CR3 among the registers of QEMU's x86-64 (gdb-xml/i386-64bit.xml).
const CR3: u32 = 29;

/// A connection to the stub of a QEMU; it speaks of the first CPU.
pub(crate) struct Gdb {
    stream: UnixStream,
}

impl Gdb {
    /// Connects to a stub that listens at `socket`.
    pub(crate) fn connect(socket: &Path) -> Gdb {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(300)))
            .unwrap();
        let mut gdb = Gdb { stream };
        // QEMU gives single registers only to those who know how it numbers them.
        gdb.ask("qXfer:features:read:target.xml:0,10");
        gdb
    }

    pub(crate) fn cr3(&mut self) -> u64 {
        let digits = self.ask(&format!("p{CR3:x}"));
        // Eight bytes, the lowest first.
        u64::from_str_radix(&digits, 16).unwrap().swap_bytes()
    }

    /// Makes `root` the root of the first CPU.
    pub(crate) fn set_root(&mut self, root: PhysAddr) {
        let value = root.get().swap_bytes();
        let answer = self.ask(&format!("P{CR3:x}={value:016x}"));
        assert_eq!(answer, "OK");
        assert_eq!(self.cr3(), root.get());
    }

    /// Sends a packet, `$words#checksum`: the answer's words.
    fn ask(&mut self, words: &str) -> String {
        let sum = words.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.stream, "${words}#{sum:02x}").unwrap();
        let mut received = Vec::new();
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("QEMU answers");
            received.push(byte[0]);
            // `+` acknowledges; two digits end a packet.
            if let [.., b'#', _, _] = received[..] {
                break;
            }
        }
        self.stream.write_all(b"+").unwrap();
        let text = String::from_utf8(received).unwrap();
        let (_, packet) = text.split_once('$').unwrap();
        packet[..packet.len() - 3].to_owned()
    }
}
