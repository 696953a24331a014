//! A kernel file, checked before anything is loaded: which of four kinds it is, what of it goes where,
//! and where it is entered.
//!
//! - an ELF with a PVH note: entered by PVH in 32-bit protected mode without paging;
//! - a file with a Multiboot or Multiboot2 header, mostly an ELF of 32 or 64 bits: entered in the same mode;
//! - any other ELF (Linux's `vmlinux`): entered as Linux's 64-bit boot protocol has it;
//! - a bzImage: the same, by its setup header.

mod bzimage;
mod elf;
mod error;
mod multiboot;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use vm_memory::GuestAddress;

pub use bzimage::SetupHeader;
pub use elf::Segment;
pub use error::ImageError;
pub use multiboot::Version as MultibootVersion;

/// Larger files are no kernels; the largest distribution kernels with debug information have 1 GiB.
const FILE_LIMIT: u64 = 4 << 30;

/// What a kernel file is, by how it is entered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// An ELF with a PVH note.
    Pvh,
    /// A file with a Multiboot header and no PVH note.
    Multiboot(MultibootVersion),
    /// An ELF without either, entered at its ELF entry in 64-bit mode with Linux's boot parameters.
    Vmlinux,
    /// Linux's compressed image, which unpacks itself.
    BzImage(SetupHeader),
}

/// A checked kernel.
#[derive(Clone, Debug)]
pub struct KernelImage {
    name: String,
    bytes: Cow<'static, [u8]>,
    contents: Contents,
}

/// What a checked file says.
#[derive(Clone, Debug)]
struct Contents {
    kind: Kind,
    is_linux: bool,
    /// An ELF's loaded parts, in the file's order.
    segments: Vec<Segment>,
    entry: GuestAddress,
}

/// The file under check; what the parsers of all kinds share.
struct Candidate<'a> {
    name: &'a str,
    bytes: &'a [u8],
}

impl Candidate<'_> {
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
        let candidate = Candidate {
            name: &name,
            bytes: &bytes,
        };
        let contents = if elf::is_elf(&bytes) {
            candidate.elf()?
        } else if bzimage::is_bzimage(&bytes) {
            candidate.bzimage()?
        } else if let Some(header) = candidate.multiboot()? {
            candidate.by_addresses(&header)?
        } else {
            return Err(ImageError::NoKernel { name });
        };
        Ok(KernelImage {
            name,
            bytes,
            contents,
        })
    }

    /// The kernel, if it is entered by PVH.
    ///
    /// # Errors
    /// [`ImageError::NoPvhNote`].
    pub fn require_pvh(self) -> Result<KernelImage, ImageError> {
        match self.contents.kind {
            Kind::Pvh => Ok(self),
            Kind::Multiboot(_) | Kind::Vmlinux | Kind::BzImage(_) => {
                Err(ImageError::NoPvhNote { name: self.name })
            }
        }
    }

    /// What errors call it: its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the file has of one of its segments.
    pub(crate) fn content(&self, segment: &Segment) -> &[u8] {
        // The check at reading rules anything else out.
        let start = usize::try_from(segment.file_offset).unwrap_or(usize::MAX);
        let bytes = usize::try_from(segment.file_bytes).unwrap_or_default();
        let rest = self.bytes.get(start..).unwrap_or_default();
        rest.get(..bytes).unwrap_or_default()
    }

    /// What it is.
    pub fn kind(&self) -> &Kind {
        &self.contents.kind
    }

    /// Whether it is Linux: its notes say so, or it is entered as Linux is.
    pub fn is_linux(&self) -> bool {
        self.contents.is_linux
    }

    /// An ELF's loaded parts, in the file's order; a bzImage has none before it unpacks itself.
    pub fn segments(&self) -> &[Segment] {
        &self.contents.segments
    }

    /// Where it is entered.
    pub fn entry(&self) -> GuestAddress {
        self.contents.entry
    }
}
