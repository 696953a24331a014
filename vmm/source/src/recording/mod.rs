//! Recordings: a run of a guest in a file, every event with the page tables of that moment.
//!
//! A recording is a container: what an event's bytes mean, and what the names in its header stand for, is
//! known to those who write and read it and not here.
//!
//! A [`Recorder`] writes one while the guest runs; a [`Recording`] reads it, also while it grows, and
//! plays its moments in any order. What is played is what was captured: the same roots, registers,
//! tables and missing tables, so that a judge comes to the same verdict.
//!
//! # The file while it grows
//!
//! A recording is written in place, never to a temporary file: it can be read, and shown, while its run goes
//! on, and what was recorded before a crash of the machine or of the program that writes is not lost. Each
//! moment is appended by one write and counts once it is whole, so a reader never sees half of one. A file
//! that exists is never overwritten; the way to record again is to remove it or to name another.
//!
//! # The format, version 1
//!
//! Numbers of fixed size are little-endian. A *varint* is an unsigned number of up to 64 bits, 7 bits
//! a byte, the lowest first; bit 7 is set in every byte but the last (LEB128). A *text* is a varint, the
//! number of bytes, and that many bytes of UTF-8. A *page* is 512 words of 8 bytes, written as
//! [`crate::codec`] has it: as what makes the page that the reader has, or one of zeros if it has none, to
//! the new one.
//!
//! A file is 12 bytes and then chunks, one after the other:
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | `89 68 6c 72 65 63 0d 0a` ([`MAGIC`]) |
//! | 8 | 4 | the version, 1 ([`VERSION`]) |
//!
//! ## Chunks
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 1 | kind: `H` header, `P` pages, `M` moment, `E` end; readers skip kinds that they do not know |
//! | 1 | 1 | flags: bit 0 the contents are compressed; bit 1 a *key*, see below |
//! | 2 | 2 | 0 |
//! | 4 | 4 | bytes of contents as stored, at most 4 MiB ([`MAX_BYTES`]) |
//! | 8 | 4 | bytes of contents when decompressed, at most 4 MiB |
//! | 12 | 4 | CRC-32 (that of zlib and Ethernet) of the contents as stored |
//! | 16 | 4 | CRC-32 of bytes 0 to 15 |
//! | 20 | … | the contents; if compressed, one block of LZ4 |
//!
//! The head has a checksum of its own, so that a file that ends in the middle of a chunk is known to be
//! cut and not damaged. The first chunk is the header, and there is one. Each moment is any number of
//! `P` chunks and then one `M` chunk, and counts once that is whole. An `E` chunk is the last; without
//! it the recording is unfinished. What comes after a chunk that is damaged is not read.
//!
//! ## Differences and keys
//!
//! A reader keeps, from one moment to the next, the *table pages* (by frame number), the last *event's
//! page*, the *registers* of every CPU and the list of *roots*. Moments are written as differences
//! to these. A chunk with the flag *key* has the reader forget them all before it reads the chunk: no
//! pages, an event's page and registers of zeros, no roots. It is the first of its moment's chunks; the
//! moment then stands for itself, and reading can begin there. The first moment is a key. This writer
//! makes one whenever the differences have become as long as the last key was (and 64 KiB), and after
//! 1024 moments: so going to any moment costs about twice its tables at most, and keys do not double
//! the file.
//!
//! ## A list of pages
//!
//! A *page list* is a varint, the number of pages, and for each a varint, the frame number (the
//! guest-physical address divided by 4096), and the page.
//!
//! ## `H`, the header
//!
//! 1. text: the program that wrote it, with its version
//! 2. varint: when, in seconds since 1970-01-01 00:00 UTC
//! 3. varint: number of words of the command that ran the guest; each a text
//! 4. text: the guest kernel's command line
//! 5. text: the propagation strategy that the guest is held to; empty if it is not judged
//! 6. text: the deliberate bug that it was told to make; empty if none
//! 7. varint: number of RAM ranges; each two varints: first guest-physical address, bytes
//! 8. varint: number of the kernel image's segments; each three varints, virtual address, physical
//!    address, bytes (whole pages), and a byte: bit 0 writable, bit 1 executable
//!
//! ## `P`, pages
//!
//! A page list: tables that changed, or with *key* all tables. A frame appears once, whatever the levels
//! are at which it is used. Frames that entries point to and that are outside the guest's memory do not
//! appear; walking the tables finds them missing again.
//!
//! ## `M`, a moment
//!
//! 1. byte: bit 0 there is an event, bit 1 there is a capture
//! 2. varint: microseconds since the recording was begun
//! 3. with an event: a page, of which this format says no more than that its bytes 8 to 15 are the event's
//!    number, little-endian. (In recordings of heirloom's own guest it is the probe page that
//!    `guest/abi/src/event/` defines.)
//! 4. with a capture:
//!    - byte, how the tables are read: bit 0 EFER.NXE, bit 1 CR0.WP, bit 2 CR4.PGE, bit 3 CR4.SMEP,
//!      bit 4 CR4.SMAP, bit 5 CR4.PCIDE, bit 6 the CPU has 1 GiB leaves, bit 7 CR4.LA57 (5 levels)
//!    - varint: physical address bits, 32 to 52; and 64 times the number of the bit, 12 to 51, with which
//!      entries say that a frame is encrypted (AMD's C-bit), 0 if there is none
//!    - varint: number of CPUs; varint: which of them, from 0, reported the event (0 if there are none)
//!    - for each CPU: a byte, its privilege level; nine varints, each the exclusive or with what the
//!      register was: CR0, CR2, CR3, CR4, EFER, RIP, RSP, RBP, RFLAGS
//!    - three varints: how many roots stay at the beginning of the list, how many at its end, and how
//!      many stand between these now; for each of the latter a byte, whose it is (0 the kernel's own,
//!      1 a process's, 2 what a CPU had, 3 found in memory), a varint, the number of the process or CPU,
//!      else 0, and a varint, the guest-physical address of the root table
//!    - two varints: how many tables the roots reach, a frame that is used at two levels counted twice,
//!      and how many tables entries point to that the guest's memory does not have. A reader that
//!      finds other numbers has not read what was recorded
//!    - varint: number of other pieces of guest memory that judging looked at; for each two varints,
//!      guest-physical address and bytes, and that many bytes. They belong to this moment alone
//! 5. a page list: tables that changed and are not in `P` chunks before
//!
//! A moment without a capture leaves tables, registers and roots as they are.
//!
//! ## `E`, the end
//!
//! A byte: 0, the run came to its own end, and a varint, the first program's status as `wait4` reports
//! it; or 1, it did not, and a byte, the exit code of `heirloom`, and a text, why.

pub use chunk::{Damage, MAX_BYTES};
pub use error::{Problem, ReadError, RecordError};
pub use header::Header;
pub use memory::{Piece, ReadLog, RecordedMemory};
pub use moment::{EVENT_BYTES, EventPage, MAX_CPUS, MAX_ROOTS};
pub use opened::{Ending, Listed, Recording};
pub use player::{Moment, Player, Tables};
pub use recorder::{Capture, Recorder};
pub use spec::{RecordingError, RecordingSpec};

mod chunk;
mod error;
mod header;
mod memory;
mod moment;
mod opened;
mod pages;
mod player;
mod recorder;
mod scan;
mod spec;

use crate::codec::{Get, Malformed, Put};

/// The first bytes of every recording. The first is no text, and the line ends are there to show a
/// transfer that changed them.
pub const MAGIC: [u8; 8] = *b"\x89hlrec\r\n";
/// Version of the format.
pub const VERSION: u32 = 1;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself; the first program's status, as `wait4` would report it.
    Done {
        /// 0 if it was content.
        status: u64,
    },
    /// Otherwise: the exit code of the command, and why.
    Failed {
        /// The exit code.
        code: u8,
        /// Why.
        message: String,
    },
}

impl End {
    fn contents(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            End::Done { status } => {
                out.push(0);
                out.put_varint(*status);
            }
            End::Failed { code, message } => {
                out.push(1);
                out.push(*code);
                out.put_text(message);
            }
        }
        out
    }

    fn get(contents: &[u8]) -> Result<End, Malformed> {
        let mut from = Get::new(contents);
        let end = match from.byte("how the run ended")? {
            0 => End::Done {
                status: from.varint("the status")?,
            },
            1 => End::Failed {
                code: from.byte("the exit code")?,
                message: from.text("the message")?,
            },
            _ => return Err(Malformed::Value("how the run ended")),
        };
        from.end()?;
        Ok(end)
    }
}
