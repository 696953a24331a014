//! Names from a file, of kernels that tell none themselves.

use heirloom_inspect::symbols::{SymbolFile, SymbolsError};
use heirloom_inspect::{Depth, PageSize, PhysAddr, VirtAddr, VirtRange};

use super::ram::{CODE, DATA, LARGE, Ram};

/// Where kernels are linked and loaded, and where their memory is mapped.
const KERNELS: [(u64, u64, u64); 4] = [
    (
        0xffff_ffff_8000_0000,
        0xffff_ffff_8000_0000,
        0xffff_8000_0000_0000,
    ),
    (
        0xffff_ffff_8000_0000,
        0xffff_ffff_9a20_0000,
        0xffff_8880_0000_0000,
    ),
    (0x10_0000, 0xffff_ffff_8040_0000, 0xffff_f000_0000_0000),
    (
        0xffff_ffff_c000_0000,
        0xffff_8000_0020_0000,
        0xffff_9000_0000_0000,
    ),
];
const FUNCTIONS: [(&str, u64); 4] = [
    ("_start", 0),
    ("schedule", 0x340),
    ("page_fault", 0x1208),
    ("panic", 0x5010),
];
const IMAGE: u64 = 0x100_0000;

/// Bytes like no others.
fn piece(of: u64) -> Vec<u8> {
    let mixed = of.wrapping_add(0x51).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bytes = mixed.to_le_bytes().into_iter();
    bytes.chain(mixed.rotate_left(13).to_le_bytes()).collect()
}

/// A kernel in 2 MiB of code and 2 MiB of data at `loaded`, all memory at `memory`, and a process.
fn guest(loaded: u64, memory: u64) -> (Ram, PhysAddr) {
    let mut ram = Ram::new(64, Depth::Four);
    let kernel = ram.root();
    for (page, flags) in [(0, CODE), (1, DATA)] {
        let at = page * LARGE;
        ram.map(kernel, loaded + at, IMAGE + at, PageSize::Size2MiB, flags);
    }
    for pa in (0..64 << 20).step_by(2 << 20) {
        ram.map(kernel, memory + pa, pa, PageSize::Size2MiB, DATA);
    }
    for (_, offset) in FUNCTIONS {
        ram.write(IMAGE + offset, &piece(offset));
    }
    let process = ram.root();
    ram.share(kernel, process, 256..512);
    ram.user(process, 0x40_0000, 0x200_0000);
    ram.run(kernel);
    (ram, process)
}

fn file(linked: u64, code: bool) -> SymbolFile {
    let at = |offset| VirtAddr::new(linked + offset);
    let pieces = FUNCTIONS
        .iter()
        .map(|(_, offset)| (at(*offset), piece(*offset)));
    let names = FUNCTIONS
        .iter()
        .map(|(name, offset)| (at(*offset), (*name).to_owned()));
    let mut symbols: Vec<(VirtAddr, String)> = names.collect();
    // Of what is there only while the kernel starts, and of an end.
    symbols.push((VirtAddr::new(0x7000), "boot_stack".into()));
    symbols.push((at(0x6000), "_end".into()));
    SymbolFile {
        name: "vmlinux".into(),
        symbols,
        ranges: VirtRange::new(at(0), 0x6000).into_iter().collect(),
        code: if code { pieces.collect() } else { Vec::new() },
    }
}

#[test]
fn the_code_of_a_file_tells_where_the_kernel_was_loaded() {
    for (linked, loaded, memory) in KERNELS {
        let (ram, _) = guest(loaded, memory);
        let (target, mut discovery) = (ram.target(), ram.discover());
        discovery.use_symbols(&target, &file(linked, true)).unwrap();
        let name = |offset| discovery.symbol_at(VirtAddr::new(loaded + offset));
        assert_eq!(name(0).as_deref(), Some("_start"), "{loaded:#x}");
        assert_eq!(name(0x1220).as_deref(), Some("page_fault+0x18"));
        assert_eq!(name(0x5fff).as_deref(), Some("panic+0xfef"));
        // What the file does not describe has no name, nor has what is not mapped any more.
        assert_eq!(name(0x6000), None);
        assert_eq!(discovery.symbol_at(VirtAddr::new(0x40_0000)), None);
        assert_eq!(discovery.symbols.address_of("boot_stack"), None);
        let notes = discovery.notes.join("\n");
        assert!(notes.contains("symbols of vmlinux"), "{notes}");
        assert!(notes.contains("where they were linked"), "{notes}");
    }
}

#[test]
fn a_file_of_another_kernel_is_refused() {
    for (linked, loaded, memory) in KERNELS {
        let (mut ram, _) = guest(loaded, memory);
        for (_, offset) in &FUNCTIONS[1..] {
            ram.write(IMAGE + offset, b"some other code.");
        }
        let (target, mut discovery) = (ram.target(), ram.discover());
        let refused = discovery.use_symbols(&target, &file(linked, true));
        assert!(
            matches!(refused, Err(SymbolsError::OfAnotherKernel { tried: 4, .. })),
            "{refused:?}"
        );
        assert!(discovery.symbols.is_empty());
    }
}

#[test]
fn code_that_the_kernel_has_fitted_to_its_cpu_is_no_other_kernel() {
    for (linked, loaded, memory) in KERNELS {
        let (mut ram, _) = guest(loaded, memory);
        ram.write(IMAGE + FUNCTIONS[2].1 + 4, &[0x90; 5]);
        let (target, mut discovery) = (ram.target(), ram.discover());
        assert_eq!(discovery.use_symbols(&target, &file(linked, true)), Ok(()));
        assert!(discovery.symbols.address_of("panic").is_some());
    }
}

#[test]
fn a_list_without_code_is_believed_where_all_is_mapped_and_that_is_said() {
    let (linked, loaded, memory) = KERNELS[0];
    let (ram, process) = guest(loaded, memory);
    let (target, mut discovery) = (ram.target(), ram.discover());
    discovery
        .use_symbols(&target, &file(linked, false))
        .unwrap();
    let notes = discovery.notes.join("\n");
    assert!(notes.contains("nothing shows"), "{notes}");
    assert_eq!(
        discovery.symbols.address_of("panic"),
        Some(VirtAddr::new(loaded + 0x5010))
    );
    assert!(discovery.space_at(process).is_some());
    let mut discovery = ram.discover();
    let elsewhere = file(0xffff_ffff_e000_0000, false);
    let elsewhere = SymbolFile {
        symbols: elsewhere.symbols.into_iter().skip(1).collect(),
        ..elsewhere
    };
    assert!(discovery.use_symbols(&target, &elsewhere).is_err());
}
