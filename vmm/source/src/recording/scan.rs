//! One pass over a recording's file: every checksum verified, every moment's place noted.

use std::io::{self, Read};

use super::chunk::{Damage, HEAD_BYTES, Head, Kind};
use super::error::Problem;
use super::header::Header;
use super::moment::{self, Context, number_of};
use super::opened::{Ending, Entry};
use super::{End, MAGIC, VERSION};

/// What a file holds.
pub(super) struct Scan {
    pub(super) header: Header,
    pub(super) entries: Vec<Entry>,
    pub(super) ending: Ending,
}

/// What comes next in a file.
enum Next {
    Chunk(Head, Vec<u8>),
    /// The file is over, with a whole chunk or without.
    Over {
        whole: bool,
    },
}

impl Scan {
    /// Reads `file` from its beginning to where it can be read no further.
    pub(super) fn of(mut file: impl Read) -> Result<Scan, Problem> {
        let mut start = [0; MAGIC.len() + 4];
        let length = fill(&mut file, &mut start)?;
        let magic = &start[..length.min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(Problem::Magic);
        }
        let mut at = start.len() as u64;
        if (length as u64) < at {
            let bytes = length as u64;
            return Err(Problem::NoHeader { bytes });
        }
        let [.., a, b, c, d] = start;
        let found = u32::from_le_bytes([a, b, c, d]);
        if found != VERSION {
            return Err(Problem::Version { found });
        }
        let damaged = |damage| Problem::Damaged { at, damage };
        let header = match next(&mut file, &mut at.clone())?.map_err(damaged)? {
            Next::Chunk(head, contents) if head.kind == Kind::Header => {
                at += (HEAD_BYTES + head.stored) as u64;
                Header::get(&contents).map_err(|error| Problem::Damaged {
                    at: start.len() as u64,
                    damage: error.into(),
                })?
            }
            Next::Chunk(head, _) => return Err(damaged(head.misplaced())),
            Next::Over { .. } => return Err(Problem::NoHeader { bytes: at }),
        };
        let mut scan = Scan {
            header,
            entries: Vec::new(),
            ending: Ending::Unfinished,
        };
        scan.moments(&mut file, at)?;
        Ok(scan)
    }

    /// Finds every moment, and how the file ends.
    fn moments(&mut self, file: &mut impl Read, mut at: u64) -> Result<(), Problem> {
        let mut context = Context::default();
        let mut first = None;
        let mut key = false;
        loop {
            let chunk = at;
            let step = match next(file, &mut at)? {
                Ok(Next::Over { whole: true }) => {
                    self.ending = Ending::Unfinished;
                    return Ok(());
                }
                Ok(Next::Over { whole: false }) => {
                    let bytes = at;
                    self.ending = Ending::Cut { chunk, bytes };
                    return Ok(());
                }
                Ok(Next::Chunk(head, contents)) => Ok((head, contents)),
                Err(damage) => Err(damage),
            };
            let done = step.and_then(|(head, contents)| match head.kind {
                Kind::Pages | Kind::Moment => {
                    if head.key {
                        context = Context::default();
                        key = true;
                    }
                    let start = *first.get_or_insert(chunk);
                    if head.kind == Kind::Moment {
                        let number = number(&contents, &mut context)?;
                        self.entries.push(Entry {
                            first: start,
                            last: chunk,
                            number: number.unwrap_or(self.entries.len() as u64),
                            key: key || self.entries.is_empty(),
                        });
                        (first, key) = (None, false);
                    }
                    Ok(None)
                }
                Kind::End => Ok(Some(End::get(&contents)?)),
                Kind::Header => Err(head.misplaced()),
                Kind::Other(_) => Ok(None),
            });
            match done {
                Ok(None) => {}
                Ok(Some(end)) => {
                    self.ending = Ending::Ended(end);
                    return Ok(());
                }
                Err(damage) => {
                    self.ending = Ending::Damaged { chunk, damage };
                    return Ok(());
                }
            }
        }
    }
}

/// The number of a moment's event.
fn number(contents: &[u8], context: &mut Context) -> Result<Option<u64>, Damage> {
    let (_, event, _) = moment::event(contents, context)?;
    Ok(event.map(|words| number_of(&words)))
}

/// Reads the chunk that comes next; `at` is then behind it.
fn next(file: &mut impl Read, at: &mut u64) -> io::Result<Result<Next, Damage>> {
    let mut head = [0; HEAD_BYTES];
    let length = fill(file, &mut head)?;
    *at += length as u64;
    if length < HEAD_BYTES {
        let whole = length == 0;
        return Ok(Ok(Next::Over { whole }));
    }
    let head = match Head::read(&head) {
        Ok(head) => head,
        Err(damage) => return Ok(Err(damage)),
    };
    let mut stored = vec![0; head.stored];
    let length = fill(file, &mut stored)?;
    *at += length as u64;
    if length < head.stored {
        return Ok(Ok(Next::Over { whole: false }));
    }
    // Pages are decompressed when they are played; here their checksum is enough.
    let contents = match head.kind {
        Kind::Header | Kind::Moment | Kind::End => head.contents(stored),
        Kind::Pages | Kind::Other(_) => head.verify(&stored).map(|()| Vec::new()),
    };
    Ok(contents.map(|contents| Next::Chunk(head, contents)))
}

/// Reads until `buffer` is full or the file is over: how much it was.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
