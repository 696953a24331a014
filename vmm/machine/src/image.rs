//! A kernel file: an x86-64 ELF with a PVH note, checked before anything is loaded.
//!
//! The note (owner `Xen`, type `XEN_ELFNOTE_PHYS32_ENTRY`) holds the guest-physical address at which a
//! PVH loader enters the kernel in 32-bit protected mode without paging (Xen's
//! docs/misc/pvh.pandoc). The ELF's own entry point is not used.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use vm_memory::GuestAddress;

use crate::address::GuestVirtual;

/// Larger files are no kernels; the largest distribution kernels with debug information have 1 GiB.
const FILE_LIMIT: u64 = 4 << 30;
/// Note type `XEN_ELFNOTE_PHYS32_ENTRY` (Xen's xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// Why a file is no kernel for this machine.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("there is no kernel file {name}: check the path")]
    Missing { name: String },
    #[error("could not read the kernel file {name}: {source}")]
    Read { name: String, source: io::Error },
    #[error("{name} is not a regular file: a kernel is one ELF file")]
    NotAFile { name: String },
    #[error("{name} is larger than 4 GiB, which no kernel is")]
    TooLarge { name: String },
    #[error(
        "{name} is not an ELF file: give the kernel as an ELF (a Linux build's `vmlinux`, not `bzImage`)"
    )]
    NotElf { name: String },
    #[error("{name} is an ELF, but not a 64-bit x86-64 executable: build the kernel for x86-64")]
    WrongMachine { name: String },
    #[error(
        "{name} is cut off: {what} ends at byte {end}, but the file has only {length}; build or copy it again"
    )]
    Truncated {
        name: String,
        what: String,
        end: u64,
        length: u64,
    },
    #[error("{name} is damaged: {what}; build or copy it again")]
    Damaged { name: String, what: String },
    #[error(
        "{name} has no PVH note, so nothing says where to enter it: link an ELF note of owner \"Xen\", \
         type 18 with the 32-bit entry (Linux: CONFIG_PVH=y)"
    )]
    NoPvhNote { name: String },
    #[error(
        "the PVH note of {name} says to enter at {entry:#x}, where none of its segments is loaded: \
         give the note the entry's physical address"
    )]
    EntryOutside { name: String, entry: u64 },
}

/// A loaded part of the kernel: one `PT_LOAD` program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the kernel is linked to run.
    pub virtual_address: GuestVirtual,
    /// Where it is loaded.
    pub physical_address: GuestAddress,
    /// Bytes that come from the file; the rest reads as zero.
    pub file_bytes: u64,
    /// Bytes that it takes in memory; at least `file_bytes`, never 0.
    pub memory_bytes: u64,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
}

impl Segment {
    /// First guest-physical address behind it; the check at reading rules overflow out.
    pub fn physical_end(&self) -> GuestAddress {
        GuestAddress(self.physical_address.0 + self.memory_bytes)
    }
}

/// A checked kernel.
#[derive(Clone, Debug)]
pub struct KernelImage {
    name: String,
    bytes: Cow<'static, [u8]>,
    segments: Vec<Segment>,
    entry: GuestAddress,
}

impl KernelImage {
    /// Reads and checks a kernel file.
    ///
    /// # Errors
    /// [`ImageError`] names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<KernelImage, ImageError> {
        let name = path.display().to_string();
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ImageError::Missing { name: name.clone() },
            _ => ImageError::Read {
                name: name.clone(),
                source,
            },
        };
        // Asked by path first: opening a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(&failed)?.is_file() {
            return Err(ImageError::NotAFile { name });
        }
        let mut bytes = Vec::new();
        File::open(path)
            .map_err(&failed)?
            .take(FILE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(&failed)?;
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(ImageError::TooLarge { name });
        }
        KernelImage::from_bytes(name, bytes)
    }

    /// Checks a kernel that is in memory already; `name` is what errors call it.
    ///
    /// # Errors
    /// [`ImageError`], whatever the bytes are.
    pub fn from_bytes(
        name: impl Into<String>,
        bytes: impl Into<Cow<'static, [u8]>>,
    ) -> Result<KernelImage, ImageError> {
        let (name, bytes) = (name.into(), bytes.into());
        let parser = Parser {
            name: &name,
            bytes: &bytes,
        };
        let (segments, entry) = parser.parse()?;
        Ok(KernelImage {
            name,
            bytes,
            segments,
            entry,
        })
    }

    /// What errors call it: its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its loaded parts, in the file's order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where PVH enters it.
    pub fn entry(&self) -> GuestAddress {
        self.entry
    }
}

/// The file under check.
struct Parser<'a> {
    name: &'a str,
    bytes: &'a [u8],
}

type Header = FileHeader64<LittleEndian>;

impl Parser<'_> {
    fn parse(&self) -> Result<(Vec<Segment>, GuestAddress), ImageError> {
        let headers = self.program_headers()?;
        let mut segments = Vec::new();
        let mut entry = None;
        for (index, header) in headers.iter().enumerate() {
            match header.p_type(LittleEndian) {
                elf::PT_LOAD => segments.extend(self.segment(index, header)?),
                elf::PT_NOTE => {
                    self.file_range(index, header)?;
                    entry = entry.or(self.pvh_entry(header)?);
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(self.damaged("it has no segment to load"));
        }
        let entry = entry.ok_or_else(|| ImageError::NoPvhNote {
            name: self.name.into(),
        })?;
        let inside =
            |segment: &Segment| segment.physical_address <= entry && entry < segment.physical_end();
        if !segments.iter().any(inside) {
            return Err(ImageError::EntryOutside {
                name: self.name.into(),
                entry: entry.0,
            });
        }
        Ok((segments, entry))
    }

    /// The program headers of what is a 64-bit little-endian x86 executable.
    fn program_headers(&self) -> Result<&[ProgramHeader64<LittleEndian>], ImageError> {
        let name = || self.name.to_string();
        if !self.bytes.starts_with(&elf::ELFMAG) {
            return Err(ImageError::NotElf { name: name() });
        }
        // The class and data bytes alone tell another machine's ELF from a cut one.
        if let Some([class, data]) = self.bytes.get(4..6)
            && (*class != elf::ELFCLASS64.0 || *data != elf::ELFDATA2LSB.0)
        {
            return Err(ImageError::WrongMachine { name: name() });
        }
        if self.bytes.len() < size_of::<Header>() {
            return Err(self.truncated("the ELF header", size_of::<Header>() as u64));
        }
        let header = Header::parse(self.bytes).map_err(|error| self.damaged(&error.to_string()))?;
        let kind = header.e_type(LittleEndian);
        if header.e_machine(LittleEndian) != elf::EM_X86_64
            || (kind != elf::ET_EXEC && kind != elf::ET_DYN)
        {
            return Err(ImageError::WrongMachine { name: name() });
        }
        let table_end = u64::from(header.e_phnum(LittleEndian))
            .checked_mul(size_of::<ProgramHeader64<LittleEndian>>() as u64)
            .and_then(|length| header.e_phoff(LittleEndian).checked_add(length))
            .ok_or_else(|| self.damaged("its program headers lie beyond 2^64"))?;
        if table_end > self.bytes.len() as u64 {
            return Err(self.truncated("the table of program headers", table_end));
        }
        header
            .program_headers(LittleEndian, self.bytes)
            .map_err(|error| self.damaged(&error.to_string()))
    }

    /// One `PT_LOAD` header as a segment; `None` if it takes no memory.
    fn segment(
        &self,
        index: usize,
        header: &ProgramHeader64<LittleEndian>,
    ) -> Result<Option<Segment>, ImageError> {
        self.file_range(index, header)?;
        let segment = Segment {
            virtual_address: GuestVirtual(header.p_vaddr(LittleEndian)),
            physical_address: GuestAddress(header.p_paddr(LittleEndian)),
            file_bytes: header.p_filesz(LittleEndian),
            memory_bytes: header.p_memsz(LittleEndian),
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
        header: &ProgramHeader64<LittleEndian>,
    ) -> Result<(), ImageError> {
        let end = header
            .p_offset(LittleEndian)
            .checked_add(header.p_filesz(LittleEndian))
            .ok_or_else(|| self.damaged(&format!("segment {index} lies beyond 2^64")))?;
        if end > self.bytes.len() as u64 {
            return Err(self.truncated(&format!("segment {index}"), end));
        }
        Ok(())
    }

    /// The entry that a note of this `PT_NOTE` segment holds, 4 or 8 bytes wide.
    fn pvh_entry(
        &self,
        header: &ProgramHeader64<LittleEndian>,
    ) -> Result<Option<GuestAddress>, ImageError> {
        let damaged = |error: object::Error| self.damaged(&error.to_string());
        let Some(mut notes) = header.notes(LittleEndian, self.bytes).map_err(damaged)? else {
            return Ok(None);
        };
        while let Some(note) = notes.next().map_err(damaged)? {
            if note.name() != b"Xen" || note.n_type(LittleEndian).0 != PHYS32_ENTRY {
                continue;
            }
            let entry = match *note.desc() {
                [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => u32::from_le_bytes([a, b, c, d]),
                _ => return Err(self.damaged("its PVH note holds no 32-bit address")),
            };
            return Ok(Some(GuestAddress(entry.into())));
        }
        Ok(None)
    }

    fn truncated(&self, what: &str, end: u64) -> ImageError {
        ImageError::Truncated {
            name: self.name.into(),
            what: what.into(),
            end,
            length: self.bytes.len() as u64,
        }
    }

    fn damaged(&self, what: &str) -> ImageError {
        ImageError::Damaged {
            name: self.name.into(),
            what: what.into(),
        }
    }
}
