//! A qcow2 image: a disk, and perhaps guests that QEMU's `savevm` put into it (docs/interop/qcow2.rst in QEMU's
//! sources).

use crate::content::A_DISK;
use crate::dump::DumpError;
use crate::input::Input;

/// Names of more are not said.
const SHOWN: usize = 8;
/// A longer name is not one.
const NAME: u64 = 1024;
const LOAD_IT: &str = "start QEMU with the options that the guest had, and with `-S -loadvm NAME`; then write its memory \
    with `dump-guest-memory FILE` in the monitor";

/// Why it is not read, and which guests are in it.
pub(super) fn refused(name: &str, input: &Input) -> DumpError {
    let saved = saved(input).unwrap_or_default();
    if saved.is_empty() {
        return DumpError::Unread {
            name: name.into(),
            what: "a qcow2 image".into(),
            remedy: A_DISK,
        };
    }
    let names = saved.join("`, `");
    DumpError::Unread {
        name: name.into(),
        what: format!("a qcow2 image with guests saved in it, by the names `{names}`"),
        remedy: LOAD_IT,
    }
}

/// The names of the snapshots that have the state of a machine.
fn saved(input: &Input) -> Option<Vec<String>> {
    let header = input.bytes(0, 72)?;
    let narrow =
        |bytes: &[u8], at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let count = narrow(&header, 60)?;
    let mut at = u64::from_be_bytes(*header.get(64..)?.first_chunk()?);
    let mut names = Vec::new();
    for _ in 0..count {
        let entry = input.bytes(at, 40)?;
        let length = |at: usize| -> Option<u64> {
            Some(u16::from_be_bytes(*entry.get(at..)?.first_chunk()?).into())
        };
        let (id, text, extra) = (length(12)?, length(14)?, u64::from(narrow(&entry, 36)?));
        let start = at.checked_add(40 + extra)?.checked_add(id)?;
        let is_saved = narrow(&entry, 32)? > 0 || has_long_state(input, at + 40, extra);
        if is_saved && names.len() < SHOWN && text <= NAME {
            let bytes = input.bytes(start, usize::try_from(text).ok()?)?;
            let printable = bytes.iter().filter(|byte| byte.is_ascii_graphic());
            names.push(printable.map(|byte| char::from(*byte)).collect());
        }
        at = start.checked_add(text)?.checked_next_multiple_of(8)?;
        if names.len() == SHOWN {
            break;
        }
    }
    Some(names)
}

/// Whether the first of the extra data, the length of the state in 64 bits, is set.
fn has_long_state(input: &Input, at: u64, extra: u64) -> bool {
    extra >= 8
        && input
            .bytes(at, 8)
            .is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
}
