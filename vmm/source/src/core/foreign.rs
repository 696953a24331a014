//! Files that look like dumps and are none that can be read: what they are, and how to get one.

use super::CoreError;

struct Format {
    magic: &'static [u8],
    what: &'static str,
    remedy: &'static str,
}

const TO_ELF: &str = "make one with `makedumpfile -E FILE core.elf` (with `-x vmlinux` where it asks \
    for it), or dump again with QEMU's `dump-guest-memory` without -z, -l and -s";

/// By what a file begins with.
const FORMATS: &[Format] = &[
    Format {
        magic: b"KDUMP   ",
        what: "a kdump-compressed dump",
        remedy: TO_ELF,
    },
    Format {
        magic: b"DISKDUMP",
        what: "a diskdump",
        remedy: TO_ELF,
    },
    Format {
        magic: b"makedumpfile\0",
        what: "a flattened dump of makedumpfile's or of QEMU's -z, -l or -s",
        remedy: "put it together with `makedumpfile -R dump < FILE`, and make an ELF core of that \
                 with `makedumpfile -E dump core.elf`; or dump again with QEMU's \
                 `dump-guest-memory` without -z, -l and -s",
    },
    Format {
        magic: b"LibvirtQemudSave",
        what: "a saved guest of libvirt's",
        remedy: "make a core with `virsh dump --memory-only DOMAIN FILE`",
    },
    Format {
        magic: b"QEVM",
        what: "a migration stream of QEMU's",
        remedy: "make a core with QEMU's `dump-guest-memory FILE`",
    },
    Format {
        magic: b"PAGEDU64",
        what: "a Windows crash dump",
        remedy: "make a core with QEMU's `dump-guest-memory FILE`, without -w",
    },
    Format {
        magic: b"\x1f\x8b",
        what: "compressed by gzip",
        remedy: "unpack it first, with `gunzip`",
    },
    Format {
        magic: b"\x28\xb5\x2f\xfd",
        what: "compressed by zstd",
        remedy: "unpack it first, with `unzstd`",
    },
    Format {
        magic: b"\xfd7zXZ\0",
        what: "compressed by xz",
        remedy: "unpack it first, with `unxz`",
    },
];

/// The error for a file that begins with `start` and is no ELF.
pub(super) fn error(name: &str, start: &[u8]) -> CoreError {
    let name = name.to_owned();
    match FORMATS
        .iter()
        .find(|format| start.starts_with(format.magic))
    {
        Some(format) => CoreError::Foreign {
            name,
            what: format.what,
            remedy: format.remedy,
        },
        None => CoreError::NotElf { name },
    }
}
