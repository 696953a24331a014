//! Files that are written: whole under their name, or not there at all.
//!
//! One rule for all of them. What exists is left alone unless it shall be replaced, and what is read is never
//! written to. A file is written under a temporary name in its folder and renamed, so that whoever looks sees
//! the old one or the new one, however the writer ends; a link is replaced and not what it leads to. What is no
//! regular file, such as `/dev/stdout` or a pipe, is written to as it is. Recordings, which can be read while
//! they grow, are the one exception: they grow under their own name.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

/// Temporary files that are being written.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the temporary files that are being written: before `std::process::exit`, which drops nothing.
pub fn remove_unfinished() {
    let unfinished =
        std::mem::take(&mut *UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner));
    for path in unfinished {
        // It may have been renamed meanwhile.
        let _ = fs::remove_file(path);
    }
}

/// Where something will be written.
#[derive(Clone, Debug)]
pub struct OutputFile {
    what: &'static str,
    path: PathBuf,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Under a temporary name, then renamed.
    Rename { replace: bool },
    /// As it is.
    Direct,
}

/// Why a file is not written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum OutputError {
    #[error("could not write {what} {}: it exists, and is not overwritten", path.display())]
    Exists { what: &'static str, path: PathBuf },
    #[error(
        "could not write {what} {}: it is the file {}, which is read; choose another name",
        path.display(), input.display()
    )]
    Input {
        what: &'static str,
        path: PathBuf,
        input: PathBuf,
    },
    #[error("could not write {what} {}: {source}{}", path.display(), remedy(source))]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// What limit was met.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::FileTooLarge => " (`ulimit -f` is the limit)",
        io::ErrorKind::StorageFull => " (no room is left there)",
        _ => "",
    }
}

impl OutputFile {
    /// The file at `path`, for `what` (`the page`), which is none of `inputs`. What is there already is replaced if that is wanted, and
    /// when it is an empty file.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn at(
        what: &'static str,
        path: &Path,
        replace: bool,
        inputs: &[&Path],
    ) -> Result<OutputFile, OutputError> {
        let failed = |source| OutputError::Io {
            what,
            path: path.to_owned(),
            source,
        };
        let direct = OutputFile {
            what,
            path: path.to_owned(),
            way: Way::Direct,
        };
        let kind = match fs::metadata(path) {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link that leads nowhere is there, too.
                let is_link = fs::symlink_metadata(path).is_ok();
                // Said now, and not when what is to be written has been made.
                if !fs::metadata(folder_of(path)).map_err(failed)?.is_dir() {
                    return Err(failed(io::ErrorKind::NotADirectory.into()));
                }
                return OutputFile::renamed((what, path), replace, is_link);
            }
            Err(error) => return Err(failed(error)),
        };
        for input in inputs {
            if fs::metadata(input)
                .is_ok_and(|input| (input.dev(), input.ino()) == (kind.dev(), kind.ino()))
            {
                return Err(OutputError::Input {
                    what,
                    path: path.to_owned(),
                    input: (*input).to_owned(),
                });
            }
        }
        // `/dev/stdout` may lead to a regular file.
        let is_devices = ["/dev", "/proc"]
            .iter()
            .any(|folder| path.starts_with(folder));
        if kind.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        if !kind.is_file() || is_devices {
            return Ok(direct);
        }
        let is_link = fs::symlink_metadata(path).map_err(failed)?.is_symlink();
        OutputFile::renamed((what, path), replace, is_link || kind.len() > 0)
    }

    fn renamed(
        (what, path): (&'static str, &Path),
        replace: bool,
        is_there: bool,
    ) -> Result<OutputFile, OutputError> {
        let path = path.to_owned();
        if is_there && !replace {
            return Err(OutputError::Exists { what, path });
        }
        let way = Way::Rename { replace };
        Ok(OutputFile { what, path, way })
    }

    /// Whether a file that is there is replaced: it is no device, pipe or such.
    pub fn is_replaced(&self) -> bool {
        matches!(self.way, Way::Rename { .. })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// [`OutputError`]; what was there before is then still there.
    pub fn write(&self, bytes: &[u8]) -> Result<(), OutputError> {
        self.write_by(|file| file.write_all(bytes).map_err(|source| self.failed(source)))
    }

    /// Has `write` write it.
    ///
    /// # Errors
    /// What `write` returns, or [`OutputError`]; what was there before is then still there.
    pub fn write_by<E: From<OutputError>>(
        &self,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |source| E::from(self.failed(source));
        if self.way == Way::Direct {
            let opened = OpenOptions::new().write(true).open(&self.path);
            return write(&mut opened.map_err(failed)?);
        }
        // It may have come meanwhile.
        let Way::Rename { replace } =
            OutputFile::at(self.what, &self.path, self.replaces(), &[])?.way
        else {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        };
        let mut unfinished = Unfinished(self.temporary().map_err(failed)?);
        write(unfinished.0.as_file_mut())?;
        unfinished.finish(&self.path, replace).map_err(failed)
    }

    fn replaces(&self) -> bool {
        self.way == Way::Rename { replace: true }
    }

    fn temporary(&self) -> io::Result<NamedTempFile> {
        let folder = folder_of(&self.path);
        let file = tempfile::Builder::new()
            .prefix(".heirloom-")
            // What the umask leaves of it, as for any new file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            // Its own message names the temporary file.
            .map_err(|error| io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0)))?;
        let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.push(file.path().to_owned());
        Ok(file)
    }

    fn failed(&self, source: io::Error) -> OutputError {
        let path = self.path.clone();
        OutputError::Io {
            what: self.what,
            path,
            source,
        }
    }
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A temporary file, which goes unless it gets its name.
struct Unfinished(NamedTempFile);

impl Unfinished {
    fn finish(self, path: &Path, replace: bool) -> io::Result<()> {
        let temporary = self.0.path().to_owned();
        let is_empty = fs::metadata(path).is_ok_and(|there| there.len() == 0);
        let named = if replace || is_empty {
            self.0.persist(path)
        } else {
            self.0.persist_noclobber(path)
        };
        let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.retain(|other| *other != temporary);
        named.map(drop).map_err(|error| error.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none/output");
        let error = OutputFile::at("the page", &missing, false, &[]).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
        assert!(OutputFile::at("the page", Path::new("output-of-no-test"), false, &[]).is_ok());
    }

    #[test]
    fn a_file_is_replaced_if_that_is_wanted_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output");
        for text in ["first", "second"] {
            let file = OutputFile::at("the page", &path, true, &[]).unwrap();
            file.write(text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), 1);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        let other = folder.path().join("other");
        fs::write(&other, "").unwrap();
        assert_eq!(mode, fs::metadata(&other).unwrap().permissions().mode());
    }

    #[test]
    fn what_exists_is_left_alone_even_if_it_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thesis.html");
        let file = OutputFile::at("the page", &path, false, &[]).unwrap();
        fs::write(&path, "precious").unwrap();
        let errors = [
            OutputFile::at("the page", &path, false, &[]).unwrap_err(),
            file.write(b"new").unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, OutputError::Exists { .. }), "{error}");
            assert!(error.to_string().contains("thesis.html"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(names(folder.path()), 1);
    }

    #[test]
    fn what_is_read_is_never_written_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let [input, link] = ["input", "link"].map(|name| folder.path().join(name));
        fs::write(&input, "precious").unwrap();
        std::os::unix::fs::symlink(&input, &link).unwrap();
        for path in [&input, &link] {
            let error = OutputFile::at("the page", path, true, &[&input]).unwrap_err();
            assert!(matches!(error, OutputError::Input { .. }), "{error}");
        }
    }

    #[test]
    fn an_empty_file_and_a_device_are_written_to_and_a_link_is_replaced_or_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [empty, link] = ["empty", "link"].map(|name| folder.path().join(name));
        fs::write(&empty, "").unwrap();
        let file = OutputFile::at("the page", &empty, false, &[]).unwrap();
        file.write(b"text").unwrap();
        assert_eq!(fs::read(&empty).unwrap(), b"text");
        for target in [empty.as_path(), Path::new("/no/such/file")] {
            std::os::unix::fs::symlink(target, &link).unwrap();
            OutputFile::at("the page", &link, false, &[]).unwrap_err();
            let file = OutputFile::at("the page", &link, true, &[]).unwrap();
            file.write(b"other").unwrap();
            assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read(&empty).unwrap(), b"text");
        let device = OutputFile::at("the page", Path::new("/dev/null"), false, &[]).unwrap();
        device.write(b"text").unwrap();
    }

    #[test]
    fn where_no_file_can_be_the_error_names_it_and_a_writer_that_fails_leaves_nothing() {
        for path in ["/nonexistent/page.html", "/dev/null/page.html", "/tmp"] {
            let file = OutputFile::at("the page", Path::new(path), true, &[]);
            let error = file.and_then(|file| file.write(b"")).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = OutputFile::at("the page", &folder.path().join("output"), false, &[]).unwrap();
        let written = file.write_by(|part| {
            part.write_all(b"half").unwrap();
            Err(file.failed(io::ErrorKind::StorageFull.into()))
        });
        assert!(written.unwrap_err().to_string().contains("no room"));
        assert_eq!(names(folder.path()), 0);
    }
}
