//! Unpacking to a temporary file without a name.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::fstatvfs;

use super::decoder::Decoder;
use super::{Commands, Way};

/// How much is unpacked between two looks at how far it is.
const BLOCK: usize = 1 << 20;
/// What is zero is left out in parts of this size.
const PAGE: usize = 4096;
/// How much is written between two looks at the room that is left.
const STEP: u64 = 64 << 20;

/// Why a file cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum UnpackError {
    #[error("could not read {name}: {source}; check where it comes from")]
    Read { name: String, source: io::Error },
    #[error("nothing comes through {name}: check the command that writes to it")]
    Empty { name: String },
    #[error(
        "{name} is compressed by {form}, and cannot be unpacked: {what}; copy it again, until `{check}` \
         finds it whole"
    )]
    Damaged {
        name: String,
        form: &'static str,
        what: String,
        check: &'static str,
    },
    #[error(
        "{name} is compressed by {form}, and needs more memory to be unpacked than is taken for \
         it: unpack it with `{command}` and give the result"
    )]
    Memory {
        name: String,
        form: &'static str,
        command: &'static str,
    },
    #[error(
        "{name} unpacks to more than {limit} bytes, and no more are unpacked unless it is said: give \
         unpack=SIZE behind it, such as unpack={more}G"
    )]
    TooLong { name: String, limit: u64, more: u64 },
    #[error(
        "{name} takes {bytes} bytes on a disk when it is unpacked, and {folder} has room for {room}: make \
         room there, or name another folder in TMPDIR"
    )]
    NoRoom {
        name: String,
        bytes: u64,
        folder: PathBuf,
        room: u64,
    },
    #[error("could not write to {folder}: {source}; name another folder in TMPDIR")]
    Write { folder: PathBuf, source: io::Error },
}

/// How far a file is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Unpacking<'a> {
    /// The file.
    pub name: &'a str,
    /// Bytes that are unpacked.
    pub unpacked: u64,
    /// Bytes of the file that are read.
    pub read: u64,
    /// Bytes that it has, if that is known.
    pub total: Option<u64>,
}

/// A file that is being unpacked.
pub(super) struct Job<'a> {
    name: &'a str,
    form: &'static str,
    /// Of the packed file.
    total: Option<u64>,
    way: Way<'a>,
    file: File,
    folder: PathBuf,
    /// Asks how many bytes may be written.
    room: fn(&File) -> u64,
}

/// A file that is unpacked.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) file: File,
    pub(super) length: u64,
    /// The packed file ends too early.
    pub(super) is_cut: bool,
}

/// How many bytes can still be written where `file` is.
fn room(file: &File) -> u64 {
    fstatvfs(file).map_or(u64::MAX, |about| {
        about
            .blocks_available()
            .saturating_mul(about.fragment_size())
    })
}

/// The folder in which what has to be unpacked gets a file: where there is mostly more room than in /tmp, which is
/// memory on many machines.
pub fn unpacked_to() -> PathBuf {
    folder_of(std::env::var_os("TMPDIR").as_deref(), Path::new("/var/tmp"))
}

fn folder_of(wanted: Option<&OsStr>, large: &Path) -> PathBuf {
    match wanted {
        Some(wanted) if !wanted.is_empty() => wanted.into(),
        _ if large.is_dir() => large.into(),
        _ => std::env::temp_dir(),
    }
}

impl<'a> Job<'a> {
    pub(super) fn new(
        name: &'a str,
        form: &'static str,
        total: Option<u64>,
        way: Way<'a>,
    ) -> Result<Job<'a>, UnpackError> {
        let folder = unpacked_to();
        let file = tempfile::tempfile_in(&folder).map_err(|source| UnpackError::Write {
            folder: folder.clone(),
            source,
        })?;
        Ok(Job {
            name,
            form,
            total,
            way,
            file,
            folder,
            room,
        })
    }

    #[cfg(test)]
    pub(super) fn with_room(self, room: fn(&File) -> u64) -> Job<'a> {
        Job { room, ..self }
    }

    /// Unpacks all that `decoder` has.
    pub(super) fn run<R: Read>(
        self,
        mut decoder: Decoder<R>,
        commands: Commands,
    ) -> Result<Done, UnpackError> {
        let limit = self.way.limit;
        let mut block = vec![0; BLOCK];
        let (mut length, mut data) = (0_u64, 0_u64);
        // What may be written until the next look at the room; `None`: there is no room, and only
        // counting goes on.
        let mut allowed = Some(0_u64);
        let mut first_room = None;
        let is_cut = loop {
            let (have, error) = fill(&mut decoder, &mut block);
            for (number, page) in block[..have].chunks(PAGE).enumerate() {
                if is_zero(page) {
                    continue;
                }
                data += page.len() as u64;
                let at = length + (number * PAGE) as u64;
                allowed = self.write(page, at, allowed, &mut first_room)?;
            }
            length += have as u64;
            if length > limit {
                return Err(UnpackError::TooLong {
                    name: self.name.into(),
                    limit,
                    more: (limit >> 30).saturating_mul(2).max(1),
                });
            }
            (self.way.tell)(&Unpacking {
                name: self.name,
                unpacked: length,
                read: decoder.bytes_read(),
                total: self.total,
            });
            match error {
                Some(source) if decoder.source_failed() => {
                    let name = self.name.into();
                    return Err(UnpackError::Read { name, source });
                }
                Some(_) if decoder.ended_early() && length > 0 => break true,
                Some(error) => return Err(self.damaged(&error, commands)),
                None if have == 0 => break !decoder.is_whole(),
                None => {}
            }
        };
        if allowed.is_none() {
            return Err(UnpackError::NoRoom {
                name: self.name.into(),
                bytes: data,
                folder: self.folder,
                room: first_room.unwrap_or(0),
            });
        }
        if length == 0 {
            return Err(UnpackError::Empty {
                name: self.name.into(),
            });
        }
        let written = self.file.set_len(length);
        written.map_err(|source| UnpackError::Write {
            folder: self.folder,
            source,
        })?;
        Ok(Done {
            file: self.file,
            length,
            is_cut,
        })
    }

    fn damaged(&self, error: &io::Error, commands: Commands) -> UnpackError {
        let name = self.name.into();
        let form = self.form;
        let text = error.to_string();
        // Both decoders that have a bound say so in words only.
        let is_memory = error.kind() == io::ErrorKind::OutOfMemory
            || text.contains("mem_limit")
            || text.contains("window");
        if is_memory {
            return UnpackError::Memory {
                name,
                form,
                command: commands.unpack,
            };
        }
        UnpackError::Damaged {
            name,
            form,
            what: text,
            check: commands.check,
        }
    }

    /// Writes `page`, if there is room: what may be written behind it.
    fn write(
        &self,
        page: &[u8],
        at: u64,
        allowed: Option<u64>,
        first_room: &mut Option<u64>,
    ) -> Result<Option<u64>, UnpackError> {
        let Some(mut allowed) = allowed else {
            return Ok(None);
        };
        let bytes = page.len() as u64;
        if allowed < bytes {
            let room = (self.room)(&self.file);
            first_room.get_or_insert(room);
            if room < STEP {
                return Ok(self.only_count());
            }
            allowed = STEP.min(room / 2);
        }
        match self.file.write_all_at(page, at) {
            Ok(()) => Ok(Some(allowed - bytes)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::FileTooLarge
                ) =>
            {
                Ok(self.only_count())
            }
            Err(source) => Err(UnpackError::Write {
                folder: self.folder.clone(),
                source,
            }),
        }
    }

    /// Gives back what was taken: others need it, too.
    fn only_count(&self) -> Option<u64> {
        let _ = self.file.set_len(0);
        None
    }
}

/// Reads until `block` is full, the end or an error.
fn fill(reader: &mut impl Read, block: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut have = 0;
    while have < block.len() {
        match reader.read(&mut block[have..]) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (have, Some(error)),
        }
    }
    (have, None)
}

fn is_zero(page: &[u8]) -> bool {
    let (words, rest) = page.as_chunks::<32>();
    let words = words.iter().all(|word| *word == [0; 32]);
    words && rest.iter().all(|byte| *byte == 0)
}
