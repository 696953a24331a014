//! What gdb reads before it asks for anything else: which memory there is.

use std::fmt::Write as _;

use super::session::PACKET_BYTES;
use crate::machine::Machine;

/// Bytes that are sent at a time: each may become two.
const MAX_PART: usize = PACKET_BYTES / 2 - 8;

/// Copies what `document` has from `offset` on, `length` bytes at most; how many there were.
pub(super) fn part(document: &str, offset: u64, length: usize, bytes: &mut [u8]) -> usize {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let rest = document.as_bytes().get(offset..).unwrap_or_default();
    let copied = rest.len().min(length).min(bytes.len()).min(MAX_PART);
    bytes[..copied].copy_from_slice(&rest[..copied]);
    copied
}

/// What gdb may write. Code of the kernel is read-only: so gdb takes breakpoints of the CPU by itself, and can say
/// that there are no more of them.
pub(super) fn memory_map(machine: &Machine) -> String {
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
