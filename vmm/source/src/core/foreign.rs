//! Files that look like dumps and are no ELF cores: what they are, and how to get one.

use super::CoreError;
use crate::content::Kind;

const TO_ELF: &str = "leave out the prefix, and it is read as what it is; or have an ELF core made in its \
    place, with `makedumpfile -E /proc/vmcore FILE`";

/// The error for a file that begins with `start` and is no ELF.
pub(super) fn error(name: &str, start: &[u8]) -> CoreError {
    let name = name.to_owned();
    let kind = Kind::of_bytes(start);
    let remedy = match kind {
        Kind::Unknown | Kind::Elf => return CoreError::NotElf { name },
        Kind::Kdump => TO_ELF,
        Kind::Flattened => {
            "leave out the prefix, and it is read as what it is; or put it together with `makedumpfile -R \
             dump < FILE`, or dump again with QEMU's `dump-guest-memory` without -z, -l and -s"
        }
        kind => kind.without_a_prefix(),
    };
    CoreError::Foreign {
        name,
        what: kind.what().unwrap_or("something else"),
        remedy,
    }
}
