//! Writing a recording, moment by moment.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::chunk::{self, Kind};
use super::error::RecordError;
use super::header::Header;
use super::memory::Piece;
use super::moment::{
    Captured, Context, Counts, EventPage, Fields, MAX_CPUS, MAX_ROOTS, encryption_bit, words_of,
};
use super::pages::MAX_PAGES;
use super::{End, MAGIC, VERSION};
use crate::codec::Put;
use crate::codec::page;
use heirloom_inspect::memory::Words;
use heirloom_inspect::paging::addr::Pfn;
use heirloom_inspect::paging::mode::CpuState;
use heirloom_inspect::snapshot::Snapshot;

/// Pages of a moment are split into chunks of about so many bytes.
const CHUNK_BYTES: usize = 1 << 18;
/// A moment that stands for itself comes when the differences since the last one are as long as that
/// was, but at least so many bytes, or when there are so many of them.
const KEY_BYTES: usize = 1 << 16;
const KEY_MOMENTS: u32 = 1 << 10;

/// The guest's tables and registers while it stands still.
#[derive(Clone, Copy, Debug)]
pub struct Capture<'a> {
    /// The tables of every address space.
    pub snapshot: &'a Snapshot,
    /// Every vCPU's registers, by its number.
    pub cpus: &'a [CpuState],
    /// Which of them reported the event, if there is one.
    pub reporting_cpu: usize,
    /// Other bytes of guest memory that judging looked at, as a [`super::ReadLog`] kept them.
    pub pieces: &'a [Piece],
}

/// Writes a recording. Each moment is in the file when the call that records it returns.
pub struct Recorder {
    name: PathBuf,
    /// It is a file that this has made: cut off by a full disk, it goes.
    is_own: bool,
    file: Box<dyn Write + Send>,
    begun: Instant,
    context: Context,
    tables: Tables,
    /// Bytes of the moment that stood for itself last, and of those since.
    key_bytes: usize,
    since_key: usize,
    moments_since_key: Option<u32>,
    moments: u64,
    bytes: u64,
}

impl Recorder {
    /// Begins a recording in a new file. One that exists is left alone, unless it is a pipe or a device.
    ///
    /// # Errors
    /// [`RecordError`] if the file exists or cannot be written.
    pub fn create(path: &Path, header: &Header) -> Result<Recorder, RecordError> {
        let create = |source| RecordError::Create {
            path: path.to_owned(),
            source,
        };
        let mut is_own = true;
        let file = match File::create_new(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let kind = path.metadata().map_err(create)?;
                if kind.is_file() {
                    let path = path.to_owned();
                    return Err(RecordError::Exists { path });
                }
                is_own = false;
                OpenOptions::new().write(true).open(path)
            }
            opened => opened,
        };
        let file = file.map_err(create)?;
        let recorder = Recorder::new(path, Box::new(file), header);
        if is_own && recorder.is_err() {
            let _ = fs::remove_file(path);
        }
        Ok(Recorder {
            is_own,
            ..recorder?
        })
    }

    /// Begins a recording in `file`, which messages call `name`.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be written.
    pub fn new(
        name: &Path,
        file: Box<dyn Write + Send>,
        header: &Header,
    ) -> Result<Recorder, RecordError> {
        let mut recorder = Recorder {
            name: name.to_owned(),
            is_own: false,
            file,
            begun: Instant::now(),
            context: Context::default(),
            tables: Tables::default(),
            key_bytes: 0,
            since_key: 0,
            moments_since_key: None,
            moments: 0,
            bytes: 0,
        };
        let mut start = MAGIC.to_vec();
        start.extend(VERSION.to_le_bytes());
        let mut contents = Vec::new();
        header.put(&mut contents);
        append(&mut start, Kind::Header, false, &contents)?;
        recorder.write(&start)?;
        Ok(recorder)
    }

    /// Moments recorded.
    pub fn moments(&self) -> u64 {
        self.moments
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records a moment: the event that the guest reported, if it reported one, and what was captured.
    ///
    /// # Errors
    /// [`RecordError`]; the recording is then readable up to the moment before, and more cannot be
    /// recorded.
    pub fn record(
        &mut self,
        event: Option<&EventPage>,
        capture: Option<Capture<'_>>,
    ) -> Result<(), RecordError> {
        let is_key = self.moments_since_key.is_none_or(|moments| {
            moments >= KEY_MOMENTS || self.since_key >= self.key_bytes.max(KEY_BYTES)
        });
        let mut chunks = Chunks::new(is_key);
        if is_key {
            self.context = Context::default();
        }
        match capture {
            Some(capture) => self.tables.put(capture.snapshot, is_key, &mut chunks)?,
            // The tables are as they were; who starts to read here must know them.
            None if is_key => self.tables.put_all(&mut chunks)?,
            None => {}
        }
        let fields = Fields {
            at: self.begun.elapsed(),
            event: event.map(words_of),
            capture: capture.as_ref().map(captured).transpose()?,
        };
        let mut contents = Vec::new();
        fields.put(&mut contents, &mut self.context);
        let file = chunks.finish(contents)?;
        if is_key {
            (self.key_bytes, self.since_key) = (file.len(), 0);
            self.moments_since_key = Some(0);
        } else {
            self.since_key += file.len();
            self.moments_since_key = self.moments_since_key.map(|moments| moments + 1);
        }
        self.write(&file)?;
        self.moments += 1;
        Ok(())
    }

    /// Ends the recording. Without this it is readable, and says that it was not ended.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be written.
    pub fn finish(mut self, end: &End) -> Result<(), RecordError> {
        let mut file = Vec::new();
        append(&mut file, Kind::End, false, &end.contents())?;
        self.write(&file)
    }

    /// Ends it without a recording: the file goes, if this has made it.
    pub fn discard(self) {
        self.remove();
    }

    fn remove(&self) {
        if self.is_own {
            // Somebody else may have removed it.
            let _ = fs::remove_file(&self.name);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.bytes += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .and_then(|()| self.file.flush())
            .map_err(|source| {
                self.remove();
                RecordError::Write {
                    name: self.name.clone(),
                    is_removed: self.is_own,
                    source,
                }
            })
    }
}

fn captured(capture: &Capture<'_>) -> Result<Captured, RecordError> {
    let roots = capture.snapshot.roots();
    let mode = capture.snapshot.mode();
    if encryption_bit(mode).is_none() {
        let bits = mode.encryption;
        return Err(too_large(format!("it has the encryption bits {bits}")));
    }
    for (count, max, what) in [
        (capture.cpus.len(), MAX_CPUS, "CPUs"),
        (roots.len(), MAX_ROOTS, "roots"),
    ] {
        if count > max {
            return Err(too_large(format!("it has {count} {what}")));
        }
    }
    Ok(Captured {
        mode: *capture.snapshot.mode(),
        cpus: capture.cpus.to_vec(),
        reporting_cpu: capture
            .reporting_cpu
            .min(capture.cpus.len().saturating_sub(1)),
        roots: roots
            .iter()
            .map(|root| (root.label, root.address))
            .collect(),
        counts: Counts::of(capture.snapshot),
        pieces: capture.pieces.to_vec(),
    })
}

fn too_large(what: String) -> RecordError {
    RecordError::TooLarge { what }
}

fn append(file: &mut Vec<u8>, kind: Kind, key: bool, contents: &[u8]) -> Result<(), RecordError> {
    chunk::append(file, kind, key, contents).map_err(|damage| too_large(damage.to_string()))
}

/// The chunks of one moment while they grow.
struct Chunks {
    file: Vec<u8>,
    /// Whether the next chunk is the first of a moment that stands for itself.
    key: bool,
    /// The pages of the next chunk, and how many they are.
    pages: Vec<u8>,
    count: u64,
}

impl Chunks {
    fn new(key: bool) -> Chunks {
        Chunks {
            file: Vec::new(),
            key,
            pages: Vec::new(),
            count: 0,
        }
    }

    /// Adds a page.
    fn page(&mut self, pfn: Pfn, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), RecordError> {
        if self.pages.len() >= CHUNK_BYTES {
            let contents = self.list();
            append(&mut self.file, Kind::Pages, self.key, &contents)?;
            self.key = false;
        }
        self.count += 1;
        self.pages.put_varint(pfn.get());
        put(&mut self.pages);
        Ok(())
    }

    /// The list of pages, which is empty afterwards.
    fn list(&mut self) -> Vec<u8> {
        let mut list = Vec::with_capacity(self.pages.len() + 4);
        list.put_varint(self.count);
        list.append(&mut self.pages);
        self.count = 0;
        list
    }

    /// The bytes for the file, of a moment with these fields.
    fn finish(mut self, mut contents: Vec<u8>) -> Result<Vec<u8>, RecordError> {
        contents.extend(self.list());
        append(&mut self.file, Kind::Moment, self.key, &contents)?;
        Ok(self.file)
    }
}

/// The table pages that a reader knows.
#[derive(Default)]
struct Tables {
    last: Option<Snapshot>,
    /// By frame; one that is used at two levels is one page.
    pages: HashMap<Pfn, Page>,
}

struct Page {
    /// Tables of the last snapshot that are in this frame.
    uses: usize,
    words: Arc<Words>,
}

impl Tables {
    /// Writes what changed against the last snapshot, or everything.
    fn put(
        &mut self,
        snapshot: &Snapshot,
        all: bool,
        chunks: &mut Chunks,
    ) -> Result<(), RecordError> {
        let touched = self.touch(snapshot);
        if self.pages.len() > MAX_PAGES {
            return Err(too_large(format!("it has {} tables", self.pages.len())));
        }
        self.last = Some(snapshot.clone());
        if all {
            self.pages.retain(|_, page| page.uses > 0);
            return self.put_all(chunks);
        }
        for (pfn, before) in touched {
            let Some(page) = self.pages.get(&pfn) else {
                continue;
            };
            if page.uses == 0 {
                self.pages.remove(&pfn);
                chunks.page(pfn, page::put_gone)?;
                continue;
            }
            // A table that is new and empty is a page, too.
            if before.as_deref() != Some(&*page.words) {
                let before = before.as_deref().unwrap_or(&page::ZERO);
                chunks.page(pfn, |out| page::put(out, before, &page.words))?;
            }
        }
        Ok(())
    }

    /// Writes every page in full.
    fn put_all(&self, chunks: &mut Chunks) -> Result<(), RecordError> {
        let sorted: BTreeMap<_, _> = self.pages.iter().collect();
        for (pfn, page) in sorted {
            chunks.page(*pfn, |out| page::put(out, &page::ZERO, &page.words))?;
        }
        Ok(())
    }

    /// Takes in a snapshot: the frames whose tables may have changed, with the words from before.
    fn touch(&mut self, snapshot: &Snapshot) -> BTreeMap<Pfn, Option<Arc<Words>>> {
        let mut touched = BTreeMap::new();
        for (before, after) in snapshot.replaced_tables(self.last.as_ref()) {
            if let Some(table) = before
                && let Some(page) = self.pages.get_mut(&table.pfn())
            {
                page.uses = page.uses.saturating_sub(1);
                let words = || Some(Arc::clone(&page.words));
                touched.entry(table.pfn()).or_insert_with(words);
            }
            if let Some(table) = after {
                let known = self.pages.get(&table.pfn());
                let old = known.map(|page| Arc::clone(&page.words));
                touched.entry(table.pfn()).or_insert(old);
                let uses = known.map_or(0, |page| page.uses) + 1;
                let words = Arc::clone(table.words());
                self.pages.insert(table.pfn(), Page { uses, words });
            }
        }
        touched
    }
}
