//! A ring-3 program of the user's own, checked before the guest is booted for it: what the guest kernel
//! would refuse (guest/kernel/src/process/program.rs) is said here, with the reason.

use std::path::{Path, PathBuf};

use heirloom_abi::PAGE_SIZE;
use heirloom_abi::layout::{Depth, Region};
use heirloom_machine::Module;
use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::file;

/// Larger files are no ring-3 programs, in GiB.
const FILE_LIMIT: u64 = 1;
/// Below, the guest kernel maps nothing for a program, so that null pointers fault.
const LOWEST: u64 = 0x1_0000;

type Header = FileHeader64<LittleEndian>;
type Program = ProgramHeader64<LittleEndian>;

/// Why a file is no program for the guest; words that stand behind its name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ProgramError {
    #[error("it is no ELF file")]
    NotElf,
    #[error("it is not for x86-64")]
    WrongMachine,
    #[error("it is position-independent: link it with -static -no-pie")]
    PositionIndependent,
    #[error("it is no executable: link it with -static -no-pie")]
    NotExecutable,
    #[error("it needs an interpreter, which the guest has not: link it with -static -no-pie")]
    Dynamic,
    #[error(
        "it is cut off: {what} ends at byte {end}, but the file has only {length}; build or copy it again"
    )]
    Truncated { what: String, end: u64, length: u64 },
    #[error("it is damaged: {what}; build or copy it again")]
    Damaged { what: String },
    #[error("it has no segment to load: link it with -static -no-pie")]
    Empty,
    #[error(
        "segment {segment} is linked to {start:#x}–{end:#x}, but programs have {LOWEST:#x}–{:#x}: link it there",
        Region::User.end(Depth::Four)
    )]
    Outside {
        segment: usize,
        start: u64,
        end: u64,
    },
    #[error("it starts at {entry:#x}, where none of its segments is executable: link it again")]
    EntryOutside { entry: u64 },
}

/// A file that is no program for the guest.
#[derive(Debug, thiserror::Error)]
#[error("could not use the program {}: {reason}", path.display())]
pub struct UnusableProgram {
    path: PathBuf,
    reason: String,
}

/// Reads and checks it; it is named after its file.
///
/// # Errors
/// [`UnusableProgram`].
pub fn read(path: &Path) -> Result<Module, UnusableProgram> {
    let unusable = |reason: &dyn std::fmt::Display| UnusableProgram {
        path: path.into(),
        reason: reason.to_string(),
    };
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| name.chars().all(|c| c.is_ascii_graphic()))
        .ok_or_else(|| unusable(&"its file name must be ASCII without blanks, as the kernel's command line names it"))?;
    let bytes = file::read(path, FILE_LIMIT).map_err(|problem| unusable(&problem))?;
    check(&bytes).map_err(|error| unusable(&error))?;
    Ok(Module {
        name: name.into(),
        bytes: bytes.into(),
    })
}

/// Whether the guest kernel can load it (System V ABI, chapters 4 and 5).
fn check(bytes: &[u8]) -> Result<(), ProgramError> {
    let header = header(bytes)?;
    let mut loaded = false;
    let mut entered = false;
    let entry = header.e_entry(LittleEndian);
    for (number, segment) in program_headers(header, bytes)?.iter().enumerate() {
        match segment.p_type(LittleEndian) {
            elf::PT_INTERP => return Err(ProgramError::Dynamic),
            elf::PT_LOAD if segment.p_memsz(LittleEndian) > 0 => {
                let end = check_segment(number, segment, bytes.len() as u64)?;
                loaded = true;
                entered |= segment.p_flags(LittleEndian).0 & elf::PF_X.0 != 0
                    && (segment.p_vaddr(LittleEndian)..end).contains(&entry);
            }
            _ => {}
        }
    }
    if !loaded {
        return Err(ProgramError::Empty);
    }
    if !entered {
        return Err(ProgramError::EntryOutside { entry });
    }
    Ok(())
}

fn header(bytes: &[u8]) -> Result<&Header, ProgramError> {
    if !bytes.starts_with(&elf::ELFMAG) || bytes.len() < size_of::<Header>() {
        return Err(ProgramError::NotElf);
    }
    let class_and_data = (bytes[4], bytes[5]);
    if class_and_data != (elf::ELFCLASS64.0, elf::ELFDATA2LSB.0) {
        return Err(ProgramError::WrongMachine);
    }
    let header = Header::parse(bytes).map_err(|error| damaged(&error))?;
    if header.e_machine(LittleEndian) != elf::EM_X86_64 {
        return Err(ProgramError::WrongMachine);
    }
    match header.e_type(LittleEndian) {
        elf::ET_EXEC => Ok(header),
        elf::ET_DYN => Err(ProgramError::PositionIndependent),
        _ => Err(ProgramError::NotExecutable),
    }
}

fn program_headers<'a>(header: &'a Header, bytes: &'a [u8]) -> Result<&'a [Program], ProgramError> {
    let count = u64::from(header.e_phnum(LittleEndian));
    let end = header
        .e_phoff(LittleEndian)
        .checked_add(count * size_of::<Program>() as u64)
        .ok_or_else(|| damaged(&"its program headers lie beyond 2^64"))?;
    if end > bytes.len() as u64 {
        return Err(truncated(
            "the table of program headers",
            end,
            bytes.len() as u64,
        ));
    }
    header
        .program_headers(LittleEndian, bytes)
        .map_err(|error| damaged(&error))
}

/// Checks a segment that takes memory; where it ends.
fn check_segment(number: usize, segment: &Program, length: u64) -> Result<u64, ProgramError> {
    let start = segment.p_vaddr(LittleEndian);
    let offset = segment.p_offset(LittleEndian);
    let in_file = segment.p_filesz(LittleEndian);
    let in_memory = segment.p_memsz(LittleEndian);
    let beyond = || damaged(&format!("segment {number} ends beyond 2^64"));
    let file_end = offset.checked_add(in_file).ok_or_else(beyond)?;
    if file_end > length {
        return Err(truncated(&format!("segment {number}"), file_end, length));
    }
    if in_file > in_memory {
        return Err(damaged(&format!(
            "segment {number} is larger in the file than in memory"
        )));
    }
    // The page's first bytes come from the file too.
    if offset < start % PAGE_SIZE {
        return Err(damaged(&format!(
            "segment {number} begins in the file before the page that it is in"
        )));
    }
    let end = start.checked_add(in_memory).ok_or_else(beyond)?;
    if start < LOWEST || end > Region::User.end(Depth::Four) {
        return Err(ProgramError::Outside {
            segment: number,
            start,
            end,
        });
    }
    Ok(end)
}

fn truncated(what: &str, end: u64, length: u64) -> ProgramError {
    ProgramError::Truncated {
        what: what.into(),
        end,
        length,
    }
}

fn damaged(what: &impl std::fmt::Display) -> ProgramError {
    ProgramError::Damaged {
        what: what.to_string(),
    }
}
