//! Raw images: where their bytes lie in guest-physical memory, and what is said of CPUs.

mod support;

use heirloom_inspect::paging::mode::PhysBits;
use heirloom_inspect::{Depth, Entry, Mode, PhysAddr, RootLabel};
use support::{complaint, open, ram, read};
use tempfile::TempDir;

/// `pages` frames, each filled with its number.
fn image(name: &str, pages: u8) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    let bytes: Vec<u8> = (0..pages).flat_map(|page| [page; 4096]).collect();
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap().replace(',', ",,");
    (directory, path)
}

#[test]
fn without_a_map_the_offset_is_the_guest_physical_address() {
    let (_directory, path) = image("ram", 4);
    let target = open(&format!("raw:{path}")).unwrap();
    assert_eq!(ram(&target), [(0, 0x4000)]);
    assert_eq!(read(&target, 0x2fff, 2), [2, 3]);
    assert!(target.memory.read_u64(PhysAddr::new(0x3ffc)).is_err());
    assert!(target.cpus.is_empty() && target.roots.is_empty());
    assert_eq!(target.name, format!("raw:{path}"));
}

#[test]
fn a_map_puts_parts_of_the_file_where_the_guest_had_them() {
    let (_directory, path) = image("r,am", 8);
    let target = open(&format!(
        "raw:{path},map=0:0:8K,map=0x2000:4G:16K,map=0x6000:0x2000:1"
    ))
    .unwrap();
    assert_eq!(ram(&target), [(0, 0x2001), (4 << 30, 0x4000)]);
    assert_eq!(read(&target, 0x1fff, 2), [1, 6]);
    assert_eq!(read(&target, (4 << 30) + 0x3fff, 1), [5]);
    assert!(target.memory.read_u64(PhysAddr::new(0x2000)).is_err());
}

#[test]
fn a_map_beyond_the_file_is_refused_with_the_files_length() {
    let (_directory, path) = image("ram", 2);
    let message = complaint(&format!("raw:{path},map=4K:0:0x1001"));
    assert!(
        message.contains("0x2001") && message.contains("0x2000"),
        "{message}"
    );
}

#[test]
fn cr3_alone_is_a_root_whose_depth_nobody_claims_to_know() {
    let (_directory, path) = image("ram", 4);
    let target = open(&format!("raw:{path},cr3=0x8000000000001801,cr3=0x3000")).unwrap();
    assert!(target.cpus.is_empty());
    assert_eq!(target.depth, None);
    assert_eq!(
        target.roots,
        [
            (RootLabel::Cpu(0), PhysAddr::new(0x1000)),
            (RootLabel::Cpu(1), PhysAddr::new(0x3000))
        ]
    );
    assert!(
        target.notes.iter().any(|note| note.contains("cr4=")),
        "{:?}",
        target.notes
    );
}

#[test]
fn cr3_and_cr4_make_a_cpu_in_long_mode() {
    let (_directory, path) = image("ram", 4);
    let target = open(&format!("raw:{path},cr4=0x1020,cr3=0x1000")).unwrap();
    assert!(target.roots.is_empty());
    let [cpu] = target.cpus[..] else {
        panic!("{target:?}")
    };
    let mode = Mode::of_cpu(&cpu, PhysBits::MAX, true).unwrap();
    assert_eq!(mode.depth, Depth::Five);
    assert!(mode.nxe && mode.wp && !mode.pge);
    assert!(
        target.notes.iter().any(|note| note.contains("assumed")),
        "{:?}",
        target.notes
    );
}

#[test]
fn a_root_where_there_is_no_ram_is_refused() {
    let (_directory, path) = image("ram", 4);
    for (options, root) in [
        ("cr3=0x4000", "0x4000"),
        ("map=0:1M:16K,cr3=0x1000", "0x1000"),
        ("map=0:0:0x1800,cr3=0x1000,cr4=0x20", "0x1000"),
    ] {
        let message = complaint(&format!("raw:{path},{options}"));
        assert!(
            message.contains(root) && message.contains("no RAM"),
            "{message}"
        );
    }
}

#[test]
fn a_large_image_without_a_map_says_what_is_taken_for_granted() {
    let (directory, path) = image("ram", 1);
    let file = std::fs::File::options()
        .write(true)
        .open(directory.path().join("ram"))
        .unwrap();
    file.set_len(6 << 30).unwrap();
    let target = open(&format!("raw:{path}")).unwrap();
    assert!(
        target
            .notes
            .iter()
            .any(|note| note.contains("map=OFFSET:GPA:LEN")),
        "{:?}",
        target.notes
    );
    assert_eq!(read(&target, 5 << 30, 2), [0, 0]);
    file.set_len(65 << 40).ok();
    if file.metadata().unwrap().len() == 65 << 40 {
        assert!(complaint(&format!("raw:{path}")).contains("64 TiB"));
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    std::fs::write(directory.path().join("empty"), "").unwrap();
    for (spec, words) in [
        (
            format!("raw:{place}/missing"),
            ["missing", "check the path"],
        ),
        (
            format!("core:{place}/missing"),
            ["missing", "check the path"],
        ),
        (format!("raw:{place}"), ["regular file", "raw image"]),
        (format!("core:{place}"), ["regular file", "core"]),
        ("raw:/dev/null".to_string(), ["/dev/null", "regular file"]),
        (format!("raw:{place}/empty"), ["empty", "again"]),
        (format!("core:{place}/empty"), ["empty", "again"]),
    ] {
        let message = complaint(&spec);
        for word in words {
            assert!(message.contains(word), "{spec}: {message}");
        }
    }
}

/// A root in frame 1 with two entries, each with these bits besides.
fn root_with(bits: u64) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ram");
    let mut bytes = vec![0; 0x4000];
    for (index, word) in [(256, 0x2063), (511, 0x3063)] {
        let at = 0x1000 + 8 * index;
        bytes[at..at + 8].copy_from_slice(&(word | bits).to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

#[test]
fn the_encryption_bit_that_the_user_names_is_no_part_of_cr3() {
    for bit in [47_u32, 51, 43] {
        let (_directory, path) = root_with(0);
        let cr3 = 1_u64 << bit | 0x1000;
        let target = open(&format!("raw:{path},cr3={cr3:#x},encrypt-bit={bit}")).unwrap();
        assert_eq!(target.encryption, Entry::new(1 << bit));
        let root = PhysAddr::new(0x1000);
        assert_eq!(target.roots, [(RootLabel::Cpu(0), root)]);
        // As the CPU has it, the register stays what it is.
        let spec = format!("raw:{path},cr3={cr3:#x},cr4=0x20,encrypt-bit={bit}");
        assert_eq!(open(&spec).unwrap().cpus[0].cr3.get(), cr3);
    }
}

#[test]
fn an_encryption_bit_that_cr3_and_all_entries_of_its_root_have_is_told_and_others_are_refused() {
    for bit in [47_u32, 51, 35] {
        let cr3 = 1_u64 << bit | 0x1000;
        let (_directory, path) = root_with(1 << bit);
        let target = open(&format!("raw:{path},cr3={cr3:#x},cr4=0x20")).unwrap();
        assert_eq!(target.encryption, Entry::new(1 << bit));
        let notes = target.notes.join("\n");
        assert!(
            notes.contains(&format!("bit {bit} is taken for the encryption bit")),
            "{notes}"
        );
        for (bits, cr3) in [(0, cr3), (1 << 46, cr3), (1 << bit, cr3 | 0x1_0000)] {
            let (_directory, path) = root_with(bits);
            let message = complaint(&format!("raw:{path},cr3={cr3:#x},cr4=0x20"));
            assert!(message.contains("has no RAM"), "{message}");
        }
    }
}
