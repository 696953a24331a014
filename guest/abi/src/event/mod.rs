//! Probe events: what the guest kernel tells the host, and when.
//!
//! Each CPU owns one [`ProbePage`]. To tell something the kernel fills it in and writes the page's
//! frame number, 32 bits wide, to [`DOORBELL_PORT`]; where that is a serial port, it sends the number and
//! waits for an answer ([`PROBE_SERIAL`](crate::options::PROBE_SERIAL)). The CPU stands still until the host
//! resumes it, so the host sees page and page tables of one and the same moment.

mod payload;

pub use payload::*;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the doorbell is: a 4-byte `out` of the probe page's frame number.
pub const DOORBELL_PORT: u16 = 0x0d00;
/// First word of a probe page: "HLPP".
pub const MAGIC: u32 = u32::from_le_bytes(*b"HLPP");
/// Version of this layout; host and kernel must agree.
pub const VERSION: u16 = 1;
/// u64 words of payload in a probe page.
pub const PAYLOAD_WORDS: usize = 488;
/// The process id that stands for the kernel itself: its own address space, no process.
pub const KERNEL_PID: u32 = 0;

/// One CPU's page of news for the host.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Debug)]
#[repr(C, align(4096))]
pub struct ProbePage {
    /// What kind of event, of which process.
    pub header: Header,
    /// The kernel's totals when the event was told.
    pub counters: Counters,
    /// The fixed part of the event's [`Payload`], then its list.
    pub payload: [u64; PAYLOAD_WORDS],
}

const _: () = assert!(size_of::<ProbePage>() == 4096);

/// What kind of event, in whose address space.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u16,
    /// A `Kind` as number.
    pub kind: u16,
    /// Counts this CPU's events from 0.
    pub sequence: u64,
    /// Which CPU, from 0.
    pub cpu: u32,
    /// The process whose address space CR3 holds; [`KERNEL_PID`] for the kernel's own.
    pub pid: u32,
    /// Words in use in the list that follows the fixed part of the payload.
    pub list_words: u32,
    /// Zero.
    pub reserved: u32,
}

/// Running totals, kept by the guest kernel. Frames are 4 KiB.
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, Default, PartialEq, Eq,
)]
#[repr(C)]
pub struct Counters {
    /// All frames of RAM; the sum of the five uses below.
    pub frames_total: u64,
    /// Nobody uses them.
    pub frames_free: u64,
    /// Page tables of every level, kernel and user.
    pub frames_table: u64,
    /// Memory of ring-3 processes.
    pub frames_user: u64,
    /// Kernel data got at run time: process pages, vmalloc.
    pub frames_kernel: u64,
    /// In use before the allocator came up: kernel image, modules, memory map, low memory.
    pub frames_reserved: u64,
    /// Processes that own an address space.
    pub processes_live: u64,
    /// Processes that ended and were not waited for.
    pub processes_zombie: u64,
    /// Writes to entries that map kernel memory, all levels below the PGD.
    pub kernel_entry_writes: u64,
    /// Writes to kernel-half PGD entries, of any process; a child's inherited ones too.
    pub kernel_pgd_writes: u64,
    /// Writes to entries of user halves, all levels.
    pub user_entry_writes: u64,
    /// Page faults that put a kernel mapping into an address space (`fault` strategy).
    pub kernel_faults: u64,
    /// Page faults that put user memory into place: demand-zero, program text, copy on write.
    pub user_faults: u64,
    /// Loads of CR3.
    pub cr3_loads: u64,
    /// Single-page TLB invalidations, on the CPU that changed the page's entry.
    pub page_flushes: u64,
    /// System calls served.
    pub system_calls: u64,
    /// Timer interrupts taken in ring 3.
    pub timer_interrupts: u64,
    /// The time-stamp counter when the event was told.
    pub cycles: u64,
    /// Interrupts that a CPU sent to others, to make them drop translations.
    pub shootdown_interrupts: u64,
    /// Times that a CPU dropped translations because another had changed their entries.
    pub remote_flushes: u64,
}

/// A payload that has a kind of its own.
pub trait Payload: FromBytes + IntoBytes + Immutable + KnownLayout + Sized {
    /// The number in [`Header::kind`].
    const KIND: u16;
    /// u64 words in the fixed part.
    const WORDS: usize = size_of::<Self>() / 8;
}

/// Any event, as the host reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The kernel is up.
    Boot(Boot),
    /// A process has its address space.
    ProcessCreated(ProcessCreated),
    /// A process has a new program.
    ProcessExecuted(ProcessExecuted),
    /// A process has ended.
    ProcessExited(ProcessExited),
    /// A process will be ended for what it did.
    ProcessKilled(ProcessKilled),
    /// Kernel memory was mapped, and the frame numbers of its first pages.
    KernelMapped(KernelMapped, &'a [u64]),
    /// Kernel memory was unmapped.
    KernelUnmapped(KernelUnmapped),
    /// Kernel memory has other permissions.
    KernelProtected(KernelProtected),
    /// The kernel accessed kernel memory.
    KernelAccess(KernelAccess),
    /// The program says how far it is.
    Checkpoint(&'a str),
    /// The kernel cannot go on.
    Crash(Crash),
    /// The first process has ended, and so the run.
    Done(Done),
    /// A user page fault was handled.
    PageFaultHandled(PageFaultHandled),
}

macro_rules! kinds {
    ($($number:literal $payload:ident),* $(,)?) => {
        $(impl Payload for $payload { const KIND: u16 = $number; })*
    };
}

kinds! {
    1 Boot, 2 ProcessCreated, 3 ProcessExecuted, 4 ProcessExited, 5 ProcessKilled,
    6 KernelMapped, 7 KernelUnmapped, 8 KernelProtected, 9 KernelAccess,
    10 Checkpoint, 11 Crash, 12 Done, 13 PageFaultHandled,
}

/// Why a probe page is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The magic word is another.
    Magic(u32),
    /// The version is another.
    Version(u16),
    /// No such kind.
    Kind(u16),
    /// The list is longer than the page.
    ListLength(u32),
    /// A checkpoint's text is longer than its list, or not UTF-8.
    Text,
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Malformed::Magic(magic) => {
                write!(
                    f,
                    "the probe page starts with {magic:#010x}, not {MAGIC:#010x}"
                )
            }
            Malformed::Version(version) => write!(
                f,
                "the guest kernel speaks probe version {version}, this host {VERSION}; build both from one tree"
            ),
            Malformed::Kind(kind) => write!(f, "no event has kind {kind}"),
            Malformed::ListLength(words) => {
                write!(f, "a list of {words} words does not fit the probe page")
            }
            Malformed::Text => write!(f, "a checkpoint's text is cut or not UTF-8"),
        }
    }
}

impl core::error::Error for Malformed {}

impl ProbePage {
    /// Reads the event that the page holds.
    ///
    /// # Errors
    /// [`Malformed`], whatever the bytes are: the page is written by the guest.
    pub fn decode(&self) -> Result<Event<'_>, Malformed> {
        let header = &self.header;
        if header.magic != MAGIC {
            return Err(Malformed::Magic(header.magic));
        }
        if header.version != VERSION {
            return Err(Malformed::Version(header.version));
        }
        Ok(match header.kind {
            Boot::KIND => Event::Boot(self.fixed()),
            ProcessCreated::KIND => Event::ProcessCreated(self.fixed()),
            ProcessExecuted::KIND => Event::ProcessExecuted(self.fixed()),
            ProcessExited::KIND => Event::ProcessExited(self.fixed()),
            ProcessKilled::KIND => Event::ProcessKilled(self.fixed()),
            KernelMapped::KIND => Event::KernelMapped(self.fixed(), self.list::<KernelMapped>()?),
            KernelUnmapped::KIND => Event::KernelUnmapped(self.fixed()),
            KernelProtected::KIND => Event::KernelProtected(self.fixed()),
            KernelAccess::KIND => Event::KernelAccess(self.fixed()),
            Checkpoint::KIND => {
                let length = usize::try_from(self.fixed::<Checkpoint>().length)
                    .map_err(|_| Malformed::Text)?;
                let bytes = self.list::<Checkpoint>()?.as_bytes();
                let text = bytes.get(..length).ok_or(Malformed::Text)?;
                Event::Checkpoint(core::str::from_utf8(text).map_err(|_| Malformed::Text)?)
            }
            Crash::KIND => Event::Crash(self.fixed()),
            Done::KIND => Event::Done(self.fixed()),
            PageFaultHandled::KIND => Event::PageFaultHandled(self.fixed()),
            kind => return Err(Malformed::Kind(kind)),
        })
    }

    /// Writes a payload and its kind, leaving sequence, CPU and process alone.
    pub fn set<P: Payload>(&mut self, payload: &P, list_words: u32) {
        self.header.kind = P::KIND;
        self.header.list_words = list_words;
        // The payload area is larger than any fixed part, so the copy is whole.
        let _ = payload.write_to_prefix(self.payload.as_mut_bytes());
    }

    /// The words that a list may use behind the fixed part of `P`.
    pub fn list_mut<P: Payload>(&mut self) -> &mut [u64] {
        &mut self.payload[P::WORDS..]
    }

    fn fixed<P: Payload>(&self) -> P {
        match P::read_from_prefix(self.payload.as_bytes()) {
            Ok((payload, _)) => payload,
            Err(_) => unreachable!("every payload is smaller than the page"),
        }
    }

    fn list<P: Payload>(&self) -> Result<&[u64], Malformed> {
        let words = self.header.list_words;
        usize::try_from(words)
            .ok()
            .and_then(|words| self.payload[P::WORDS..].get(..words))
            .ok_or(Malformed::ListLength(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> ProbePage {
        let mut page = ProbePage::read_from_bytes(&[0; 4096]).unwrap();
        page.header.magic = MAGIC;
        page.header.version = VERSION;
        page
    }

    #[test]
    fn what_is_set_is_decoded() {
        let mut page = page();
        let access = KernelAccess {
            address: 1,
            value: 2,
            write: 1,
            faulted: 0,
            error_code: 0,
        };
        page.set(&access, 0);
        assert_eq!(page.decode(), Ok(Event::KernelAccess(access)));

        let mapped = KernelMapped {
            address: 4096,
            pages: 2,
            protection: 3,
        };
        page.list_mut::<KernelMapped>()[..2].copy_from_slice(&[7, 9]);
        page.set(&mapped, 2);
        assert_eq!(page.decode(), Ok(Event::KernelMapped(mapped, &[7, 9])));
    }

    #[test]
    fn a_checkpoint_carries_its_text() {
        let mut page = page();
        page.list_mut::<Checkpoint>()[0] = u64::from_le_bytes(*b"grown up");
        page.set(&Checkpoint { length: 5 }, 1);
        assert_eq!(page.decode(), Ok(Event::Checkpoint("grown")));
        page.set(&Checkpoint { length: 9 }, 1);
        assert_eq!(page.decode(), Err(Malformed::Text));
        page.set(&Checkpoint { length: u64::MAX }, 1);
        assert_eq!(page.decode(), Err(Malformed::Text));
    }

    #[test]
    fn a_hostile_page_is_an_error_and_never_a_panic() {
        let mut page = page();
        assert_eq!(page.decode(), Err(Malformed::Kind(0)));
        page.set(
            &KernelMapped {
                address: 0,
                pages: 1,
                protection: 0,
            },
            u32::MAX,
        );
        assert_eq!(page.decode(), Err(Malformed::ListLength(u32::MAX)));
        page.header.version = 9;
        assert_eq!(page.decode(), Err(Malformed::Version(9)));
        page.header.magic = 0;
        assert_eq!(page.decode(), Err(Malformed::Magic(0)));
    }
}
