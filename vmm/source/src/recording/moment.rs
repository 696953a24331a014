//! A moment's chunk: the event, the CPUs, the roots, and bytes of memory, as differences against the
//! moment before.

use std::time::Duration;

use super::memory::Piece;
use crate::codec::page;
use crate::codec::{Get, Malformed, Put};
use heirloom_inspect::memory::Words;
use heirloom_inspect::paging::addr::{PhysAddr, VirtAddr};
use heirloom_inspect::paging::entry::Entry;
use heirloom_inspect::paging::level::Depth;
use heirloom_inspect::paging::mode::{CpuState, Cr3, Mode, PhysBits};
use heirloom_inspect::snapshot::{RootLabel, Snapshot};

/// Most CPUs of a moment.
pub const MAX_CPUS: usize = 1 << 12;
/// Most roots of a moment: as many as a snapshot has tables.
pub const MAX_ROOTS: usize = super::pages::MAX_PAGES;

/// Physical address widths are below it; in what is written, the encryption bit comes above.
const PHYS_BITS_LIMIT: u32 = 64;

const HAS_EVENT: u8 = 1 << 0;
const HAS_CAPTURE: u8 = 1 << 1;

/// What a moment's parts are written as differences against.
#[derive(Debug)]
pub(super) struct Context {
    /// The last event's page.
    event: Box<Words>,
    cpus: Vec<CpuState>,
    roots: Vec<(RootLabel, PhysAddr)>,
}

impl Default for Context {
    fn default() -> Self {
        Context {
            event: Box::new(page::ZERO),
            cpus: Vec::new(),
            roots: Vec::new(),
        }
    }
}

/// The moment but for its tables.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fields {
    /// Since the recording was begun.
    pub(super) at: Duration,
    pub(super) event: Option<Box<Words>>,
    pub(super) capture: Option<Captured>,
}

/// What belongs to a capture, but for the tables.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Captured {
    pub(super) mode: Mode,
    pub(super) cpus: Vec<CpuState>,
    /// Which of them reported the event.
    pub(super) reporting_cpu: usize,
    pub(super) roots: Vec<(RootLabel, PhysAddr)>,
    pub(super) counts: Counts,
    pub(super) pieces: Vec<Piece>,
}

/// How many tables the roots reach: whoever plays the moment must find as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    tables: usize,
    /// Those that guest memory does not have.
    missing: usize,
}

impl Counts {
    pub(super) fn of(snapshot: &Snapshot) -> Counts {
        Counts {
            tables: snapshot.table_count(),
            missing: snapshot.missing_count(),
        }
    }
}

/// Bytes of an event's page.
pub const EVENT_BYTES: usize = size_of::<Words>();

/// A page of bytes that tells an event. What they mean is between those who wrote and those who read them,
/// but for the number by which people name the event: bytes 8 to 15, little-endian.
pub type EventPage = [u8; EVENT_BYTES];

/// Which word of an event's page is its number.
const NUMBER: usize = 1;

/// The words of an event's page.
pub(super) fn words_of(page: &EventPage) -> Box<Words> {
    let mut words = Box::new(page::ZERO);
    let (bytes, _) = page.as_chunks();
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// The bytes of an event's page.
pub(super) fn page_of(words: &Words) -> Box<EventPage> {
    let mut page = Box::new([0; EVENT_BYTES]);
    let (bytes, _) = page.as_chunks_mut();
    for (word, bytes) in words.iter().zip(bytes) {
        *bytes = word.to_le_bytes();
    }
    page
}

/// The number of an event.
pub(super) const fn number_of(words: &Words) -> u64 {
    words[NUMBER]
}

impl Fields {
    /// Appends everything but the page list, and remembers it in `context`.
    pub(super) fn put(self, out: &mut Vec<u8>, context: &mut Context) {
        let has_event = if self.event.is_some() { HAS_EVENT } else { 0 };
        let has_capture = if self.capture.is_some() {
            HAS_CAPTURE
        } else {
            0
        };
        out.push(has_event | has_capture);
        out.put_varint(u64::try_from(self.at.as_micros()).unwrap_or(u64::MAX));
        if let Some(event) = self.event {
            page::put(out, &context.event, &event);
            context.event = event;
        }
        if let Some(capture) = self.capture {
            put_mode(out, &capture.mode);
            out.put_varint(capture.cpus.len() as u64);
            out.put_varint(capture.reporting_cpu as u64);
            for (number, cpu) in capture.cpus.iter().enumerate() {
                let before = context.cpus.get(number).copied().unwrap_or_default();
                put_cpu(out, &before, cpu);
            }
            put_roots(out, &context.roots, &capture.roots);
            out.put_varint(capture.counts.tables as u64);
            out.put_varint(capture.counts.missing as u64);
            out.put_varint(capture.pieces.len() as u64);
            for piece in &capture.pieces {
                out.put_varint(piece.at.get());
                out.put_varint(piece.bytes.len() as u64);
                out.extend(&piece.bytes);
            }
            context.cpus = capture.cpus;
            context.roots = capture.roots;
        }
    }

    /// Reads what [`Fields::put`] wrote; the page list comes next.
    pub(super) fn get(from: &mut Get<'_>, context: &mut Context) -> Result<Fields, Malformed> {
        let (parts, at, event) = get_event(from, context)?;
        let capture = if parts & HAS_CAPTURE == 0 {
            None
        } else {
            Some(get_capture(from, context)?)
        };
        Ok(Fields { at, event, capture })
    }
}

/// When a moment was, its event, and whether it has a capture.
pub(super) type Event = (Duration, Option<Box<Words>>, bool);

/// Reads as far as the event.
pub(super) fn event(contents: &[u8], context: &mut Context) -> Result<Event, Malformed> {
    let (parts, at, event) = get_event(&mut Get::new(contents), context)?;
    Ok((at, event, parts & HAS_CAPTURE != 0))
}

fn get_event(
    from: &mut Get<'_>,
    context: &mut Context,
) -> Result<(u8, Duration, Option<Box<Words>>), Malformed> {
    let parts = from.byte("a moment's parts")?;
    if parts & !(HAS_EVENT | HAS_CAPTURE) != 0 {
        return Err(Malformed::Value("a moment's parts"));
    }
    let at = Duration::from_micros(from.varint("a moment's time")?);
    let event = if parts & HAS_EVENT == 0 {
        None
    } else {
        if !page::get(from, &mut context.event)? {
            return Err(Malformed::Value("an event"));
        }
        Some(context.event.clone())
    };
    Ok((parts, at, event))
}

fn get_capture(from: &mut Get<'_>, context: &mut Context) -> Result<Captured, Malformed> {
    let mode = get_mode(from)?;
    let count = from.count("the number of CPUs")?;
    if count > MAX_CPUS {
        return Err(Malformed::TooMany {
            what: "CPUs",
            max: MAX_CPUS,
        });
    }
    let reporting_cpu = usize::try_from(from.varint("the CPU that reports")?).unwrap_or(usize::MAX);
    if reporting_cpu >= count.max(1) {
        return Err(Malformed::Value("the CPU that reports"));
    }
    let cpus: Vec<CpuState> = (0..count)
        .map(|number| {
            let before = context.cpus.get(number).copied().unwrap_or_default();
            get_cpu(from, &before)
        })
        .collect::<Result<_, _>>()?;
    let roots = get_roots(from, &context.roots)?;
    let mut count = || -> Result<usize, Malformed> {
        let count = from.varint("the number of tables")?;
        usize::try_from(count).map_err(|_| Malformed::Value("the number of tables"))
    };
    let counts = Counts {
        tables: count()?,
        missing: count()?,
    };
    let pieces = (0..from.count("the pieces of memory")?)
        .map(|_| {
            let at = PhysAddr::new(from.varint("a piece of memory")?);
            let length = from.count("a piece of memory")?;
            let bytes = from.bytes(length, "a piece of memory")?.to_vec();
            Ok(Piece { at, bytes })
        })
        .collect::<Result<_, _>>()?;
    context.cpus.clone_from(&cpus);
    context.roots.clone_from(&roots);
    Ok(Captured {
        mode,
        cpus,
        reporting_cpu,
        roots,
        counts,
        pieces,
    })
}

fn put_mode(out: &mut Vec<u8>, mode: &Mode) {
    let flags = [
        mode.nxe,
        mode.wp,
        mode.pge,
        mode.smep,
        mode.smap,
        mode.pcide,
        mode.gigabyte_pages,
        mode.depth == Depth::Five,
    ];
    let bits = (0..).zip(flags).map(|(bit, on)| u8::from(on) << bit);
    out.push(bits.fold(0, |all, bit| all | bit));
    let encryption = encryption_bit(mode).unwrap_or(0);
    out.put_varint((mode.phys_bits.get() + PHYS_BITS_LIMIT * encryption).into());
}

/// The number of the bit that says that a frame is encrypted, 0 for none; `None` if it is no single bit of an
/// entry's address, which the format cannot hold.
pub(super) fn encryption_bit(mode: &Mode) -> Option<u32> {
    let mask = mode.encryption.get();
    match mask.trailing_zeros() {
        _ if mask == 0 => Some(0),
        bit @ 12..=51 if mask.is_power_of_two() => Some(bit),
        _ => None,
    }
}

fn get_mode(from: &mut Get<'_>) -> Result<Mode, Malformed> {
    let flags = from.byte("the mode")?;
    let is = |bit: u8| flags >> bit & 1 != 0;
    let widths = from.varint32("the physical address width")?;
    let encryption = match widths / PHYS_BITS_LIMIT {
        0 => Entry::ABSENT,
        bit @ 12..=51 => Entry::new(1 << bit),
        _ => return Err(Malformed::Value("the encryption bit")),
    };
    Ok(Mode {
        nxe: is(0),
        wp: is(1),
        pge: is(2),
        smep: is(3),
        smap: is(4),
        pcide: is(5),
        gigabyte_pages: is(6),
        depth: if is(7) { Depth::Five } else { Depth::Four },
        phys_bits: PhysBits::new(widths % PHYS_BITS_LIMIT)
            .ok_or(Malformed::Value("the physical address width"))?,
        encryption,
    })
}

/// A CPU's registers in the order of the format.
fn registers(cpu: &CpuState) -> [u64; 9] {
    [
        cpu.cr0,
        cpu.cr2.get(),
        cpu.cr3.get(),
        cpu.cr4,
        cpu.efer,
        cpu.rip.get(),
        cpu.rsp.get(),
        cpu.rbp.get(),
        cpu.rflags,
    ]
}

fn put_cpu(out: &mut Vec<u8>, before: &CpuState, after: &CpuState) {
    out.push(after.cpl);
    for (before, after) in registers(before).into_iter().zip(registers(after)) {
        out.put_varint(before ^ after);
    }
}

fn get_cpu(from: &mut Get<'_>, before: &CpuState) -> Result<CpuState, Malformed> {
    let cpl = from.byte("a privilege level")?;
    if cpl > 3 {
        return Err(Malformed::Value("a privilege level"));
    }
    let mut values = registers(before);
    for value in &mut values {
        *value ^= from.varint("a register")?;
    }
    let [cr0, cr2, cr3, cr4, efer, rip, rsp, rbp, rflags] = values;
    Ok(CpuState {
        cr0,
        cr2: VirtAddr::new(cr2),
        cr3: Cr3::new(cr3),
        cr4,
        efer,
        cpl,
        rip: VirtAddr::new(rip),
        rsp: VirtAddr::new(rsp),
        rbp: VirtAddr::new(rbp),
        rflags,
        ..CpuState::default()
    })
}

type Roots = [(RootLabel, PhysAddr)];

/// Writes how many roots stay at the beginning and at the end, and those between.
fn put_roots(out: &mut Vec<u8>, before: &Roots, after: &Roots) {
    let same = |(one, other): &(&_, &_)| one == other;
    let head = before.iter().zip(after).take_while(same).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before.iter().rev().zip(after.iter().rev());
    let tail = tail.take_while(same).count();
    let between = &after[..after.len() - tail];
    out.put_varint(head as u64);
    out.put_varint(tail as u64);
    out.put_varint(between.len() as u64);
    for (label, address) in between {
        let (kind, number) = match *label {
            RootLabel::Kernel => (0, 0),
            RootLabel::Process(pid) => (1, pid),
            RootLabel::Cpu(cpu) => (2, cpu),
            RootLabel::Found(_) => (3, 0),
        };
        out.push(kind);
        out.put_varint(number.into());
        out.put_varint(address.get());
    }
}

fn get_roots(from: &mut Get<'_>, before: &Roots) -> Result<Vec<(RootLabel, PhysAddr)>, Malformed> {
    const KEPT: &str = "how many roots stay";
    let mut kept = || -> Result<usize, Malformed> {
        usize::try_from(from.varint(KEPT)?)
            .ok()
            .filter(|kept| *kept <= before.len())
            .ok_or(Malformed::Value(KEPT))
    };
    let (head, tail) = (kept()?, kept()?);
    if head + tail > before.len() {
        return Err(Malformed::Value(KEPT));
    }
    let between = from.count("the number of new roots")?;
    if head + tail + between > MAX_ROOTS {
        return Err(Malformed::TooMany {
            what: "roots",
            max: MAX_ROOTS,
        });
    }
    let mut roots = before[..head].to_vec();
    for _ in 0..between {
        let kind = from.byte("whose a root is")?;
        let number = from.varint32("whose a root is")?;
        let address = PhysAddr::new(from.varint("a root's address")?);
        let label = match kind {
            0 => RootLabel::Kernel,
            1 => RootLabel::Process(number),
            2 => RootLabel::Cpu(number),
            3 => RootLabel::Found(address),
            _ => return Err(Malformed::Value("whose a root is")),
        };
        roots.push((label, address));
    }
    roots.extend(&before[before.len() - tail..]);
    Ok(roots)
}
