//! The headers and notes of an ELF core, checked.

use heirloom_inspect::{PhysAddr, PhysRange};
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, ReadRef};

use super::notes::Notes;
use super::{CoreError, foreign};
use crate::input::{Cursor, Input};

type Header = FileHeader64<LittleEndian>;
type Program = ProgramHeader64<LittleEndian>;

/// More segments are not believed. kdump writes one for each range of RAM, QEMU with paging at most
/// one for each range of virtual addresses.
const SEGMENTS: u32 = 1 << 20;
/// Larger notes are not read: those of a thousand CPUs take less than 1 MiB.
const NOTE_BYTES: u64 = 64 << 20;

/// A part of the guest's memory: one PT_LOAD.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// The virtual one.
    pub(super) address: u64,
    pub(super) physical: PhysAddr,
    /// In the file.
    pub(super) offset: u64,
    pub(super) file_bytes: u64,
    pub(super) memory_bytes: u64,
}

impl Segment {
    /// The guest-physical addresses that it claims.
    pub(super) fn range(&self) -> PhysRange {
        let bytes = self.memory_bytes.max(self.file_bytes);
        PhysRange {
            start: self.physical,
            bytes: bytes.min(u64::MAX - self.physical.get()),
        }
    }
}

/// What a core's headers and notes say. The memory that they name need not be in the file.
#[derive(Debug, Default)]
pub(super) struct CoreFile {
    pub(super) segments: Vec<Segment>,
    pub(super) notes: Notes,
    /// What had to be left out, in sentences for people.
    pub(super) remarks: Vec<String>,
}

impl CoreFile {
    /// Reads the headers of `input`.
    pub(super) fn read(name: &str, input: &Input) -> Result<CoreFile, CoreError> {
        let length = input.length();
        check_identity(name, input)?;
        let data = ReadCache::new(Cursor::new(input));
        let mut core = CoreFile::default();
        for header in program_headers(name, &data, length)? {
            match header.p_type(LittleEndian) {
                elf::PT_LOAD => core.segments.push(Segment {
                    address: header.p_vaddr(LittleEndian),
                    physical: PhysAddr::new(header.p_paddr(LittleEndian)),
                    offset: header.p_offset(LittleEndian),
                    file_bytes: header.p_filesz(LittleEndian),
                    memory_bytes: header.p_memsz(LittleEndian),
                }),
                elf::PT_NOTE => {
                    if let Err(problem) = core.read_notes(header, &data, length) {
                        core.remarks.push(format!(
                            "some notes of the core, which hold CPU registers, are left out: {problem}"
                        ));
                    }
                }
                _ => {}
            }
        }
        if !core.notes.qemu.is_empty() {
            // QEMU gives a segment no bytes where there is no RAM: devices and holes that a guest's
            // page tables map (dump/dump.c, get_offset_range). makedumpfile keeps QEMU's notes, and
            // leaves bytes out of segments that are RAM all the same; it needs VMCOREINFO to do so.
            let is_makedumpfiles = core.notes.vmcoreinfo.is_some();
            for segment in &mut core.segments {
                if !is_makedumpfiles || segment.offset == u64::MAX {
                    segment.memory_bytes = segment.memory_bytes.min(segment.file_bytes);
                }
            }
        }
        Ok(core)
    }

    /// Takes from one PT_NOTE what is of use.
    fn read_notes<'a>(
        &mut self,
        header: &Program,
        data: &'a ReadCache<Cursor<'a>>,
        length: u64,
    ) -> Result<(), String> {
        let offset = header.p_offset(LittleEndian);
        let bytes = header.p_filesz(LittleEndian);
        if bytes > NOTE_BYTES {
            return Err(format!("they claim {bytes} bytes"));
        }
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return Err("they lie behind the end of the file".to_string());
        }
        let notes: &'a [u8] = data
            .read_bytes_at(offset, bytes)
            .map_err(|()| "they cannot be read".to_string())?;
        // QEMU and the kernel write 0 or 4; both mean 4 (gABI, figure 5-16).
        let align = header.p_align(LittleEndian);
        self.notes.take(notes, align)
    }
}

/// Makes sure that this is the ELF core of an x86-64 guest, as far as its first bytes tell.
fn check_identity(name: &str, input: &Input) -> Result<(), CoreError> {
    let name = || name.to_owned();
    let length = input.length();
    let start = input.start();
    let have = start.len();
    let start = start.as_slice();
    if !start.starts_with(&elf::ELFMAG) {
        return Err(foreign::error(&name(), start));
    }
    // e_machine is at the same place in 32- and 64-bit files.
    let at = |index: usize| start.get(index).copied();
    let machine = at(18)
        .zip(at(19))
        .map(|(low, high)| u16::from_le_bytes([low, high]));
    let truncated = CoreError::Truncated {
        name: name(),
        what: "the ELF header",
        end: size_of::<Header>() as u64,
        length,
    };
    let (Some(class), Some(data)) = (at(4), at(5)) else {
        return Err(truncated);
    };
    if data != elf::ELFDATA2LSB.0 {
        return Err(CoreError::WrongMachine { name: name() });
    }
    // QEMU's word for a first CPU that is not in long mode (target/i386/arch_dump.c).
    if machine == Some(elf::EM_386.0) {
        return Err(CoreError::NotLongMode { name: name() });
    }
    if class != elf::ELFCLASS64.0 || machine.is_some_and(|machine| machine != elf::EM_X86_64.0) {
        return Err(CoreError::WrongMachine { name: name() });
    }
    if have < size_of::<Header>() {
        return Err(truncated);
    }
    let kind = [at(16), at(17)];
    if kind != elf::ET_CORE.0.to_le_bytes().map(Some) {
        return Err(CoreError::NotACore { name: name() });
    }
    Ok(())
}

fn program_headers<'a>(
    name: &str,
    data: &'a ReadCache<Cursor<'a>>,
    length: u64,
) -> Result<&'a [Program], CoreError> {
    let damaged = |error: object::Error| CoreError::Damaged {
        name: name.into(),
        what: error.to_string(),
    };
    let inside = |what, offset: u64, bytes: u64| {
        let end = offset.saturating_add(bytes);
        if end > length {
            return Err(CoreError::Truncated {
                name: name.into(),
                what,
                end,
                length,
            });
        }
        Ok(())
    };
    let header = Header::parse(data).map_err(damaged)?;
    if header.e_phnum(LittleEndian) == elf::PN_XNUM {
        // The number stands in section 0's sh_info (gABI, "Extended numbering").
        let section = size_of::<elf::SectionHeader64<LittleEndian>>() as u64;
        inside(
            "the section header that counts its segments",
            header.e_shoff(LittleEndian),
            section,
        )?;
    }
    let count = header.phnum(LittleEndian, data).map_err(damaged)?;
    if count > SEGMENTS {
        return Err(CoreError::Damaged {
            name: name.into(),
            what: format!("it claims {count} segments"),
        });
    }
    inside(
        "the table of program headers",
        header.e_phoff(LittleEndian),
        u64::from(count) * size_of::<Program>() as u64,
    )?;
    header.program_headers(LittleEndian, data).map_err(damaged)
}
