//! What gdb reads before it asks for anything else: which registers there are, and which memory.

use std::fmt::Write as _;

use super::command::MAX_READ;
use super::packet::digits;
use super::registers;
use crate::machine::Machine;

/// `qXfer:OBJECT:read:ANNEX:OFFSET,LENGTH`: a part of a document, behind `m` if there is more and `l` if not.
pub(super) fn part(machine: &Machine, words: &[u8]) -> Option<Vec<u8>> {
    let (object, rest) = std::str::from_utf8(words).ok()?.split_once(":read:")?;
    let (annex, part) = rest.split_once(':')?;
    let document = match (object, annex) {
        ("features", "target.xml") => registers::description(),
        ("memory-map", "") => memory_map(machine),
        _ => return None,
    };
    let (offset, length) = part.split_once(',')?;
    let offset = usize::try_from(digits(offset.as_bytes())?).ok()?;
    let length = usize::try_from(digits(length.as_bytes())?.min(MAX_READ)).ok()?;
    let rest = document.as_bytes().get(offset..).unwrap_or_default();
    let part = &rest[..rest.len().min(length)];
    let more = if part.len() < rest.len() { b'm' } else { b'l' };
    Some([&[more], part].concat())
}

/// What gdb may write. Code of the kernel is read-only: so gdb takes breakpoints of the CPU by itself, and can say
/// that there are no more of them.
fn memory_map(machine: &Machine) -> String {
    let segments = machine.kernel().segments().iter();
    let code = segments.filter(|segment| segment.executable && !segment.writable);
    let mut code: Vec<(u64, u64)> = code
        .map(|segment| (segment.virtual_address.0, segment.memory_bytes))
        .collect();
    code.sort_unstable();
    let mut xml = String::from("<?xml version=\"1.0\"?><memory-map>");
    let mut memory = |kind: &str, start: u64, bytes: u64| {
        if bytes > 0 {
            let _ = write!(
                xml,
                "<memory type=\"{kind}\" start=\"{start:#x}\" length=\"{bytes:#x}\"/>"
            );
        }
    };
    let mut end = 0_u64;
    for (start, bytes) in code {
        // An ELF can claim anything.
        let (Some(before), Some(behind)) = (start.checked_sub(end), start.checked_add(bytes))
        else {
            continue;
        };
        memory("ram", end, before);
        memory("rom", start, bytes);
        end = behind;
    }
    // Up to the last address.
    memory(
        "ram",
        end,
        if end == 0 {
            u64::MAX
        } else {
            end.wrapping_neg()
        },
    );
    xml.push_str("</memory-map>");
    xml
}
