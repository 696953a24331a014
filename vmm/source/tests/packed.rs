//! Files that the real tools packed: what is inside is read, whole or cut off, and damage is said.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use heirloom_inspect::PhysAddr;
use heirloom_inspect::memory::Account;
use support::elf::{CoreBuilder, qemu_note};
use support::{complaint, ram, read};
use tempfile::TempDir;

/// Commands that pack standard input, as people use them, and what each makes.
const TOOLS: [(&str, &str); 8] = [
    ("gzip -1", "gzip"),
    ("xz -0 -T2", "xz"),
    ("xz -0 --check=sha256", "xz"),
    ("zstd -q -3 --long=27", "zstd"),
    ("lz4 -q -1", "lz4"),
    ("lz4 -q -9 -BD --content-size", "lz4"),
    ("lz4 -q -1 -l", "lz4"),
    ("bzip2 -1", "bzip2"),
];
/// Of each, one.
const ONE_OF_EACH: [&str; 5] = ["gzip", "xz", "zstd -q", "lz4 -q -B4", "bzip2"];

fn shell(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(
        status.success(),
        "{command}: this test needs gzip, xz, zstd, lz4 and bzip2, which `make dump-tools` installs"
    );
}

/// RAM that is partly zero, partly packs well, and partly not at all.
fn memory() -> Vec<u8> {
    let mut state = 1_u64;
    (0_u32..6 << 20)
        .map(|at| match at >> 16 & 3 {
            0 => 0,
            1 => (at >> 8).to_le_bytes()[0],
            _ => {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()[6]
            }
        })
        .collect()
}

/// A core with such memory, and its path.
fn core(folder: &TempDir) -> (Vec<u8>, PathBuf) {
    let memory = memory();
    let core = CoreBuilder::default()
        .note("QEMU", &qemu_note(0x1000, 0x6b0, 0x10))
        .load(0, &memory)
        .build();
    let path = folder.path().join("core");
    std::fs::write(&path, core).unwrap();
    (memory, path)
}

/// Packs `core` with `command`.
fn pack(core: &Path, command: &str) -> String {
    let packed = core.with_file_name("packed").display().to_string();
    shell(&format!(
        "cat '{}' | {command} > '{packed}'",
        core.display()
    ));
    packed
}

#[track_caller]
fn assert_whole(spec: &str, memory: &[u8]) -> Vec<String> {
    let target = support::open(spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
    assert_eq!(ram(&target), [(0, memory.len() as u64)], "{spec}");
    assert!(read(&target, 0, memory.len()) == memory, "{spec}");
    // Nothing lacks, as far as a core can tell.
    let whole = Account {
        may_be_a_part: true,
        ..Account::default()
    };
    assert_eq!(target.memory.account(), whole);
    target.notes
}

#[test]
fn what_every_tool_packs_is_read_with_and_without_a_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, core) = core(&folder);
    for (tool, name) in TOOLS {
        let packed = pack(&core, tool);
        for prefix in ["", "core:"] {
            let notes = assert_whole(&format!("{prefix}{packed}"), &memory).join("\n");
            assert!(notes.contains(&format!("compressed by {name}")), "{notes}");
        }
    }
    let packed = pack(&core, "gzip -1 | zstd -q");
    let notes = assert_whole(&packed, &memory).join("\n");
    assert!(notes.contains("gzip") && notes.contains("zstd"), "{notes}");
}

#[test]
fn what_was_packed_in_parts_is_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, core) = core(&folder);
    let packed = core.with_file_name("parts").display().to_string();
    let core = core.display();
    for tool in ONE_OF_EACH {
        shell(&format!(
            "head -c 2500000 '{core}' | {tool} > '{packed}'
             tail -c +2500001 '{core}' | {tool} >> '{packed}'"
        ));
        let notes = assert_whole(&packed, &memory).join("\n");
        assert!(!notes.contains("cut off"), "{tool}: {notes}");
    }
    // What pzstd writes in front of each part.
    shell(&format!(
        "(printf '\\120\\052\\115\\030\\004\\000\\000\\000abcd'; zstd -q -c '{core}') > '{packed}'"
    ));
    assert_whole(&packed, &memory);
}

#[test]
fn of_a_file_that_is_cut_off_what_is_there_is_read_and_the_rest_is_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, core) = core(&folder);
    for tool in ONE_OF_EACH {
        let packed = pack(&core, tool);
        let bytes = std::fs::read(&packed).unwrap();
        for share in [3, 5, 7] {
            std::fs::write(&packed, &bytes[..bytes.len() / 8 * share]).unwrap();
            let target = support::open(&packed).unwrap_or_else(|error| panic!("{tool}: {error}"));
            let notes = target.notes.join("\n");
            assert!(notes.contains("cut off: it unpacks to"), "{tool}: {notes}");
            let there = usize::try_from(target.ram[0].bytes).unwrap();
            // Of zstd what later bytes may refer to comes only with these.
            assert!((1 << 16..memory.len()).contains(&there), "{tool}: {there}");
            assert!(read(&target, 0, there) == memory[..there]);
            let left_out = target.memory.account().left_out;
            let end = left_out.last().unwrap().end().get();
            assert_eq!(end, memory.len() as u64, "{tool}");
        }
    }
    // Of an image nobody knows how long it was.
    let image = folder.path().join("image");
    std::fs::write(&image, &memory).unwrap();
    let packed = pack(&image, "gzip -1");
    let bytes = std::fs::read(&packed).unwrap();
    std::fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
    let target = support::open(&format!("raw:{packed}")).unwrap();
    let left_out = target.memory.account().left_out;
    assert!(
        left_out[0].overlaps(PhysAddr::new(8 << 30), 1),
        "{left_out:?}"
    );
}

#[test]
fn damage_is_said_and_the_command_for_what_needs_more_memory_works() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, core) = core(&folder);
    for tool in ONE_OF_EACH {
        let packed = pack(&core, tool);
        let mut bytes = std::fs::read(&packed).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0x55);
        std::fs::write(&packed, bytes).unwrap();
        // lz4 has no checksum in the middle: it is found at the end at the latest.
        let message = complaint(&packed);
        assert!(
            message.contains("and cannot be unpacked: "),
            "{tool}: {message}"
        );
        let (_, command) = message.split_once("until `").expect(&message);
        let (command, _) = command.split_once('`').unwrap();
        let check = format!("{command} < '{packed}' 2> /dev/null");
        let checked = Command::new("sh").args(["-c", &check]).status().unwrap();
        assert!(!checked.success(), "{check}");
        pack(&core, tool);
        shell(&check);
    }
    let unpacked = folder.path().join("unpacked");
    let unpacked = unpacked.to_str().unwrap();
    for tool in ["zstd -q --long=29", "xz --lzma2=preset=0,dict=256MiB"] {
        let packed = pack(&core, tool);
        let message = complaint(&packed);
        let (_, command) = message.split_once("unpack it with `").expect(&message);
        let (command, _) = command.split_once('`').unwrap();
        shell(&format!("{command} -c < '{packed}' > '{unpacked}'"));
        assert_whole(unpacked, &memory);
    }
}

#[test]
fn more_than_is_allowed_is_unpacked_only_if_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, core) = core(&folder);
    let packed = pack(&core, "gzip -1");
    let message = complaint(&format!("{packed},unpack=1M"));
    assert!(message.contains("more than 1048576 bytes"), "{message}");
    assert_whole(&format!("{packed},unpack=7M"), &memory);
    for (option, word) in [
        ("unpack=0", "no size"),
        ("unpack=1G,unpack=2G", "second unpack"),
    ] {
        let message = complaint(&format!("{packed},{option}"));
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn how_far_it_is_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (_, core) = core(&folder);
    let packed = pack(&core, "gzip -1");
    let length = std::fs::metadata(&packed).unwrap().len();
    let spec: heirloom_source::Spec = packed.parse().unwrap();
    let told = std::cell::RefCell::new(Vec::new());
    let opened = spec.open_telling(&|unpacking| {
        told.borrow_mut()
            .push((unpacking.unpacked, unpacking.read, unpacking.total));
    });
    drop(opened.unwrap());
    let told = told.into_inner();
    assert!(told.len() > 5 && told.is_sorted(), "{told:?}");
    assert_eq!(
        told.last().map(|last| (last.1, last.2)),
        Some((length, Some(length)))
    );
}
