//! Playing a recording: its moments as they were, tables and all.

use std::time::Duration;

use super::End;
use super::chunk::{Damage, Kind};
use super::error::{Problem, ReadError};
use super::memory::RecordedMemory;
use super::moment::{Captured, Context, Counts, EventPage, Fields, page_of};
use super::opened::{Ending, Recording};
use super::pages::Pages;
use crate::codec::{Get, Malformed};
use heirloom_inspect::capture::Capturer;
use heirloom_inspect::memory::Written;
use heirloom_inspect::paging::addr::PhysAddr;
use heirloom_inspect::paging::mode::CpuState;
use heirloom_inspect::snapshot::{RootLabel, Snapshot};
use heirloom_inspect::target::Target;

/// A moment of a recording.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Position among the recording's moments.
    pub index: usize,
    /// The number that the guest gave its event; without one, the position.
    pub number: u64,
    /// Since the recording was begun.
    pub at: Duration,
    /// What the guest reported; `None` for a moment without an event.
    pub event: Option<Box<EventPage>>,
    /// `None` for an event whose tables were not captured.
    pub tables: Option<Tables>,
    /// The recorded bytes of guest memory.
    pub memory: RecordedMemory,
}

/// Tables and registers of a moment.
#[derive(Clone, Debug)]
pub struct Tables {
    /// The tables of every address space, equal to those that were captured live.
    pub snapshot: Snapshot,
    /// Every vCPU's registers, by its number.
    pub cpus: Vec<CpuState>,
    /// Which of them reported the event.
    pub reporting_cpu: usize,
}

impl Tables {
    /// The registers of the CPU that reported the event.
    pub fn cpu(&self) -> CpuState {
        self.cpus
            .get(self.reporting_cpu)
            .copied()
            .unwrap_or_default()
    }

    /// The roots that were captured, with their owners.
    pub fn roots(&self) -> Vec<(RootLabel, PhysAddr)> {
        let roots = self.snapshot.roots().iter();
        roots.map(|root| (root.label, root.address)).collect()
    }
}

impl Moment {
    /// The guest at this moment, to be inspected.
    pub(super) fn into_target(self, recording: &Recording) -> Result<Target, ReadError> {
        let Some(tables) = self.tables else {
            let number = self.number;
            return Err(recording.error(Problem::NotCaptured { number }));
        };
        let mode = tables.snapshot.mode();
        let mut notes = vec![
            "a recording holds the page tables of the recorded roots, and of other memory only what \
             was judged"
                .into(),
        ];
        if !matches!(recording.ending(), Ending::Ended(End::Done { .. })) {
            notes.push(recording.ending().to_string());
        }
        let roots = tables.roots();
        let is_told = |label| matches!(label, RootLabel::Kernel | RootLabel::Process(_));
        Ok(Target {
            name: format!("rec:{}@{}", recording.name().display(), self.number),
            memory: Box::new(self.memory),
            ram: recording.header().ram(),
            phys_bits: Some(mode.phys_bits),
            gigabyte_pages: Some(mode.gigabyte_pages),
            depth: Some(mode.depth),
            encryption: mode.encryption,
            is_recorded: roots.iter().any(|(label, _)| is_told(*label)),
            roots,
            cpus: tables.cpus,
            notes,
        })
    }
}

/// Reads moments in any order. Going forward costs what changed; going elsewhere costs at most about as
/// much as reading all tables twice. Tables that two moments of one player share are the same `Arc`.
#[derive(Debug)]
pub struct Player<'r> {
    recording: &'r Recording,
    /// The moment that was read last.
    position: Option<usize>,
    context: Context,
    pages: Pages,
    capturer: Capturer,
}

impl<'r> Player<'r> {
    pub(super) fn new(recording: &'r Recording) -> Player<'r> {
        Player {
            recording,
            position: None,
            context: Context::default(),
            pages: Pages::default(),
            capturer: Capturer::new(),
        }
    }

    /// The moment at position `index`.
    ///
    /// # Errors
    /// [`ReadError`] if there is none, or it cannot be read.
    pub fn moment(&mut self, index: usize) -> Result<Moment, ReadError> {
        self.recording.entry(index)?;
        let entries = &self.recording.entries()[..=index];
        let key = entries.iter().rposition(|entry| entry.key).unwrap_or(0);
        let start = match self.position {
            Some(position) if (key..index).contains(&position) => position + 1,
            _ => key,
        };
        // Whatever fails leaves nothing to go on from.
        self.position = None;
        for position in start..index {
            self.read(position)?;
        }
        let fields = self.read(index)?;
        self.position = Some(index);
        self.freeze(index, fields)
    }

    /// Takes in a moment's chunks.
    fn read(&mut self, position: usize) -> Result<Fields, ReadError> {
        let entry = *self.recording.entry(position)?;
        if entry.key {
            self.context = Context::default();
            self.pages.clear();
        }
        let mut at = entry.first;
        loop {
            let (chunk, contents) = self.recording.chunk(at)?;
            let malformed = |error| self.recording.damaged(at, Damage::Contradiction(error));
            let mut from = Get::new(&contents);
            let fields = match chunk.kind {
                Kind::Pages => None,
                Kind::Moment => Some(Fields::get(&mut from, &mut self.context).map_err(malformed)?),
                _ => {
                    at = chunk.next;
                    continue;
                }
            };
            self.pages
                .apply(&mut from)
                .and_then(|()| from.end())
                .map_err(malformed)?;
            if let Some(fields) = fields {
                return Ok(fields);
            }
            at = chunk.next;
        }
    }

    fn freeze(&mut self, index: usize, fields: Fields) -> Result<Moment, ReadError> {
        let entry = self.recording.entry(index)?;
        let (tables, pieces) = match fields.capture {
            Some(Captured {
                mode,
                cpus,
                reporting_cpu,
                roots,
                counts,
                pieces,
            }) => {
                let written = self.pages.written();
                let written = written
                    .as_deref()
                    .map_or(Written::Anything, Written::Frames);
                let snapshot = self
                    .capturer
                    .capture_written(&self.pages, mode, &roots, written);
                self.pages.seen();
                if Counts::of(&snapshot) != counts {
                    let found = Malformed::Value("the number of its tables");
                    return Err(self.recording.damaged(entry.last, found.into()));
                }
                let tables = Tables {
                    snapshot,
                    cpus,
                    reporting_cpu,
                };
                (Some(tables), pieces)
            }
            None => (None, Vec::new()),
        };
        let snapshot = tables.as_ref().map(|tables| tables.snapshot.clone());
        Ok(Moment {
            index,
            number: entry.number,
            at: fields.at,
            event: fields.event.map(|words| page_of(&words)),
            tables,
            memory: RecordedMemory::new(snapshot, pieces),
        })
    }
}
