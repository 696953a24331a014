//! The three ways to a live guest's memory, best first.
//!
//! - *file*: QEMU has its RAM in a file that it maps shared (`memory-backend-file,share=on`,
//!   `memory-backend-memfd`). The file is mapped here, too.
//! - *process*: QEMU's own memory is read, at the address that the monitor tells (`gpa2hva`).
//! - *pmemsave*: QEMU writes its memory into files that it is given open, so that neither a container
//!   nor another user stands between. They have no name and need not be removed.
//!
//! Each range of memory takes the first way that works. What is read there is held against what the
//! monitor shows (`xp`), so that a wrong process or a wrong offset is not believed.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;

use heirloom_inspect::{PhysAddr, PhysRange};
use nix::unistd::Pid;

use super::connection::{Connection, QmpError};
use super::flat_view::MemoryRange;
use super::monitor::Monitor;
use super::process::{self, InFile, MappedArea};
use crate::memory::{Layout, Memory, Piece, ProcessSource, Source};

/// A way to read a live guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    File,
    Process,
    Save,
}

impl Way {
    pub(super) const ALL: [Way; 3] = [Way::File, Way::Process, Way::Save];

    /// What users call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Way::File => "file",
            Way::Process => "process",
            Way::Save => "pmemsave",
        }
    }
}

/// Why a way does not lead to a range of memory.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its variant is")]
pub enum WayError {
    #[error(
        "file: its RAM is no shared mapping of a file that may be opened (start it with `-object \
         memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram`)"
    )]
    NoFile,
    #[error(
        "process: the process at the other end of the socket is not known, or not QEMU (run heirloom \
         outside of containers, on QEMU's host)"
    )]
    NoProcess,
    #[error(
        "process: process {pid} may not be read: {source} (run heirloom as root or as QEMU's user; \
         where /proc/sys/kernel/yama/ptrace_scope is not 0, as root)"
    )]
    Denied { pid: Pid, source: io::Error },
    #[error(
        "{way}: what is read at {at} is not what QEMU's monitor shows there (is another process behind \
         the socket?)"
    )]
    Differs { way: &'static str, at: PhysAddr },
    #[error("pmemsave: no file to save to: {0} (set TMPDIR to a directory with room)")]
    NoTemporary(io::Error),
    #[error(
        "pmemsave: QEMU {0} (it was given an open file in TMPDIR, which needs room for all of its RAM; \
         its sandbox may forbid that)"
    )]
    Save(QmpError),
    #[error("pmemsave: QEMU wrote {written} of {bytes} bytes (is there room in TMPDIR?)")]
    SavedShort { written: u64, bytes: u64 },
    #[error("asking QEMU: its socket {0}")]
    Qmp(#[from] QmpError),
}

/// The guest's memory in the making.
pub(super) struct Reach<'a> {
    connection: &'a Connection,
    allowed: Option<Way>,
    process: Result<(Pid, Vec<MappedArea>), WayError>,
    pieces: Vec<Piece>,
    sources: Vec<Source>,
    /// Of the sources: device and inode of a file, `None` for others.
    files: Vec<Option<(u64, u64)>>,
    /// How RAM is read, each way once.
    ways: Vec<String>,
}

impl<'a> Reach<'a> {
    /// Looks for the process; `threads` are those of its vCPUs, as it knows them. `allowed` is the only
    /// way to take, or any.
    pub(super) fn new(
        connection: &'a Connection,
        threads: &[Pid],
        allowed: Option<Way>,
    ) -> Reach<'a> {
        // Who listens need not be who answers: libvirt opens the socket for QEMU. In a container
        // QEMU's thread numbers mean nothing here. Which of the two it is shows when memory is read.
        let of_thread = threads.first().copied().and_then(process::process_of);
        let candidates: Vec<Pid> = [of_thread, connection.peer()]
            .into_iter()
            .flatten()
            .collect();
        Reach {
            connection,
            allowed,
            process: Reach::find_process(connection, &candidates),
            pieces: Vec::new(),
            sources: Vec::new(),
            files: Vec::new(),
            ways: Vec::new(),
        }
    }

    /// Of the candidates the one that has memory where QEMU has the guest's first byte.
    fn find_process(
        connection: &Connection,
        candidates: &[Pid],
    ) -> Result<(Pid, Vec<MappedArea>), WayError> {
        let mut failure = WayError::NoProcess;
        let Some(address) = Monitor(connection).host_address(PhysAddr::new(0))? else {
            return Err(failure);
        };
        for pid in candidates {
            match process::areas(*pid) {
                Ok(areas) if process::maps(&areas, address, 8) => return Ok((*pid, areas)),
                Ok(_) => {}
                Err(source) => failure = WayError::Denied { pid: *pid, source },
            }
        }
        Err(failure)
    }

    /// Makes a range of guest memory readable, by the first allowed way that works.
    ///
    /// # Errors
    /// Why each of them does not.
    pub(super) fn add(&mut self, range: &MemoryRange) -> Result<(), Vec<WayError>> {
        let mut failures = Vec::new();
        let allowed = self.allowed;
        let address = self
            .host_address(range.range)
            .map_err(|error| vec![error.into()])?;
        for way in Way::ALL
            .into_iter()
            .filter(|way| allowed.is_none_or(|allowed| allowed == *way))
        {
            let tried = match way {
                Way::File => self.by_file(range, address),
                Way::Process => self.by_process(range.range, address),
                Way::Save => self.by_saving(range.range),
            };
            match tried {
                Ok((piece, how)) => {
                    log::debug!(
                        "guest memory at {:#x}–{:#x} ({}): {how}",
                        range.range.start,
                        range.range.end(),
                        range.region
                    );
                    if range.is_ram() && !self.ways.contains(&how) {
                        self.ways.push(how);
                    }
                    self.pieces.push(piece);
                    return Ok(());
                }
                Err(error) => {
                    log::debug!("guest memory at {:#x}: {error}", range.range.start);
                    failures.push(error);
                }
            }
        }
        Err(failures)
    }

    /// How RAM is read, in a sentence.
    pub(super) fn summary(&self) -> String {
        let summary = format!("RAM is read from {}", self.ways.join(", and from "));
        log::info!("{summary}");
        summary
    }

    /// The memory of all ranges that were added.
    pub(super) fn finish(self) -> Memory {
        Memory::new(Layout::of(self.pieces), self.sources)
    }

    fn by_file(
        &mut self,
        range: &MemoryRange,
        address: Option<u64>,
    ) -> Result<(Piece, String), WayError> {
        let found = match (&self.process, address) {
            (Ok((pid, areas)), Some(address)) => {
                process::shared_file(*pid, areas, address, range.range.bytes)
            }
            // Its process may not be looked at, but the file that it names maybe may.
            _ => self.named_file(range),
        };
        let found = found.ok_or(WayError::NoFile)?;
        let range = range.range;
        let how = format!("the shared file {}", found.path);
        let known = self
            .files
            .iter()
            .position(|identity| *identity == Some(found.identity));
        let source = known.unwrap_or(self.sources.len());
        if known.is_none() {
            self.sources.push(Source::file(found.file, found.length));
            self.files.push(Some(found.identity));
        }
        let piece = Piece::new(range, source, found.offset);
        self.check(Way::File, piece)?;
        Ok((piece, how))
    }

    /// The file that QEMU says the range is in.
    fn named_file(&self, range: &MemoryRange) -> Option<InFile> {
        let (path, begin) = Monitor(self.connection).backend_file(&range.region)?;
        let offset = begin.checked_add(range.offset)?;
        let (file, _) = crate::file::open(&path, "file of guest memory").ok()?;
        InFile::new(file, path.display().to_string(), offset, range.range.bytes)
    }

    fn by_process(
        &mut self,
        range: PhysRange,
        address: Option<u64>,
    ) -> Result<(Piece, String), WayError> {
        let (pid, areas) = match &self.process {
            Ok((pid, areas)) => (*pid, areas),
            Err(WayError::Denied { pid, source }) => {
                // An error that is kept is told again for each range.
                let source = io::Error::from(source.kind());
                return Err(WayError::Denied { pid: *pid, source });
            }
            Err(_) => return Err(WayError::NoProcess),
        };
        let address = address
            .filter(|address| process::maps(areas, *address, range.bytes))
            .ok_or(WayError::NoProcess)?;
        let source = ProcessSource::new(pid, process::is_anonymous(areas, address, range.bytes));
        source
            .try_read(address, &mut [0])
            .map_err(|error| WayError::Denied {
                pid,
                source: error.into(),
            })?;
        self.sources.push(Source::Process(source));
        self.files.push(None);
        let piece = Piece::new(range, self.sources.len() - 1, address);
        self.check(Way::Process, piece)?;
        Ok((piece, format!("the memory of process {pid}")))
    }

    fn by_saving(&mut self, range: PhysRange) -> Result<(Piece, String), WayError> {
        let file = tempfile::tempfile().map_err(WayError::NoTemporary)?;
        // QEMU opens it again, by its own link to it, maybe as another user.
        file.set_permissions(Permissions::from_mode(0o666))
            .map_err(WayError::NoTemporary)?;
        let given = self.connection.give(&file).map_err(WayError::Save)?;
        let number = given.get("fd").and_then(serde_json::Value::as_i64);
        let set = given.get("fdset-id").and_then(serde_json::Value::as_i64);
        let (Some(number), Some(set)) = (number, set) else {
            return Err(WayError::Save(QmpError::Nonsense {
                command: "add-fd".into(),
                said: given.to_string(),
            }));
        };
        let saved = Monitor(self.connection).save(range, &format!("/proc/self/fd/{number}"));
        let taken_back = self
            .connection
            .ask("remove-fd", serde_json::json!({ "fdset-id": set }));
        saved.map_err(WayError::Save)?;
        taken_back.map_err(WayError::Save)?;
        let written = file.metadata().map_err(WayError::NoTemporary)?.len();
        if written != range.bytes {
            return Err(WayError::SavedShort {
                written,
                bytes: range.bytes,
            });
        }
        self.sources.push(Source::file(file, written));
        self.files.push(None);
        let piece = Piece::new(range, self.sources.len() - 1, 0);
        self.check(Way::Save, piece)?;
        Ok((piece, "files that QEMU saved it to (pmemsave)".to_string()))
    }

    /// Where QEMU has the range, if it has it in one piece.
    fn host_address(&self, range: PhysRange) -> Result<Option<u64>, QmpError> {
        let monitor = Monitor(self.connection);
        let last = range.bytes - 1;
        let first = monitor.host_address(range.start)?;
        let end = monitor.host_address(range.start.wrapping_add(last))?;
        Ok(first.filter(|first| first.checked_add(last) == end))
    }

    /// Holds some words of the piece against what the monitor shows. The guest stands still.
    fn check(&self, way: Way, piece: Piece) -> Result<(), WayError> {
        const PROBES: u64 = 2;
        let range = piece.range();
        let source = self.sources.get(piece.source());
        for part in 0..=PROBES {
            let at = range
                .start
                .wrapping_add((range.bytes.saturating_sub(16) / PROBES * part) & !7);
            let Some(shown) = Monitor(self.connection).words::<2>(at)? else {
                continue;
            };
            let mut read = [0; 16];
            let is_read = source.is_some_and(|source| source.read(piece.offset_of(at), &mut read));
            if !is_read || read.as_chunks() != (&shown.map(u64::to_le_bytes)[..], &[][..]) {
                return Err(WayError::Differs {
                    way: way.name(),
                    at,
                });
            }
        }
        Ok(())
    }
}
