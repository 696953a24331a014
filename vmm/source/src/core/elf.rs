//! The headers and notes of an ELF core, checked.

use heirloom_inspect::{PhysAddr, PhysRange};
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, ReadRef};

use super::notes::Notes;
use super::{CoreError, foreign};
use crate::input::{Cursor, Input};

type Narrow = FileHeader32<LittleEndian>;
type Wide = FileHeader64<LittleEndian>;

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
        let class = check_identity(name, input)?;
        let data = ReadCache::new(Cursor::new(input));
        let mut core = CoreFile::default();
        // What the headers say has 32 bits if the kernel was told to write them so (kexec's --elf32-core-headers), and the
        // registers and tables have 64 all the same.
        if class == elf::ELFCLASS32.0 {
            core.read_headers::<Narrow>(name, &data, input.length())?;
        } else {
            core.read_headers::<Wide>(name, &data, input.length())?;
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

    fn read_headers<'a, H: FileHeader<Endian = LittleEndian>>(
        &mut self,
        name: &str,
        data: &'a ReadCache<Cursor<'a>>,
        length: u64,
    ) -> Result<(), CoreError> {
        for header in program_headers::<H>(name, data, length)? {
            match header.p_type(LittleEndian) {
                elf::PT_LOAD => self.segments.push(Segment {
                    address: header.p_vaddr(LittleEndian).into(),
                    physical: PhysAddr::new(header.p_paddr(LittleEndian).into()),
                    offset: header.p_offset(LittleEndian).into(),
                    file_bytes: header.p_filesz(LittleEndian).into(),
                    memory_bytes: header.p_memsz(LittleEndian).into(),
                }),
                elf::PT_NOTE => {
                    if let Err(problem) = self.read_notes(header, data, length) {
                        self.remarks.push(format!(
                            "some notes of the core, which hold CPU registers, are left out: {problem}"
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes from one PT_NOTE what is of use.
    fn read_notes<'a, P: ProgramHeader<Endian = LittleEndian>>(
        &mut self,
        header: &P,
        data: &'a ReadCache<Cursor<'a>>,
        length: u64,
    ) -> Result<(), String> {
        let offset: u64 = header.p_offset(LittleEndian).into();
        let bytes: u64 = header.p_filesz(LittleEndian).into();
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
        let align = header.p_align(LittleEndian).into();
        self.notes.take(notes, align)
    }
}

/// Makes sure that this is the ELF core of an x86-64 guest, as far as its first bytes tell: of which class.
fn check_identity(name: &str, input: &Input) -> Result<u8, CoreError> {
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
    let class = at(4);
    let header = if class == Some(elf::ELFCLASS32.0) {
        size_of::<Narrow>()
    } else {
        size_of::<Wide>()
    };
    let truncated = CoreError::Truncated {
        name: name(),
        what: "the ELF header",
        end: header as u64,
        length,
    };
    let (Some(class), Some(data)) = (class, at(5)) else {
        return Err(truncated);
    };
    if data != elf::ELFDATA2LSB.0 {
        return Err(CoreError::WrongMachine { name: name() });
    }
    // QEMU's word for a first CPU that is not in long mode (target/i386/arch_dump.c), and kexec's for a 32-bit kernel.
    if machine == Some(elf::EM_386.0) {
        return Err(CoreError::NotLongMode { name: name() });
    }
    let is_known = [elf::ELFCLASS32.0, elf::ELFCLASS64.0].contains(&class);
    if !is_known || machine.is_some_and(|machine| machine != elf::EM_X86_64.0) {
        return Err(CoreError::WrongMachine { name: name() });
    }
    if have < header {
        return Err(truncated);
    }
    let kind = [at(16), at(17)];
    if kind != elf::ET_CORE.0.to_le_bytes().map(Some) {
        return Err(CoreError::NotACore { name: name() });
    }
    Ok(class)
}

fn program_headers<'a, H: FileHeader<Endian = LittleEndian>>(
    name: &str,
    data: &'a ReadCache<Cursor<'a>>,
    length: u64,
) -> Result<&'a [H::ProgramHeader], CoreError> {
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
    let header = H::parse(data).map_err(damaged)?;
    if header.e_phnum(LittleEndian) == elf::PN_XNUM {
        // The number stands in section 0's sh_info (gABI, "Extended numbering").
        let section = size_of::<H::SectionHeader>() as u64;
        inside(
            "the section header that counts its segments",
            header.e_shoff(LittleEndian).into(),
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
        header.e_phoff(LittleEndian).into(),
        u64::from(count) * size_of::<H::ProgramHeader>() as u64,
    )?;
    header.program_headers(LittleEndian, data).map_err(damaged)
}
