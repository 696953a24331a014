//! Files that somebody packed: gzip, xz, zstd, lz4 and bzip2 around any other, and what comes through a pipe.
//!
//! What is read at any place has to lie in a file. So such a file is unpacked to a temporary one, which has no
//! name: however the process ends, nothing stays behind. Zeros, of which memory mostly consists, take no room
//! in it.

mod decoder;
mod unpack;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use decoder::Decoder;
pub use unpack::{UnpackError, Unpacking, unpacked_to};

use crate::file::FileError;
use crate::input::Input;

/// More bytes are unpacked only if the user says so.
pub(crate) const LIMIT: u64 = 256 << 30;
/// Nobody packs a file more often.
const LAYERS: usize = 4;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Xz,
    Zstd,
    Lz4,
    Bzip2,
}

impl Packing {
    /// What a file that begins with `start` is packed with.
    pub(crate) fn of(start: &[u8]) -> Option<Packing> {
        match start {
            // The three highest flags mean nothing (RFC 1952, 2.3.1).
            [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0 => Some(Packing::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Packing::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Some(Packing::Zstd)
            }
            [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => Some(Packing::Lz4),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Packing::Bzip2),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
            Packing::Lz4 => "lz4",
            Packing::Bzip2 => "bzip2",
        }
    }

    /// As [`Kind::what`](crate::content::Kind::what).
    pub(crate) fn what(self) -> &'static str {
        match self {
            Packing::Gzip => "compressed by gzip",
            Packing::Xz => "compressed by xz",
            Packing::Zstd => "compressed by zstd",
            Packing::Lz4 => "compressed by lz4",
            Packing::Bzip2 => "compressed by bzip2",
        }
    }

    fn commands(self) -> Commands {
        let (unpack, check) = match self {
            Packing::Gzip => ("gunzip", "gunzip -t"),
            Packing::Xz => ("xz -d", "xz -t"),
            // As much memory as the file may ask for.
            Packing::Zstd => ("zstd -d --long=31", "zstd -t --long=31"),
            Packing::Lz4 => ("lz4 -d", "lz4 -t"),
            Packing::Bzip2 => ("bunzip2", "bunzip2 -t"),
        };
        Commands { unpack, check }
    }
}

/// What does the same as we do.
#[derive(Clone, Copy)]
struct Commands {
    unpack: &'static str,
    check: &'static str,
}

impl Commands {
    /// For what is not packed.
    const NONE: Commands = Commands {
        unpack: "cat",
        check: "cat",
    };
}

/// How many bytes may be unpacked; `None`: [`LIMIT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpack(pub(crate) Option<u64>);

/// What goes for all files of one target that have to be unpacked.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    /// How many bytes at most.
    pub(crate) limit: u64,
    /// Is told how far it is.
    pub(crate) tell: &'a dyn Fn(&Unpacking<'_>),
}

impl Unpack {
    pub(crate) fn way(self, tell: &dyn Fn(&Unpacking<'_>)) -> Way<'_> {
        Way {
            limit: self.0.unwrap_or(LIMIT),
            tell,
        }
    }
}

impl Way<'_> {
    /// Opens `path`, which holds a `wanted`, packed or not, or standard input: its name and its bytes. `notes`
    /// say how it was packed.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn open(
        &self,
        path: &Path,
        wanted: &'static str,
        notes: &mut Vec<String>,
    ) -> Result<(String, Input), FileError> {
        if is_standard_input(path) {
            return Ok((STANDARD_INPUT.into(), self.standard_input(notes)?));
        }
        let name = path.display().to_string();
        let input = self.unpack(&name, Input::open(path, wanted)?, notes)?;
        Ok((name, input))
    }

    /// `input` unpacked, if it is packed; `notes` say so.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub(crate) fn unpack(
        &self,
        name: &str,
        mut input: Input,
        notes: &mut Vec<String>,
    ) -> Result<Input, UnpackError> {
        for _ in 0..LAYERS {
            let Some(packing) = Packing::of(&input.start()) else {
                break;
            };
            input = self.unpack_from(name, &input, 0, packing, notes)?;
        }
        Ok(input)
    }

    /// What is packed in `input` from `offset` on.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub(crate) fn unpack_from(
        &self,
        name: &str,
        input: &Input,
        offset: u64,
        packing: Packing,
        notes: &mut Vec<String>,
    ) -> Result<Input, UnpackError> {
        let reader = input.reader_at(offset);
        let total = input.length().saturating_sub(offset);
        let job = unpack::Job::new(name, packing.name(), Some(total), *self)?;
        let done = job.run(Decoder::new(packing, reader), packing.commands())?;
        notes.push(if done.is_cut {
            format!(
                "{name} is compressed by {}, and cut off: it unpacks to {} bytes, and what is behind \
                 them is unknown; copy it again to have it",
                packing.name(),
                done.length
            )
        } else {
            format!("the file is compressed by {}", packing.name())
        });
        let input = Input::of(done.file, done.length);
        Ok(if done.is_cut { input.cut() } else { input })
    }

    /// What comes through standard input, unpacked.
    ///
    /// # Errors
    /// [`UnpackError`].
    pub(crate) fn standard_input(&self, notes: &mut Vec<String>) -> Result<Input, UnpackError> {
        let name = STANDARD_INPUT;
        let failed = |source| UnpackError::Read {
            name: name.into(),
            source,
        };
        // A file that a shell has opened for us is as good as any other.
        if let Ok(file) = File::open("/dev/stdin")
            && file.metadata().is_ok_and(|about| about.is_file())
        {
            let length = file.metadata().map_err(failed)?.len();
            return self.unpack(name, Input::of(file, length), notes);
        }
        let mut stdin = io::stdin().lock();
        let mut start = Vec::new();
        let first = (&mut stdin).take(4096).read_to_end(&mut start);
        first.map_err(failed)?;
        if start.is_empty() {
            return Err(UnpackError::Empty { name: name.into() });
        }
        let packing = Packing::of(&start);
        let all = io::Cursor::new(start).chain(stdin);
        let form = packing.map_or("what comes through it", Packing::name);
        let job = unpack::Job::new(name, form, None, *self)?;
        let done = match packing {
            Some(packing) => {
                let done = job.run(Decoder::new(packing, all), packing.commands())?;
                notes.push(format!("standard input is compressed by {form}"));
                done
            }
            None => job.run(Decoder::plain(all), Commands::NONE)?,
        };
        if done.is_cut {
            notes.push(format!(
                "standard input is cut off: it unpacks to {} bytes, and what is behind them is unknown",
                done.length
            ));
        }
        let input = Input::of(done.file, done.length);
        let input = if done.is_cut { input.cut() } else { input };
        self.unpack(name, input, notes)
    }
}

/// What standard input is called.
const STANDARD_INPUT: &str = "standard input";

/// Whether a user means standard input.
pub(crate) fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdin")
}

#[cfg(test)]
mod tests;
