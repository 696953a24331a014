//! An ELF kernel: its loaded segments, and where its PVH note, its Multiboot header, or else its ELF header says
//! to enter it. One of 32 bits is entered by the first two only.
//!
//! The note (owner `Xen`, type `XEN_ELFNOTE_PHYS32_ENTRY`) holds the guest-physical address at which a
//! PVH loader enters the kernel in 32-bit protected mode without paging (Xen's
//! docs/misc/pvh.pandoc). A kernel that has it is not entered at the ELF's own entry point.

use object::LittleEndian;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use vm_memory::GuestAddress;

use super::{Candidate, Contents, ImageError, Kind};
use crate::address::GuestVirtual;

/// Note type `XEN_ELFNOTE_PHYS32_ENTRY` (Xen's xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;
/// Note type `XEN_ELFNOTE_GUEST_OS`, and what Linux puts there.
const GUEST_OS: u32 = 6;
const LINUX: &[u8] = b"linux";

/// A loaded part of the kernel: one `PT_LOAD` program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the kernel is linked to run.
    pub virtual_address: GuestVirtual,
    /// Where it is loaded.
    pub physical_address: GuestAddress,
    /// Where it begins in the file, in bytes.
    pub file_offset: u64,
    /// Bytes that come from the file; the rest reads as zero.
    pub file_bytes: u64,
    /// Bytes that it takes in memory; at least `file_bytes`, never 0.
    pub memory_bytes: u64,
    /// `PF_R` of its program header.
    pub readable: bool,
    /// `PF_W` of its program header.
    pub writable: bool,
    /// `PF_X` of its program header.
    pub executable: bool,
}

impl Segment {
    /// First guest-physical address behind it; the check at reading rules overflow out.
    pub fn physical_end(&self) -> GuestAddress {
        GuestAddress(self.physical_address.0 + self.memory_bytes)
    }
}

/// What the notes say.
#[derive(Default)]
struct Notes {
    pvh_entry: Option<GuestAddress>,
    is_linux: bool,
}

/// Segments that are loaded at most: kernels have a dozen.
const MAX_SEGMENTS: usize = 1024;

/// Whether the file is an ELF, of whatever machine.
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(&elf::ELFMAG)
}

impl Candidate<'_> {
    /// What an ELF says, if it is a whole x86 kernel.
    pub(super) fn elf(&self) -> Result<Contents, ImageError> {
        match self.bytes.get(4..6) {
            // The class and data bytes alone tell another machine's ELF from a cut one.
            Some(&[class, data]) if data == elf::ELFDATA2LSB.0 && class == elf::ELFCLASS32.0 => {
                self.elf_of::<FileHeader32<LittleEndian>>(elf::EM_386)
            }
            Some(&[class, data]) if data != elf::ELFDATA2LSB.0 || class != elf::ELFCLASS64.0 => {
                Err(self.wrong_machine())
            }
            _ => self.elf_of::<FileHeader64<LittleEndian>>(elf::EM_X86_64),
        }
    }

    fn wrong_machine(&self) -> ImageError {
        ImageError::WrongMachine {
            name: self.name.into(),
        }
    }

    fn elf_of<H: FileHeader<Endian = LittleEndian>>(
        &self,
        machine: elf::Machine,
    ) -> Result<Contents, ImageError> {
        let (header, headers) = self.program_headers::<H>(machine)?;
        let mut segments = Vec::new();
        let mut notes = Notes::default();
        for (index, header) in headers.iter().enumerate() {
            match header.p_type(LittleEndian) {
                elf::PT_LOAD => segments.extend(self.segment(index, header)?),
                elf::PT_NOTE => {
                    self.file_range(index, header)?;
                    self.read_notes(header, &mut notes)?;
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(self.damaged("it has no segment to load"));
        }
        if segments.len() > MAX_SEGMENTS {
            let count = segments.len();
            let what = format!(
                "it has {count} segments to load, and no kernel has more than {MAX_SEGMENTS}"
            );
            return Err(self.damaged(&what));
        }
        let own_entry = header.e_entry(LittleEndian).into();
        let (kind, entry) = match (notes.pvh_entry, self.multiboot()?) {
            (Some(entry), _) => (Kind::Pvh, entry),
            (None, Some(header)) => {
                let entry = header.entry.map_or(own_entry, u64::from);
                (
                    Kind::Multiboot(header.version),
                    multiboot_entry(&segments, entry),
                )
            }
            (None, None) if header.is_class_64() => (Kind::Vmlinux, GuestAddress(own_entry)),
            (None, None) => return Err(self.wrong_machine()),
        };
        let inside =
            |segment: &Segment| segment.physical_address <= entry && entry < segment.physical_end();
        if !segments.iter().any(inside) {
            return Err(ImageError::EntryOutside {
                name: self.name.into(),
                entry: entry.0,
            });
        }
        Ok(Contents {
            is_linux: notes.is_linux || kind == Kind::Vmlinux,
            kind,
            segments,
            entry,
        })
    }

    /// The header and the program headers of what is a little-endian executable for this machine.
    fn program_headers<H: FileHeader<Endian = LittleEndian>>(
        &self,
        machine: elf::Machine,
    ) -> Result<(&H, &[H::ProgramHeader]), ImageError> {
        if self.bytes.len() < size_of::<H>() {
            return Err(self.truncated("the ELF header", size_of::<H>() as u64));
        }
        let header = H::parse(self.bytes).map_err(|error| self.damaged(&error.to_string()))?;
        let kind = header.e_type(LittleEndian);
        if header.e_machine(LittleEndian) != machine
            || (kind != elf::ET_EXEC && kind != elf::ET_DYN)
        {
            return Err(self.wrong_machine());
        }
        let table_end = u64::from(header.e_phnum(LittleEndian))
            .checked_mul(size_of::<H::ProgramHeader>() as u64)
            .and_then(|length| {
                let start: u64 = header.e_phoff(LittleEndian).into();
                start.checked_add(length)
            })
            .ok_or_else(|| self.damaged("its program headers lie beyond 2^64"))?;
        if table_end > self.bytes.len() as u64 {
            return Err(self.truncated("the table of program headers", table_end));
        }
        let headers = header
            .program_headers(LittleEndian, self.bytes)
            .map_err(|error| self.damaged(&error.to_string()))?;
        Ok((header, headers))
    }

    /// One `PT_LOAD` header as a segment; `None` if it takes no memory.
    fn segment(
        &self,
        index: usize,
        header: &impl ProgramHeader<Endian = LittleEndian>,
    ) -> Result<Option<Segment>, ImageError> {
        self.file_range(index, header)?;
        let segment = Segment {
            virtual_address: GuestVirtual(header.p_vaddr(LittleEndian).into()),
            physical_address: GuestAddress(header.p_paddr(LittleEndian).into()),
            file_offset: header.p_offset(LittleEndian).into(),
            file_bytes: header.p_filesz(LittleEndian).into(),
            memory_bytes: header.p_memsz(LittleEndian).into(),
            readable: header.p_flags(LittleEndian).0 & elf::PF_R.0 != 0,
            writable: header.p_flags(LittleEndian).0 & elf::PF_W.0 != 0,
            executable: header.p_flags(LittleEndian).0 & elf::PF_X.0 != 0,
        };
        if segment.file_bytes > segment.memory_bytes {
            return Err(self.damaged(&format!(
                "segment {index} is larger in the file than in memory"
            )));
        }
        if segment
            .physical_address
            .0
            .checked_add(segment.memory_bytes)
            .is_none()
            || segment
                .virtual_address
                .0
                .checked_add(segment.memory_bytes)
                .is_none()
        {
            return Err(self.damaged(&format!("segment {index} ends beyond 2^64")));
        }
        Ok((segment.memory_bytes > 0).then_some(segment))
    }

    /// Makes sure that what a program header names is in the file.
    fn file_range(
        &self,
        index: usize,
        header: &impl ProgramHeader<Endian = LittleEndian>,
    ) -> Result<(), ImageError> {
        let (start, bytes): (u64, u64) = (
            header.p_offset(LittleEndian).into(),
            header.p_filesz(LittleEndian).into(),
        );
        let end = start
            .checked_add(bytes)
            .ok_or_else(|| self.damaged(&format!("segment {index} lies beyond 2^64")))?;
        if end > self.bytes.len() as u64 {
            return Err(self.truncated(&format!("segment {index}"), end));
        }
        Ok(())
    }

    /// Adds what a `PT_NOTE` segment says; the first of several entries counts.
    fn read_notes(
        &self,
        header: &impl ProgramHeader<Endian = LittleEndian>,
        notes: &mut Notes,
    ) -> Result<(), ImageError> {
        let damaged = |error: object::Error| self.damaged(&error.to_string());
        let Some(mut found) = header.notes(LittleEndian, self.bytes).map_err(damaged)? else {
            return Ok(());
        };
        while let Some(note) = found.next().map_err(damaged)? {
            if note.name() != b"Xen" {
                continue;
            }
            match note.n_type(LittleEndian).0 {
                PHYS32_ENTRY if notes.pvh_entry.is_none() => {
                    notes.pvh_entry = Some(self.pvh_entry(note.desc())?);
                }
                GUEST_OS => notes.is_linux |= note.desc().starts_with(LINUX),
                _ => {}
            }
        }
        Ok(())
    }

    /// The entry that a PVH note holds, 4 or 8 bytes wide.
    fn pvh_entry(&self, description: &[u8]) -> Result<GuestAddress, ImageError> {
        match *description {
            [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => {
                Ok(GuestAddress(u32::from_le_bytes([a, b, c, d]).into()))
            }
            _ => Err(self.damaged("its PVH note holds no 32-bit address")),
        }
    }
}

/// Where a kernel is entered by Multiboot: its header's entry is virtual if it is linked so, as GRUB has it.
fn multiboot_entry(segments: &[Segment], entry: u64) -> GuestAddress {
    let inside = segments.iter().find_map(|segment| {
        let offset = entry.checked_sub(segment.virtual_address.0)?;
        (offset < segment.memory_bytes).then(|| segment.physical_address.0.checked_add(offset))?
    });
    GuestAddress(inside.unwrap_or(entry))
}
