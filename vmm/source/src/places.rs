//! Where what is read of a guest stands, for those who confine themselves to it.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::file::KCORE;
use crate::spec::{Source, Spec};

impl Spec {
    /// Whether it is a guest that runs: behind a socket, and in a process of its own.
    pub fn is_live(&self) -> bool {
        match self.source() {
            Source::Qemu(_) => true,
            Source::File(_) => {
                std::fs::metadata(self.file()).is_ok_and(|about| about.file_type().is_socket())
            }
            _ => false,
        }
    }

    /// The files that are read, and the folders in which there may be more of them: the other half of a
    /// snapshot stands beside the one that is named.
    pub fn places(&self) -> Vec<PathBuf> {
        let mut places = vec![self.file().to_owned()];
        if let Source::File(file) = self.source() {
            places.extend(file.others().cloned());
            if self.file() == Path::new(KCORE) {
                // What the kernel says of itself stands in other files.
                places.extend(["/proc", "/sys"].map(PathBuf::from));
            } else if let Some(folder) = self.file().parent() {
                let is_here = folder == Path::new("");
                places.push(if is_here { ".".into() } else { folder.into() });
            }
        }
        places
    }
}
