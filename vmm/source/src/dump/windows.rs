//! A crash dump of 64-bit Windows: complete, or with a bitmap of the pages that are in it. QEMU's
//! `dump-guest-memory -w` writes the former.
//!
//! ```text
//! 0x0     "PAGEDU64"; 0x10 CR3; 0x30 machine; 0x34 CPUs; 0x88 runs of RAM; 0xf98 the type of dump
//! 0x2000  complete: the pages of all runs
//!         else "SDMP" or "FDMP", "DUMP"; 0x2020 where the pages begin, 0x2030 bits, 0x2038 a bit for each page
//! ```
//!
//! The header is `_DUMP_HEADER64` of Windows' public symbols.

use heirloom_inspect::{Cr3, PhysAddr, PhysRange, RootLabel};

use super::kdump::bitmap::{self, Bitmap, Place};
use super::{Contents, DumpError};
use crate::input::{Input, Window};
use crate::memory::{
    ADDRESS_LIMIT, Format, Found, Layout, PAGE, Page, Paged, Piece, RAM_LIMIT, Source,
};

const HEADER: usize = 0x2000;
const RUNS: usize = 0x88;
/// As many have room in the header.
const MAX_RUNS: u32 = 42;
const AMD64: u32 = 0x8664;
const COMPLETE: u32 = 1;
const SMALL: u32 = 4;
const BITMAP: u64 = 0x2038;
/// Bytes of pages that are read at once.
const BLOCK: usize = 64 << 10;
const WRITE_ANOTHER: &str = "have Windows write a complete or a kernel memory dump, or make a core with \
    QEMU's `dump-guest-memory FILE`, without -w";

/// Opens the dump.
///
/// # Errors
/// [`DumpError`].
pub(crate) fn open(name: &str, input: Input) -> Result<Contents, DumpError> {
    let damaged = |what: String| DumpError::Damaged {
        name: name.into(),
        kind: "crash dump of Windows",
        what,
    };
    let unread = |what: String, remedy| DumpError::Unread {
        name: name.into(),
        what: format!("a crash dump of Windows {what}"),
        remedy,
    };
    let header = input.bytes(0, HEADER).ok_or_else(|| DumpError::Truncated {
        name: name.into(),
        what: "its header",
        end: HEADER as u64,
        length: input.length(),
    })?;
    let narrow = |at: usize| {
        header[at..]
            .first_chunk()
            .map_or(0, |word| u32::from_le_bytes(*word))
    };
    let wide = |at: usize| {
        header[at..]
            .first_chunk()
            .map_or(0, |word| u64::from_le_bytes(*word))
    };
    if narrow(0x30) != AMD64 {
        let machine = narrow(0x30);
        return Err(unread(
            format!("on another processor (machine {machine:#x})"),
            "only x86-64 guests can be inspected",
        ));
    }
    let cr3 = Cr3::new(wide(0x10));
    let count = narrow(RUNS);
    let runs: Option<Vec<PhysRange>> = (0..count.min(MAX_RUNS) as usize)
        .map(|number| {
            let at = RUNS + 16 + number * 16;
            let (start, pages) = (wide(at), wide(at + 8));
            let end = start.checked_add(pages)?;
            (end <= ADDRESS_LIMIT / PAGE as u64).then(|| PhysRange {
                start: PhysAddr::new(start * PAGE as u64),
                bytes: pages * PAGE as u64,
            })
        })
        .collect();
    let runs = runs.filter(|_| (1..=MAX_RUNS).contains(&count));
    let kind = narrow(0xf98);
    let mut notes = vec![format!(
        "by its content this is a crash dump of Windows (type {kind}, {} CPUs)",
        narrow(0x34)
    )];
    let has_bitmap = matches!(
        input.bytes(HEADER as u64, 8).as_deref(),
        Some(b"SDMPDUMP" | b"FDMPDUMP")
    );
    let (layout, source, left_out) = if has_bitmap {
        let pages =
            Pages::read(input).ok_or_else(|| damaged("its bitmap makes no sense".into()))?;
        let there = bitmap::ranges(&pages.input, BITMAP, pages.frames)
            .ok_or_else(|| damaged("its bitmap makes no sense".into()))?;
        notes.push(format!(
            "{} pages are in the dump; what the others hold is unknown, and roots among them are not found",
            pages.bitmap.count
        ));
        let ram = runs.unwrap_or_default().into_iter().chain(there);
        let pieces = ram.map(|range| Piece::new(range, 0, range.start.get()));
        let layout = Layout::of(pieces.collect());
        (
            layout,
            Source::Paged(Box::new(Paged::new(pages))),
            Vec::new(),
        )
    } else if kind == COMPLETE {
        let runs = runs.ok_or_else(|| damaged(format!("it claims {count} runs of RAM")))?;
        let (pieces, left_out) = one_behind_the_other(name, &runs, input.length(), &mut notes);
        (Layout::of(pieces), Source::input(input), left_out)
    } else if kind == SMALL {
        return Err(unread(
            "that has no page tables (a small one)".into(),
            WRITE_ANOTHER,
        ));
    } else {
        return Err(unread(format!("of type {kind}"), WRITE_ANOTHER));
    };
    let root = cr3.root();
    notes.push(format!(
        "its header has CR3 ({:#x}) and no CR0, CR4 and EFER: the number of levels is not known from the \
         registers",
        cr3.get()
    ));
    Ok(Contents {
        layout,
        sources: vec![source],
        cpus: Vec::new(),
        roots: vec![(RootLabel::Cpu(0), root)],
        left_out,
        is_pc: false,
        notes,
    })
}

/// The pieces of a file that has the pages of all `runs`, and what it lacks of them.
fn one_behind_the_other(
    name: &str,
    runs: &[PhysRange],
    length: u64,
    notes: &mut Vec<String>,
) -> (Vec<Piece>, Vec<PhysRange>) {
    let (mut pieces, mut left_out) = (Vec::new(), Vec::new());
    let mut at = HEADER as u64;
    for run in runs {
        let there = run.bytes.min(length.saturating_sub(at));
        let kept = PhysRange {
            bytes: there,
            ..*run
        };
        pieces.push(Piece::new(kept, 0, at));
        if there < run.bytes {
            left_out.push(PhysRange {
                start: run.start.wrapping_add(there),
                bytes: run.bytes - there,
            });
        }
        at = at.saturating_add(run.bytes);
    }
    if at > length {
        notes.push(format!(
            "{name} is cut off: it has {length} bytes, and its runs of RAM need {at}; what it lacks is \
             unknown, copy it again to have it"
        ));
    }
    (pieces, left_out)
}

/// The pages that a bitmap tells of.
#[derive(Debug)]
struct Pages {
    input: Input,
    bitmap: Bitmap,
    frames: u64,
    /// Where the first one is.
    start: u64,
}

#[derive(Debug, Default)]
struct Reader {
    bitmap: Place,
    pages: Window,
}

impl Pages {
    fn read(input: Input) -> Option<Pages> {
        let head = input.bytes(HEADER as u64, 0x38)?;
        let word = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let (start, frames) = (word(0x20)?, word(0x30)?);
        if frames > RAM_LIMIT / PAGE as u64 {
            return None;
        }
        Some(Pages {
            bitmap: Bitmap::read(&input, BITMAP, frames)?,
            input,
            frames,
            start,
        })
    }
}

impl Format for Pages {
    type Reader = Reader;

    fn unpack(&self, reader: &mut Reader, number: u64, page: &mut Page) -> Found {
        let rank = match self.bitmap.rank(&self.input, &mut reader.bitmap, number) {
            Ok(Some(rank)) => rank,
            Ok(None) => return Found::LeftOut,
            Err(()) => return Found::Damaged,
        };
        let at = rank
            .checked_mul(PAGE as u64)
            .and_then(|at| at.checked_add(self.start));
        let bytes = at.and_then(|at| reader.pages.get(&self.input, at, PAGE, BLOCK));
        let Some(bytes) = bytes else {
            return Found::LeftOut;
        };
        page.copy_from_slice(bytes);
        Found::Here
    }

    fn lost_at(&self) -> Option<u64> {
        self.input.lost_at()
    }
}
