//! Cores as a kernel writes them of the one that it took the place of: program headers right behind the ELF
//! header, notes with VMCOREINFO. QEMU has no such note unless the guest's kernel gives it to it, and
//! makedumpfile goes by it.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::guest::Stopped;

/// What the guest's kernel says of itself: text in a page of its memory, found by how it begins.
pub(crate) fn vmcoreinfo(memory: &[u8]) -> &[u8] {
    let begins = |at: &usize| memory[*at..].starts_with(b"OSRELEASE=");
    let has = |text: &[u8], words: &[u8]| text.windows(words.len()).any(|found| found == words);
    let is_letter = |at: &usize| memory[*at] == b'O';
    (0..memory.len() - 4096)
        .filter(is_letter)
        .filter(begins)
        .map(|at| {
            let text = &memory[at..at + 4096];
            &text[..text.iter().position(|byte| *byte == 0).unwrap_or(4096)]
        })
        .find(|text| has(text, b"NUMBER(phys_base)") && has(text, b"SYMBOL(swapper_pg_dir)"))
        .expect("the kernel's memory has its VMCOREINFO")
}

/// A core of the guest with the memory in `segments`. With QEMU's notes it has the CPUs' registers.
pub(crate) fn write(
    stopped: &Stopped,
    name: &str,
    qemus_notes: bool,
    segments: &[Range<usize>],
) -> PathBuf {
    let memory = stopped.memory();
    let mut notes = if qemus_notes {
        stopped.notes()
    } else {
        Vec::new()
    };
    let text = vmcoreinfo(memory);
    let narrow = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
    notes.extend([narrow(11), narrow(text.len()), narrow(0)].concat());
    notes.extend(b"VMCOREINFO\0\0");
    notes.extend(text);
    notes.resize(notes.len().next_multiple_of(4), 0);

    let headers = 64 + 56 * (1 + segments.len());
    let mut offset = (headers + notes.len()).next_multiple_of(4096);
    let mut start = b"\x7fELF\x02\x01\x01".to_vec();
    start.resize(16, 0);
    // ET_CORE, EM_X86_64, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, no sections.
    start.extend([4_u16, 62].map(u16::to_le_bytes).concat());
    start.extend(1_u32.to_le_bytes());
    start.extend([0_u64, 64, 0].map(u64::to_le_bytes).concat());
    start.extend(0_u32.to_le_bytes());
    let count = u16::try_from(1 + segments.len()).unwrap();
    start.extend([64, 56, count, 0, 0, 0].map(u16::to_le_bytes).concat());
    let mut program = |kind: u32, words: [usize; 6]| {
        start.extend([kind, 7].map(u32::to_le_bytes).concat());
        start.extend(words.map(|word| (word as u64).to_le_bytes()).concat());
    };
    program(4, [headers, 0, 0, notes.len(), notes.len(), 4]);
    for segment in segments {
        program(
            1,
            [offset, 0, segment.start, segment.len(), segment.len(), 0],
        );
        offset += segment.len();
    }
    let path = stopped.path(name);
    let mut file = File::create(&path).unwrap();
    file.write_all(&start).unwrap();
    file.write_all(&notes).unwrap();
    let data = (headers + notes.len()).next_multiple_of(4096);
    file.seek(SeekFrom::Start(data as u64)).unwrap();
    for segment in segments {
        file.write_all(&memory[segment.clone()]).unwrap();
    }
    path
}

/// A core with all of the RAM and the CPUs' registers, which makedumpfile can read.
pub(crate) fn whole(stopped: &Stopped) -> PathBuf {
    static CORE: OnceLock<PathBuf> = OnceLock::new();
    let all = 0..stopped.memory().len();
    CORE.get_or_init(|| write(stopped, "vmcore", true, &[all]))
        .clone()
}
