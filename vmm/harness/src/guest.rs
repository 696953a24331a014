//! The guest that is built into this crate: the kernel and every ring-3 program, put there by
//! `build.rs`, and unpacked when they are first asked for.

use std::sync::OnceLock;

use heirloom_machine::{ImageError, KernelImage, Module};
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// Bytes that no embedded file has.
const LARGEST: usize = 64 << 20;

/// A ring-3 program: an ELF file.
pub struct Program {
    /// Its name as a boot module.
    pub name: &'static str,
    /// The file.
    pub bytes: &'static [u8],
}

/// A file as it is embedded, deflated.
struct Packed {
    bytes: &'static [u8],
    unpacked: OnceLock<Vec<u8>>,
}

impl Packed {
    const fn of(bytes: &'static [u8]) -> Packed {
        Packed {
            bytes,
            unpacked: OnceLock::new(),
        }
    }

    fn unpacked(&'static self) -> &'static [u8] {
        self.unpacked.get_or_init(|| {
            // Nobody can damage it but with the program itself; what is empty is then no ELF.
            decompress_to_vec_zlib_with_limit(self.bytes, LARGEST).unwrap_or_default()
        })
    }
}

include!(concat!(env!("OUT_DIR"), "/guest.rs"));

/// The embedded kernel's file: an ELF with a PVH note.
pub fn kernel_file() -> &'static [u8] {
    KERNEL.unpacked()
}

/// The embedded kernel, checked like any other.
///
/// # Errors
/// As for a kernel file.
pub fn kernel() -> Result<KernelImage, ImageError> {
    KernelImage::from_bytes("the embedded guest kernel", kernel_file())
}

/// The embedded programs, by name.
pub fn programs() -> impl Iterator<Item = Program> {
    PROGRAMS.iter().map(|(name, packed)| Program {
        name,
        bytes: packed.unpacked(),
    })
}

/// The embedded programs as boot modules.
pub fn modules() -> Vec<Module> {
    programs()
        .map(|program| Module {
            name: program.name.into(),
            bytes: program.bytes.into(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_embedded_is_elf_files_and_smaller_than_they_are() {
        let files = [("kernel", &KERNEL)].into_iter();
        let programs = PROGRAMS.iter().map(|(name, packed)| (*name, packed));
        for (name, packed) in files.chain(programs) {
            let file = packed.unpacked();
            assert!(file.starts_with(b"\x7fELF"), "{name}");
            assert!(packed.bytes.len() * 2 < file.len(), "{name}");
        }
    }
}
