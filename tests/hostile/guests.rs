//! Guests and kernel files that would cost the host time.

use std::time::Duration;

use crate::file;
use crate::running::Running;
use crate::tiny::{Elf, HALT, SPIN, code, print};

#[test]
fn a_guest_that_halts_with_interrupts_off_is_noticed_and_not_waited_for() {
    let (_folder, kernel) = file(
        "kernel",
        &Elf::new(&code(&[&print(b"bye\n"), HALT])).bytes(),
    );
    // The limit is longer than the test would wait.
    let arguments = [
        "run",
        "--timeout",
        "3600",
        "--kernel",
        kernel.to_str().unwrap(),
    ];
    let ended = Running::start(&arguments).ends_within(Duration::from_secs(5));
    assert_eq!(ended.code, Some(4), "{}", ended.said());
    let said = ended.said();
    assert!(said.contains("halted with interrupts off"), "{said}");
    assert_eq!(ended.stdout, b"bye\n");
}

/// Bytes that each segment has in the file, and all have the same.
const SEGMENT_BYTES: usize = 256 << 10;

/// A kernel of this many segments, each of which is loaded over the one before.
fn kernel_of_segments(segments: u16) -> Vec<u8> {
    let sound = Elf::new(SPIN).bytes();
    let mut file = sound[..64].to_vec();
    file[56..58].copy_from_slice(&(segments + 1).to_le_bytes());
    let headers = 64 + 56 * (usize::from(segments) + 1);
    let mut put = |first: [u32; 2], words: [u64; 6]| {
        file.extend(first.into_iter().flat_map(u32::to_le_bytes));
        file.extend(words.into_iter().flat_map(u64::to_le_bytes));
    };
    let (contents, bytes) = (headers as u64, SEGMENT_BYTES as u64);
    // PT_LOAD, R + X: offset, virtual and physical address, bytes in the file and in memory, alignment.
    for _ in 0..segments {
        put([1, 5], [contents, 0x10_0000, 0x10_0000, bytes, bytes, 1]);
    }
    // PT_NOTE, R: the PVH entry.
    put([4, 4], [contents + bytes, 0, 0, 20, 20, 4]);
    file.extend(SPIN);
    file.resize(headers + SEGMENT_BYTES, 0x90);
    // namesz, descsz, type, name, desc.
    file.extend([4_u32, 4, 18].into_iter().flat_map(u32::to_le_bytes));
    file.extend(b"Xen\0");
    file.extend(0x10_0000_u32.to_le_bytes());
    file
}

#[test]
fn an_elf_with_60000_segments_is_loaded_or_refused_within_the_time_limit() {
    let (_folder, kernel) = file("kernel", &kernel_of_segments(60_000));
    let arguments = [
        "run",
        "--memory",
        "512M",
        "--timeout",
        "1",
        "--kernel",
        kernel.to_str().unwrap(),
    ];
    let ended = Running::start(&arguments).ends_within(Duration::from_secs(2));
    assert!(
        matches!(ended.code, Some(2 | 4)),
        "{:?}: {}",
        ended.code,
        ended.said()
    );
}

#[test]
fn a_kernel_of_many_segments_that_can_be_is_loaded() {
    let (_folder, kernel) = file("kernel", &kernel_of_segments(100));
    let arguments = [
        "run",
        "--timeout",
        "1",
        "--kernel",
        kernel.to_str().unwrap(),
    ];
    let ended = Running::start(&arguments).ends_within(Duration::from_secs(3));
    assert_eq!(ended.code, Some(4), "{}", ended.said());
    assert!(ended.said().contains("--timeout"), "{}", ended.said());
}
