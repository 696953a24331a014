//! The page on disk: whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where a page will be written.
///
/// The page is written to a temporary file beside its place and then renamed, so that whoever looks sees the
/// old page or the new one, and never half of one. An earlier page of heirloom's is replaced; any other file
/// that is there already is left alone. What is no regular file, such as `/dev/stdout` or a pipe, is written
/// to as it is.
#[derive(Clone, Debug)]
pub struct PageFile {
    path: PathBuf,
}

/// Why a page cannot be written to a file.
#[derive(Debug, thiserror::Error)]
pub enum PageFileError {
    /// There is a file that must not be lost.
    #[error(
        "could not write the page {}: the file exists and is no page of heirloom's; remove it or choose \
         another name", path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system says no.
    #[error("could not write the page {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What is in every page, near its beginning.
pub(crate) const MARK: &str = "<meta name=\"generator\" content=\"heirloom\">";
/// It ends within so many bytes of a page.
const MARK_WITHIN: u64 = 4096;

impl PageFile {
    /// The file at `path`, which may be replaced if it is there.
    ///
    /// # Errors
    /// [`PageFileError::Exists`] if it may not, and [`PageFileError::Io`] if nothing can be found out about it.
    pub fn at(path: &Path) -> Result<PageFile, PageFileError> {
        let file = PageFile {
            // What is replaced is what a link leads to, not the link.
            path: fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        };
        if file.is_regular()? {
            let mut start = Vec::new();
            File::open(&file.path)
                .and_then(|open| open.take(MARK_WITHIN).read_to_end(&mut start))
                .map_err(|source| file.error(source))?;
            let is_page = start
                .windows(MARK.len())
                .any(|part| part == MARK.as_bytes());
            if !is_page && !start.is_empty() {
                return Err(PageFileError::Exists { path: file.path });
            }
        }
        Ok(file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a page that [`crate::render`] made.
    ///
    /// # Errors
    /// [`PageFileError`]; what was there before is then still there.
    pub fn write(&self, page: &str) -> Result<(), PageFileError> {
        let exists = self.path.exists();
        let is_regular = PageFile::at(&self.path)?.is_regular()?;
        let written = if exists && !is_regular {
            fs::write(&self.path, page)
        } else {
            self.replace(page)
        };
        written.map_err(|source| self.error(source))
    }

    fn replace(&self, page: &str) -> io::Result<()> {
        let directory = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut temporary = tempfile::Builder::new()
            .prefix(".heirloom-page-")
            // What the umask leaves of it, as for any new file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory)?;
        temporary.write_all(page.as_bytes())?;
        temporary.persist(&self.path)?;
        Ok(())
    }

    fn is_regular(&self) -> Result<bool, PageFileError> {
        match fs::metadata(&self.path) {
            Ok(kind) => Ok(kind.is_file()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.error(source)),
        }
    }

    fn error(&self, source: io::Error) -> PageFileError {
        PageFileError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> String {
        format!("<!doctype html>{MARK}{text}")
    }

    #[test]
    fn a_page_replaces_a_page_and_nothing_else_stays_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page.html");
        for text in ["first", "second"] {
            PageFile::at(&path).unwrap().write(&page(text)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), page(text));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        let other = directory.path().join("other");
        fs::write(&other, "").unwrap();
        assert_eq!(mode, fs::metadata(&other).unwrap().permissions().mode());
    }

    #[test]
    fn a_file_that_is_no_page_is_left_alone_even_if_it_comes_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thesis.html");
        let file = PageFile::at(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        let errors = [
            PageFile::at(&path).unwrap_err(),
            file.write(&page("new")).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, PageFileError::Exists { .. }), "{error}");
            assert!(error.to_string().contains("thesis.html"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn an_empty_file_and_a_device_are_written_to_and_a_link_stays_one() {
        let directory = tempfile::tempdir().unwrap();
        let (empty, link) = (
            directory.path().join("empty"),
            directory.path().join("link"),
        );
        fs::write(&empty, "").unwrap();
        std::os::unix::fs::symlink(&empty, &link).unwrap();
        PageFile::at(&link).unwrap().write(&page("text")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&empty).unwrap(), page("text"));
        PageFile::at(Path::new("/dev/null"))
            .unwrap()
            .write(&page(""))
            .unwrap();
    }

    #[test]
    fn where_no_file_can_be_the_error_names_it() {
        for path in ["/nonexistent/page.html", "/dev/null/page.html"] {
            let error = PageFile::at(Path::new(path))
                .and_then(|file| file.write(&page("")))
                .unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
