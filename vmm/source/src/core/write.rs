//! Writing a guest that stands still as an ELF core, in the form of QEMU's `dump-guest-memory`: a
//! PT_NOTE with an NT_PRSTATUS for debuggers and QEMU's own note for each CPU, then RAM.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use heirloom_inspect::paging::addr::PAGE_SIZE;
use heirloom_inspect::{CpuState, MemoryError, PhysAddr, Target};
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_CORE, EV_CURRENT, FileFlags,
    FileHeader64, Ident, NT_PRSTATUS, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, ProgramFlags,
    ProgramHeader64, ProgramType, SHN_UNDEF,
};
use object::endian::{LittleEndian, U16, U32, U64};
use object::pod::bytes_of;

use crate::output_file::{OutputError, OutputFile};
use crate::qemu::note;

/// Memory that is read and written at a time.
const CHUNK: u64 = 64 << 10;
/// Bytes of `struct elf_prstatus` of x86-64, and where its process number and its registers are (Linux's
/// include/linux/elfcore.h).
const STATUS_BYTES: usize = 336;
const STATUS_PID: usize = 32;
const STATUS_REGISTERS: usize = 112;
/// Places among these registers (`struct user_regs_struct`, arch/x86/include/asm/user_64.h).
const RBP: usize = 4;
const RIP: usize = 16;
const CS: usize = 17;
const RFLAGS: usize = 18;
const RSP: usize = 19;

/// Why a core was not written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum CoreWriteError {
    #[error(transparent)]
    Output(OutputError),
    #[error("could not write the core {name}: {source}")]
    File { name: String, source: io::Error },
    #[error("could not write the core {name}: {source}")]
    Memory { name: String, source: MemoryError },
    #[error(
        "could not write the core {name}: the guest has {ranges} pieces of RAM, more than a core's \
         headers hold"
    )]
    TooManyRanges { name: String, ranges: usize },
}

impl From<OutputError> for CoreWriteError {
    fn from(error: OutputError) -> CoreWriteError {
        match error {
            OutputError::Io { path, source, .. } => CoreWriteError::File {
                name: path.display().to_string(),
                source,
            },
            error => CoreWriteError::Output(error),
        }
    }
}

/// Writes `target` to a file, which must not exist, and which `core:FILE` reads. Pages of zeros become holes in it.
///
/// # Errors
/// [`CoreWriteError`] names the file.
pub fn write_core(target: &Target, path: &Path) -> Result<(), CoreWriteError> {
    write_core_to(target, &OutputFile::at("the core", path, false, &[])?)
}

/// As [`write_core`], where it is known already that the file may be written.
///
/// # Errors
/// [`CoreWriteError`] names the file.
pub fn write_core_to(target: &Target, file: &OutputFile) -> Result<(), CoreWriteError> {
    let name = || file.path().display().to_string();
    let problem = |problem| match problem {
        Problem::File(source) => CoreWriteError::File {
            name: name(),
            source,
        },
        Problem::Memory(source) => CoreWriteError::Memory {
            name: name(),
            source,
        },
        Problem::TooManyRanges => CoreWriteError::TooManyRanges {
            name: name(),
            ranges: target.ram.len(),
        },
    };
    file.write_by(|file| write(target, file).map_err(problem))
}

enum Problem {
    File(io::Error),
    Memory(MemoryError),
    TooManyRanges,
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::File(error)
    }
}

fn write(target: &Target, file: &mut File) -> Result<(), Problem> {
    let notes = notes(&target.cpus);
    // PN_XNUM is an escape, no number.
    let count = u16::try_from(target.ram.len() + 1)
        .ok()
        .filter(|count| *count < u16::MAX)
        .ok_or(Problem::TooManyRanges)?;
    let headers = size_of::<FileHeader64<LittleEndian>>()
        + usize::from(count) * size_of::<ProgramHeader64<LittleEndian>>();
    let notes_at = headers as u64;
    file.write_all(bytes_of(&file_header(count)))?;
    file.write_all(bytes_of(&program_header(
        PT_NOTE,
        notes_at,
        0,
        notes.len() as u64,
    )))?;
    // Whole pages of memory lie in whole pages of the file.
    let mut at = (notes_at + notes.len() as u64).next_multiple_of(PAGE_SIZE);
    let mut places = Vec::with_capacity(target.ram.len());
    for range in &target.ram {
        let header = program_header(PT_LOAD, at, range.start.get(), range.bytes);
        file.write_all(bytes_of(&header))?;
        places.push((range, at));
        at = (at + range.bytes).next_multiple_of(PAGE_SIZE);
    }
    file.write_all(&notes)?;
    for (range, place) in places {
        write_memory(target, range.start, range.bytes, file, place)?;
    }
    file.set_len(at)?;
    Ok(())
}

/// Copies memory to `place` in the file, but for pages of zeros, which the file has there anyway.
fn write_memory(
    target: &Target,
    start: PhysAddr,
    bytes: u64,
    file: &mut File,
    place: u64,
) -> Result<(), Problem> {
    let mut done = 0;
    let mut buffer = Vec::new();
    while done < bytes {
        let chunk = CHUNK.min(bytes - done);
        buffer.resize(usize::try_from(chunk).unwrap_or(0), 0);
        target
            .memory
            .read_bytes(start.wrapping_add(done), &mut buffer)
            .map_err(Problem::Memory)?;
        let mut page_at = place + done;
        for page in buffer.chunks(usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX)) {
            if page.iter().any(|byte| *byte != 0) {
                file.seek(SeekFrom::Start(page_at))?;
                file.write_all(page)?;
            }
            page_at += page.len() as u64;
        }
        done += chunk;
    }
    Ok(())
}

fn file_header(programs: u16) -> FileHeader64<LittleEndian> {
    let little = LittleEndian;
    let size = |bytes: usize| U16::new(little, u16::try_from(bytes).unwrap_or(u16::MAX));
    FileHeader64 {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(little, ET_CORE),
        e_machine: U16::new(little, EM_X86_64),
        e_version: U32::new(little, EV_CURRENT.0.into()),
        e_entry: U64::new(little, 0),
        e_phoff: U64::new(little, size_of::<FileHeader64<LittleEndian>>() as u64),
        e_shoff: U64::new(little, 0),
        e_flags: U32::new(little, FileFlags(0)),
        e_ehsize: size(size_of::<FileHeader64<LittleEndian>>()),
        e_phentsize: size(size_of::<ProgramHeader64<LittleEndian>>()),
        e_phnum: U16::new(little, programs),
        e_shentsize: U16::new(little, 0),
        e_shnum: U16::new(little, 0),
        e_shstrndx: U16::new(little, SHN_UNDEF),
    }
}

fn program_header(
    kind: ProgramType,
    offset: u64,
    physical: u64,
    bytes: u64,
) -> ProgramHeader64<LittleEndian> {
    let little = LittleEndian;
    let flags = if kind == PT_LOAD {
        PF_R | PF_W | PF_X
    } else {
        ProgramFlags(0)
    };
    ProgramHeader64 {
        p_type: U32::new(little, kind),
        p_flags: U32::new(little, flags),
        p_offset: U64::new(little, offset),
        // As QEMU without `paging`: memory by its physical addresses only.
        p_vaddr: U64::new(little, 0),
        p_paddr: U64::new(little, physical),
        p_filesz: U64::new(little, bytes),
        p_memsz: U64::new(little, bytes),
        p_align: U64::new(little, 0),
    }
}

/// The notes of all CPUs: first those for debuggers, then QEMU's.
fn notes(cpus: &[CpuState]) -> Vec<u8> {
    let mut notes = Vec::new();
    for (number, cpu) in (1..).zip(cpus) {
        add_note(&mut notes, b"CORE", NT_PRSTATUS.0, &status(number, cpu));
    }
    for cpu in cpus {
        add_note(&mut notes, note::NAME, 0, &note::write(cpu));
    }
    notes
}

/// Adds a note, its parts padded to 4 bytes (gABI, figure 5-16).
fn add_note(notes: &mut Vec<u8>, name: &[u8], kind: u32, contents: &[u8]) {
    let word = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    notes.extend(word(name.len() + 1));
    notes.extend(word(contents.len()));
    notes.extend(kind.to_le_bytes());
    for part in [&[name, b"\0"].concat(), contents] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}

/// `struct elf_prstatus` with what is known of the CPU; its number, from 1, stands for a process.
fn status(number: u32, cpu: &CpuState) -> [u8; STATUS_BYTES] {
    let mut status = [0; STATUS_BYTES];
    status[STATUS_PID..STATUS_PID + 4].copy_from_slice(&number.to_le_bytes());
    for (register, value) in [
        (RBP, cpu.rbp.get()),
        (RIP, cpu.rip.get()),
        (CS, cpu.cpl.into()),
        (RFLAGS, cpu.rflags),
        (RSP, cpu.rsp.get()),
    ] {
        let at = STATUS_REGISTERS + 8 * register;
        status[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    status
}
