//! Opening a file that a user named.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::packed::UnpackError;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum FileError {
    #[error("there is no file {name}: check the path")]
    Missing { name: String },
    #[error("there is no permission to read {name}: `chmod` it, or run heirloom as its owner")]
    Permission { name: String },
    #[error(
        "{name}, the memory of the kernel that runs here, cannot be opened: run heirloom as root; a kernel that is \
         locked down gives it to nobody"
    )]
    Kernel { name: String },
    #[error(
        "the kernel that runs here has no {name}: it was built without CONFIG_PROC_KCORE, or this is a container; \
         run heirloom outside, or dump the guest from its host"
    )]
    NoKernel { name: String },
    #[error("{name} is neither a regular file nor a block device: a {wanted} is one of these")]
    NotAFile { name: String, wanted: &'static str },
    #[error("{name} is empty: write or copy it again")]
    Empty { name: String },
    #[error("could not read {name}: {source}; check the disk it is on")]
    Read { name: String, source: io::Error },
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// The memory of the kernel that runs here.
pub(crate) const KCORE: &str = "/proc/kcore";

impl FileError {
    /// `source` happened while `name` was used.
    pub(crate) fn new(name: &str, source: io::Error) -> FileError {
        let name = name.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound if name == KCORE => FileError::NoKernel { name },
            io::ErrorKind::PermissionDenied if name == KCORE => FileError::Kernel { name },
            io::ErrorKind::NotFound => FileError::Missing { name },
            io::ErrorKind::PermissionDenied => FileError::Permission { name },
            _ => FileError::Read { name, source },
        }
    }
}

/// Opens `path`, which holds a `wanted`: the file and its length in bytes, not 0.
///
/// # Errors
/// [`FileError`].
pub(crate) fn open(path: &Path, wanted: &'static str) -> Result<(File, u64), FileError> {
    let name = path.display().to_string();
    let failed = |source| FileError::new(&name, source);
    // Asked by path first: opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(FileError::NotAFile { name, wanted });
    }
    let mut file = File::open(path).map_err(failed)?;
    // Of a block device, metadata does not tell the length.
    let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if length == 0 {
        return Err(FileError::Empty { name });
    }
    Ok((file, length))
}
