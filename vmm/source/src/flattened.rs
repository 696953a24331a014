//! makedumpfile's flattened form: what it writes to a pipe (-F), and QEMU to anything that is no core.
//!
//! ```text
//! 0     "makedumpfile", 4 zeros, type 1, version 1 (8 bytes each); then zeros up to 4096
//! 4096  offset, size, and as many bytes for that place of the dump; and so on
//!       offset -1, size -1: the end
//! ```
//!
//! All numbers are big-endian. Later bytes replace earlier ones.

use heirloom_inspect::{PhysAddr, PhysRange};

use crate::dump::DumpError;
use crate::input::Input;
use crate::memory::{Layout, Piece};

const HEADER: u64 = 4096;
/// As many parts fit 64 MiB of memory while they are sorted; they are mostly 64 KiB, so that this is
/// a dump of 32 GiB.
const PARTS: usize = 1 << 19;

/// `input`, a file in the flattened form, as the dump that it holds.
///
/// # Errors
/// [`DumpError`] if it is damaged. One that is cut off is read as far as it goes, and `notes` tell.
pub(crate) fn put_together(
    name: &str,
    input: Input,
    notes: &mut Vec<String>,
) -> Result<Input, DumpError> {
    let damaged = |what: String| DumpError::Damaged {
        name: name.into(),
        kind: "dump in makedumpfile's flattened form",
        what,
    };
    let word = |bytes: &[u8], at: usize| -> u64 {
        let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
        u64::from_be_bytes(word.copied().unwrap_or_default())
    };
    let header = input.bytes(0, 32).unwrap_or_default();
    if (word(&header, 16), word(&header, 24)) != (1, 1) {
        return Err(damaged(format!(
            "its type and version are {} and {}, not 1 and 1",
            word(&header, 16),
            word(&header, 24)
        )));
    }
    let mut pieces = Vec::new();
    let mut at = HEADER;
    let cut = loop {
        let Some(part) = input.bytes(at, 16) else {
            break true;
        };
        let (offset, size) = (word(&part, 0), word(&part, 8));
        if offset == u64::MAX {
            break false;
        }
        at += 16;
        let ends = [offset.checked_add(size), at.checked_add(size)];
        let [Some(end), Some(next)] = ends else {
            return Err(damaged(format!("a part claims {size} bytes")));
        };
        if end > i64::MAX.cast_unsigned() {
            return Err(damaged(format!("a part of it lies at {offset:#x}")));
        }
        if pieces.len() == PARTS {
            return Err(DumpError::Unread {
                name: name.into(),
                what: format!("a flattened dump of more than {PARTS} parts"),
                remedy: "put it together with `makedumpfile -R dump < FILE`, and give that",
            });
        }
        let there = size.min(input.length().saturating_sub(at));
        let ram = PhysRange {
            start: PhysAddr::new(offset),
            bytes: there,
        };
        pieces.push(Piece::new(ram, 0, at));
        if there < size {
            break true;
        }
        at = next;
    };
    if cut {
        notes.push(format!(
            "{name} is cut off: it is a flattened dump without an end; what it lacks is not judged"
        ));
    }
    // The last one that wrote a place wins.
    pieces.reverse();
    Ok(input.rearranged(Layout::of(pieces)))
}
