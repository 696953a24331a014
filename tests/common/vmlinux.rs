//! The kernel inside a bzImage: what Linux's scripts/extract-vmlinux gets. Where a KVM emulates kernel code,
//! unpacking it in the guest takes minutes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The magic of lz4's old format, which is a row of blocks, each behind its packed size.
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// Bytes that a block of it unpacks to at most.
const LZ4_BLOCK: usize = 8 << 20;

/// Unpacks it.
///
/// # Panics
/// If the file is no bzImage, or packed by something for which there is no tool.
pub(crate) fn of_bzimage(path: &Path) -> Vec<u8> {
    let file = std::fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(&file[0x202..0x206], b"HdrS", "{}", path.display());
    // setup_sects, payload_offset, payload_length (Linux's Documentation/arch/x86/boot.rst).
    let start = (usize::from(file[0x1f1]) + 1) * 512 + word(0x248);
    let packed = &file[start..start + word(0x24c)];
    let kernel = match packed {
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4_legacy(packed),
        [0x1f, 0x8b, ..] => piped("gzip", packed),
        [0xfd, b'7', b'z', ..] => piped("xz", packed),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => piped("zstd", packed),
        other => panic!("a kernel packed by what begins with {:x?}", &other[..4]),
    };
    assert!(kernel.starts_with(b"\x7fELF"), "no ELF was packed");
    kernel
}

fn lz4_legacy(packed: &[u8]) -> Vec<u8> {
    let mut kernel = Vec::new();
    let mut rest = &packed[LZ4_LEGACY.len()..];
    // The unpacked size stands behind the last block.
    while rest.len() > 4 {
        let (size, behind) = rest.split_at(4);
        let size = u32::from_le_bytes(size.try_into().unwrap()) as usize;
        let (block, behind) = behind.split_at(size);
        kernel.extend(lz4_flex::block::decompress(block, LZ4_BLOCK).unwrap());
        rest = behind;
    }
    kernel
}

/// Unpacked by `TOOL -dc`, which may complain of the size that Linux puts behind.
fn piped(tool: &str, packed: &[u8]) -> Vec<u8> {
    let mut child = Command::new(tool)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("this kernel is packed by {tool}, which this test needs: {error}")
        });
    let mut input = child.stdin.take().unwrap();
    let packed = packed.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&packed));
    let kernel = child.wait_with_output().unwrap().stdout;
    // It stops reading where the packed kernel ends.
    let _ = writer.join().unwrap();
    kernel
}

/// Gives its PVH note, of owner `Xen` and type 18, another type.
///
/// # Panics
/// If there is not exactly one.
pub(crate) fn without_pvh_note(kernel: &mut [u8]) {
    // Name's bytes, description's bytes, type, name.
    let mut note: Vec<u8> = [4_u32, 8, 18].map(u32::to_le_bytes).concat();
    note.extend(b"Xen\0");
    let places: Vec<usize> = (0..kernel.len() - note.len())
        .filter(|at| kernel[*at..].starts_with(&note))
        .collect();
    let [place] = places[..] else {
        panic!("{} PVH notes in this kernel", places.len());
    };
    kernel[place + 8] = 99;
}
