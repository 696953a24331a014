//! An opened recording: where its moments are in the file, and what they tell.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::End;
use super::chunk::{Damage, HEAD_BYTES, Head, Kind};
use super::error::{Problem, ReadError};
use super::header::Header;
use super::moment::{self, Context, EventPage, page_of};
use super::player::{Moment, Player};
use super::scan::Scan;
use heirloom_inspect::target::Target;

/// How a recording ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was ended, because the run was.
    Ended(End),
    /// It ends with a whole chunk and was not ended: the run still goes on, or its writer was stopped.
    Unfinished,
    /// It ends in the middle of the chunk that starts at byte `chunk`.
    Cut {
        /// Where the chunk starts.
        chunk: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The chunk that starts at byte `chunk` is damaged, and what comes after it is not read.
    Damaged {
        /// Where the chunk starts.
        chunk: u64,
        /// What is wrong with it.
        damage: Damage,
    },
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Ended(End::Done { status: 0 }) => write!(f, "the run came to its end"),
            Ending::Ended(End::Done { status }) => {
                write!(f, "the run came to its end, with status {status:#x}")
            }
            Ending::Ended(End::Failed { message, .. }) => write!(f, "the run failed: {message}"),
            Ending::Unfinished => write!(
                f,
                "the recording was not ended: the run still goes on, or it was stopped at once"
            ),
            Ending::Cut { chunk, bytes } => write!(
                f,
                "the recording is cut: it ends after {bytes} bytes, in the middle of the chunk that \
                 starts at byte {chunk}"
            ),
            Ending::Damaged { chunk, damage } => {
                write!(f, "the recording is damaged at byte {chunk}: {damage}")
            }
        }
    }
}

/// A moment's place in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its first chunk, and the last, which holds everything but some of the pages.
    pub(super) first: u64,
    pub(super) last: u64,
    /// The number that the guest gave its event; without one, how many moments came before.
    pub(super) number: u64,
    /// It can be read without those before it.
    pub(super) key: bool,
}

/// An event of a recording, as a list shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Position among the recording's moments.
    pub index: usize,
    /// What `rec:FILE@NUMBER` names it by: the number that the guest gave its event, or without an
    /// event the position.
    pub number: u64,
    /// Since the recording was begun.
    pub at: Duration,
    /// `None` for a moment without an event.
    pub event: Option<Box<EventPage>>,
    /// Whether tables were recorded with it.
    pub captured: bool,
}

/// Bytes at a position.
#[derive(Debug)]
enum Source {
    File(File),
    Bytes(Vec<u8>),
}

impl Source {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Source::File(file) => file.read_exact_at(buffer, at),
            Source::Bytes(bytes) => usize::try_from(at)
                .ok()
                .and_then(|at| bytes.get(at..)?.get(..buffer.len()))
                .map(|bytes| buffer.copy_from_slice(bytes))
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A recording, of which everything up to its end, or to the first damage, can be read. What is written
/// to the file later is not seen; open it again.
#[derive(Debug)]
pub struct Recording {
    name: PathBuf,
    source: Source,
    header: Header,
    entries: Vec<Entry>,
    ending: Ending,
}

impl Recording {
    /// Opens a recording and verifies every checksum.
    ///
    /// # Errors
    /// [`ReadError`] if it is none, or its header cannot be read. A recording that is cut or damaged
    /// later opens; see [`Recording::ending`].
    pub fn open(path: &Path) -> Result<Recording, ReadError> {
        let open = || -> Result<Recording, Problem> {
            // Asked by path first: opening a pipe would wait for its other end.
            if !fs::metadata(path)?.is_file() {
                return Err(Problem::NotAFile);
            }
            let file = File::open(path)?;
            let scan = Scan::of(BufReader::with_capacity(1 << 16, &file))?;
            Ok(Recording::scanned(path, Source::File(file), scan))
        };
        open().map_err(|problem| ReadError {
            name: path.to_owned(),
            problem,
        })
    }

    /// Opens a recording that is in memory; messages call it `name`.
    ///
    /// # Errors
    /// As [`Recording::open`].
    pub fn from_bytes(name: &Path, bytes: Vec<u8>) -> Result<Recording, ReadError> {
        match Scan::of(&*bytes) {
            Ok(scan) => Ok(Recording::scanned(name, Source::Bytes(bytes), scan)),
            Err(problem) => Err(ReadError {
                name: name.to_owned(),
                problem,
            }),
        }
    }

    fn scanned(name: &Path, source: Source, scan: Scan) -> Recording {
        let Scan {
            header,
            entries,
            ending,
        } = scan;
        Recording {
            name: name.to_owned(),
            source,
            header,
            entries,
            ending,
        }
    }

    /// What was recorded.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// How the recording ends.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// How many moments can be read.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no moment can be read.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The position of the event that the guest gave this number; of several, the first.
    ///
    /// # Errors
    /// [`Problem::NoEvent`], and [`Problem::Empty`] for a recording without any.
    pub fn position(&self, number: u64) -> Result<usize, ReadError> {
        let found = self.entries.iter().position(|entry| entry.number == number);
        found.ok_or_else(|| {
            self.error(match (self.entries.first(), self.entries.last()) {
                (Some(first), Some(last)) => Problem::NoEvent {
                    wanted: number,
                    first: first.number,
                    last: last.number,
                },
                _ => self.nothing(),
            })
        })
    }

    /// Every moment in order, without its tables.
    pub fn events(&self) -> impl Iterator<Item = Result<Listed, ReadError>> {
        let mut context = Context::default();
        let mut failed = false;
        self.entries
            .iter()
            .enumerate()
            .map_while(move |(index, entry)| {
                if failed {
                    return None;
                }
                let listed = self.listed(index, entry, &mut context);
                failed = listed.is_err();
                Some(listed)
            })
    }

    fn listed(
        &self,
        index: usize,
        entry: &Entry,
        context: &mut Context,
    ) -> Result<Listed, ReadError> {
        if entry.key {
            *context = Context::default();
        }
        let (_, contents) = self.chunk(entry.last)?;
        let (at, event, captured) = moment::event(&contents, context)
            .map_err(|error| self.damaged(entry.last, error.into()))?;
        Ok(Listed {
            index,
            number: entry.number,
            at,
            event: event.map(|words| page_of(&words)),
            captured,
        })
    }

    /// The moment at position `index`, with its tables. To look at several, use one [`Player`]: it
    /// keeps what it has read.
    ///
    /// # Errors
    /// [`ReadError`] if there is none, or it cannot be read.
    pub fn moment(&self, index: usize) -> Result<Moment, ReadError> {
        self.player().moment(index)
    }

    /// Every moment in order, with its tables. Tables that stay are the same `Arc`.
    pub fn moments(&self) -> impl Iterator<Item = Result<Moment, ReadError>> {
        let mut player = self.player();
        let mut failed = false;
        (0..self.entries.len()).map_while(move |index| {
            if failed {
                return None;
            }
            let moment = player.moment(index);
            failed = moment.is_err();
            Some(moment)
        })
    }

    /// Something that plays the recording, from anywhere.
    pub fn player(&self) -> Player<'_> {
        Player::new(self)
    }

    /// The guest at an event, to be inspected like any other: the event with this number, or the last
    /// moment whose tables were recorded.
    ///
    /// # Errors
    /// [`ReadError`] if there is none, or it cannot be read.
    pub fn target_at(&self, number: Option<u64>) -> Result<Target, ReadError> {
        let mut player = self.player();
        let mut index = match number {
            Some(number) => self.position(number)?,
            None => self.entries.len().saturating_sub(1),
        };
        // Seldom a step: an event without tables is a crash before the kernel was up.
        while number.is_none() && index > 0 && !self.has_capture(index)? {
            index -= 1;
        }
        player.moment(index)?.into_target(self)
    }

    /// Whether the moment at `index` has tables, without those of others.
    fn has_capture(&self, index: usize) -> Result<bool, ReadError> {
        let entry = self.entry(index)?;
        let (_, contents) = self.chunk(entry.last)?;
        // Parts are the first thing that a moment tells; what the event was does not matter.
        moment::event(&contents, &mut Context::default())
            .map(|(_, _, captured)| captured)
            .map_err(|error| self.damaged(entry.last, error.into()))
    }

    /// The error that the event with this number is none that its reader understands, and why.
    pub fn not_understood(&self, number: u64, reason: impl fmt::Display) -> ReadError {
        let reason = reason.to_string();
        self.error(Problem::Event { number, reason })
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn entry(&self, index: usize) -> Result<&Entry, ReadError> {
        self.entries.get(index).ok_or_else(|| {
            let last = self.entries.len().checked_sub(1);
            self.error(match last {
                Some(last) => Problem::NoEvent {
                    wanted: index as u64,
                    first: 0,
                    last: last as u64,
                },
                None => self.nothing(),
            })
        })
    }

    /// Reads the chunk at byte `at`, and where the next one is. The file may have changed since it was
    /// opened, so everything is verified again.
    pub(super) fn chunk(&self, at: u64) -> Result<(ChunkEnd, Vec<u8>), ReadError> {
        let mut head = [0; HEAD_BYTES];
        let io = |error: io::Error| self.error(error.into());
        self.source.read_at(at, &mut head).map_err(io)?;
        let head = Head::read(&head).map_err(|damage| self.damaged(at, damage))?;
        let mut stored = vec![0; head.stored];
        let body = at + HEAD_BYTES as u64;
        self.source.read_at(body, &mut stored).map_err(io)?;
        let contents = head
            .contents(stored)
            .map_err(|damage| self.damaged(at, damage))?;
        let next = body + head.stored as u64;
        let kind = head.kind;
        Ok((ChunkEnd { kind, next }, contents))
    }

    pub(super) fn damaged(&self, at: u64, damage: Damage) -> ReadError {
        self.error(Problem::Damaged { at, damage })
    }

    pub(super) fn error(&self, problem: Problem) -> ReadError {
        ReadError {
            name: self.name.clone(),
            problem,
        }
    }

    fn nothing(&self) -> Problem {
        let ending = self.ending.to_string();
        Problem::Empty { ending }
    }
}

/// What a chunk was, and where the next one starts.
pub(super) struct ChunkEnd {
    pub(super) kind: Kind,
    pub(super) next: u64,
}
