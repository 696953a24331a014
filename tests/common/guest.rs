//! The embedded guest as `heirloom extract` writes it: a kernel, and one archive of all programs.

use std::path::PathBuf;

use tempfile::TempDir;

/// The embedded guest in files, which go with it.
pub(crate) struct Extracted {
    pub(crate) kernel: PathBuf,
    pub(crate) programs: PathBuf,
    /// The command line for QEMU that `extract` prints.
    pub(crate) qemu: String,
    _directory: TempDir,
}

/// Extracts the embedded guest to a place of its own.
pub(crate) fn extract() -> Extracted {
    let directory = tempfile::tempdir().unwrap();
    let run = super::heirloom(&["extract", directory.path().to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    Extracted {
        kernel: directory.path().join("heirloom-kernel"),
        programs: directory.path().join("programs.cpio"),
        qemu: run.stdout.trim_end().to_owned(),
        _directory: directory,
    }
}
