//! A guest written as an ELF core is the same guest when it is read again.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use heirloom_inspect::{CpuState, Cr3, PhysAddr, PhysRange, VirtAddr};
use heirloom_source::{CoreWriteError, Target, write_core};
use support::{open, read};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A guest with a hole in its RAM and a piece that ends within a page, and something in each piece.
fn guest() -> Target {
    let ranges = [(0, 640 << 10), (MIB, 3 * MIB), (4 * GIB, MIB + 100)];
    let mapped: Vec<_> = ranges
        .iter()
        .map(|&(start, bytes)| (GuestAddress(start), usize::try_from(bytes).unwrap()))
        .collect();
    let memory = GuestMemoryMmap::<()>::from_ranges(&mapped).unwrap();
    for (at, word) in [(8, 1_u64), (2 * MIB - 8, 2), (4 * GIB + MIB + 90, 3)] {
        memory.write_obj(word, GuestAddress(at)).unwrap();
    }
    let cpu = |number: u64| CpuState {
        cr0: 0x8005_0033,
        cr2: VirtAddr::new(0xdead_0000 + number),
        cr3: Cr3::new(0x10_0001 + (number << 12)),
        cr4: 0x6f0,
        // What the reader assumes of a CPU that pages.
        efer: 0xd01,
        cpl: if number == 0 { 0 } else { 3 },
        rip: VirtAddr::new(0xffff_ffff_8100_0000 + number),
        rsp: VirtAddr::new(0x7000 + number),
        rbp: VirtAddr::new(0x8000 + number),
        rflags: 0x246,
        idt: Some(VirtAddr::new(0xffff_fe00_0000_0000)),
        gdt: Some(VirtAddr::new(0xffff_fe00_0000_1000)),
        tss: (number == 1).then_some(VirtAddr::new(0xffff_fe00_0000_3000)),
    };
    Target {
        name: "guest".into(),
        memory: Box::new(memory),
        ram: ranges
            .iter()
            .map(|&(start, bytes)| PhysRange {
                start: PhysAddr::new(start),
                bytes,
            })
            .collect(),
        cpus: vec![cpu(0), cpu(1)],
        phys_bits: None,
        gigabyte_pages: None,
        depth: None,
        encryption: heirloom_inspect::Entry::ABSENT,
        roots: Vec::new(),
        is_recorded: false,
        notes: Vec::new(),
    }
}

#[test]
fn ram_registers_and_every_byte_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.core");
    let guest = guest();
    write_core(&guest, &path).unwrap();
    let core = open(&format!("core:{}", path.display())).unwrap();
    assert_eq!(core.ram, guest.ram);
    assert_eq!(core.cpus, guest.cpus);
    for range in &guest.ram {
        let bytes = usize::try_from(range.bytes).unwrap();
        let at = range.start.get();
        assert!(
            read(&core, at, bytes) == read(&guest, at, bytes),
            "memory differs in {range:x?}"
        );
    }
}

#[test]
fn pages_of_zeros_take_no_room_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest.core");
    write_core(&guest(), &path).unwrap();
    let file = fs::metadata(path).unwrap();
    assert!(file.len() > 4 * MIB + (640 << 10), "{} bytes", file.len());
    assert!(
        file.blocks() * 512 < MIB,
        "{} blocks for three pages",
        file.blocks()
    );
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let error = write_core(&guest(), "/no/such/directory/guest.core".as_ref()).unwrap_err();
    assert!(matches!(error, CoreWriteError::File { .. }), "{error}");
    assert!(
        error.to_string().contains("/no/such/directory/guest.core"),
        "{error}"
    );
}

#[test]
fn ram_that_cannot_be_read_is_an_error_and_no_silent_hole() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = guest();
    guest.ram.push(PhysRange {
        start: PhysAddr::new(8 * GIB),
        bytes: 4096,
    });
    let error = write_core(&guest, &directory.path().join("guest.core")).unwrap_err();
    assert!(matches!(error, CoreWriteError::Memory { .. }), "{error}");
    assert!(error.to_string().contains("0x200000000"), "{error}");
}
