//! LiME's image (format=lime), and AVML's without compression, which is the same: ranges of RAM, each behind a
//! header. LiME's other formats are images of RAM without any (format=padded, =raw).
//!
//! ```text
//! 0   "EMiL", version 1 (4 bytes)
//! 8   first and last guest-physical address (8 bytes each)
//! 24  8 zeros; then the bytes of the range
//! ```

use heirloom_inspect::{PhysAddr, PhysRange};

use super::{Contents, DumpError};
use crate::input::Input;
use crate::memory::{ADDRESS_LIMIT, Layout, Piece, Source};

/// What a header takes.
pub(super) const HEADER: usize = 32;
/// A machine with more ranges of RAM is not believed; AVML writes one for every 16 MiB.
const RANGES: usize = 1 << 18;

/// Zeros behind the last range are passed over if they are no more.
const MAX_PADDING: u64 = 1 << 20;

/// Whether these bytes are zero.
fn is_zero(input: &Input, at: u64, bytes: u64) -> bool {
    let bytes = usize::try_from(bytes).ok();
    let there = bytes.and_then(|bytes| input.bytes(at, bytes));
    there.is_some_and(|there| there.iter().all(|byte| *byte == 0))
}

/// The range of a header, by its first and last address.
pub(super) fn range_of(header: &[u8]) -> Option<PhysRange> {
    let word =
        |at: usize| -> Option<u64> { Some(u64::from_le_bytes(*header.get(at..)?.first_chunk()?)) };
    let (first, last) = (word(8)?, word(16)?);
    let bytes = last.checked_sub(first)?.checked_add(1)?;
    let start = PhysAddr::new(first);
    (last < ADDRESS_LIMIT).then_some(PhysRange { start, bytes })
}

/// Opens a LiME image.
///
/// # Errors
/// [`DumpError`].
pub(crate) fn open(name: &str, input: Input) -> Result<Contents, DumpError> {
    const MARK: &[u8] = b"EMiL\x01\0\0\0";
    let damaged = |what: String| DumpError::Damaged {
        name: name.into(),
        kind: "LiME image",
        what,
    };
    let mut notes = vec!["by its content this is a LiME image".to_string()];
    let (mut pieces, mut lost) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < input.length() {
        // Copied in blocks, or padded to the sectors of a disk.
        let behind = input.length() - at;
        if !pieces.is_empty() && behind <= MAX_PADDING && is_zero(&input, at, behind) {
            notes.push(format!(
                "{behind} bytes of zeros behind its last range are left out"
            ));
            break;
        }
        let Some(header) = input.bytes(at, HEADER) else {
            notes.push(cut(name, input.length(), at));
            break;
        };
        if !header.starts_with(MARK) {
            return Err(damaged(format!(
                "at byte {at}, where a range of RAM should begin, is no header of version 1"
            )));
        }
        let range = range_of(&header)
            .ok_or_else(|| damaged(format!("the range at byte {at} has no addresses")))?;
        if pieces.len() == RANGES {
            return Err(damaged(format!("it has more than {RANGES} ranges of RAM")));
        }
        at += HEADER as u64;
        let there = range.bytes.min(input.length() - at);
        let kept = PhysRange {
            bytes: there,
            ..range
        };
        pieces.push(Piece::new(kept, 0, at));
        if there < range.bytes {
            notes.push(cut(name, input.length(), at + range.bytes));
            lost.push(PhysRange {
                start: range.start.wrapping_add(there),
                bytes: range.bytes - there,
            });
        }
        at = at.saturating_add(range.bytes);
    }
    Ok(Contents {
        layout: Layout::of(pieces),
        sources: vec![Source::input(input)],
        cpus: Vec::new(),
        roots: Vec::new(),
        left_out: lost,
        is_pc: false,
        notes,
    })
}

/// What is said of an image that ends too early.
pub(super) fn cut(name: &str, length: u64, wanted: u64) -> String {
    format!(
        "{name} is cut off: it has {length} bytes, and a range of RAM goes on to at least {wanted}; what it \
         lacks is unknown; copy it again to have it"
    )
}
