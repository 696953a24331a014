//! Reading the tables of every address space out of guest memory, each frame once.
//!
//! A capture runs at every guest event, thousands of times, over tables that hardly change. So the
//! capturer keeps what it read: a table whose 4 KiB are the same bytes as last time keeps its
//! parsed form and its `Arc`, and consecutive snapshots share almost everything.

use std::collections::HashMap;
use std::sync::Arc;

use crate::memory::{PhysicalMemory, Words};
use crate::snapshot::{MissingTable, Node, Root, RootId, RootLabel, Snapshot};
use crate::table::{Slot, Table};
use heirloom_paging::addr::{Pfn, PhysAddr};
use heirloom_paging::level::Level;
use heirloom_paging::mode::Mode;

/// Takes snapshots of one guest. Give all captures of a guest to one capturer: it is the memory
/// that makes them cheap.
#[derive(Debug)]
pub struct Capturer {
    /// Most tables that a snapshot may hold.
    limit: usize,
    /// What `nodes` were parsed for.
    mode: Option<Mode>,
    nodes: Vec<Node>,
    marks: Vec<Mark>,
    free: Vec<Slot>,
    by_frame: HashMap<Pfn, Uses>,
    /// Number of the running capture; marks are compared with it.
    epoch: u32,
    pending: Vec<Slot>,
    omitted: u64,
    buffer: Box<Words>,
}

/// What the running capture has done with a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Last capture that reached the slot.
    reached: u32,
    /// Last capture that read its frame.
    read: u32,
    /// The frame has had another slot, for another level.
    aliased: bool,
}

/// A frame's slots, by level.
type Uses = [Option<Slot>; 5];

impl Default for Capturer {
    fn default() -> Self {
        Capturer::with_limit(Capturer::DEFAULT_LIMIT)
    }
}

impl Capturer {
    /// Most tables in a snapshot unless said otherwise: 512 MiB of tables. A guest can make every
    /// frame it has a table; the host need not follow.
    pub const DEFAULT_LIMIT: usize = 1 << 17;

    /// A capturer whose snapshots hold at most [`Capturer::DEFAULT_LIMIT`] tables.
    pub fn new() -> Self {
        Capturer::default()
    }

    /// A capturer whose snapshots hold at most `limit` tables; what is beyond is counted in
    /// [`Snapshot::omitted`].
    pub fn with_limit(limit: usize) -> Self {
        Capturer {
            limit: limit.min(u32::MAX as usize),
            mode: None,
            nodes: Vec::new(),
            marks: Vec::new(),
            free: Vec::new(),
            by_frame: HashMap::new(),
            epoch: 0,
            pending: Vec::new(),
            omitted: 0,
            buffer: Box::new([0; 512]),
        }
    }

    /// Freezes every table that `roots` reach (addresses of root tables, as [`crate::Cr3::root`]
    /// gives them). The guest must stand still meanwhile if the snapshot shall be of one moment.
    ///
    /// This never fails: tables outside `memory` are evidence, in [`Snapshot::missing`].
    pub fn capture<M: PhysicalMemory + ?Sized>(
        &mut self,
        memory: &M,
        mode: Mode,
        roots: &[(RootLabel, PhysAddr)],
    ) -> Snapshot {
        if self.mode != Some(mode) || self.epoch == u32::MAX {
            self.forget();
            self.mode = Some(mode);
        }
        let fresh = self.nodes.is_empty();
        let mut frozen = self.read_all(memory, mode, roots);
        if self.omitted > 0 && !fresh {
            // Tables of the last capture may have taken the place of those left out now. What a
            // snapshot holds must not depend on the ones before it.
            self.forget();
            self.mode = Some(mode);
            frozen = self.read_all(memory, mode, roots);
        }
        Snapshot::new(mode, frozen, self.nodes.clone(), self.omitted)
    }

    fn forget(&mut self) {
        *self = Capturer::with_limit(self.limit);
    }

    fn read_all<M: PhysicalMemory + ?Sized>(
        &mut self,
        memory: &M,
        mode: Mode,
        roots: &[(RootLabel, PhysAddr)],
    ) -> Vec<Root> {
        self.epoch += 1;
        self.omitted = 0;
        let frozen = (0u32..)
            .zip(roots)
            .map(|(id, &(label, address))| {
                let slot = self.intern(address.pfn(), mode.depth.top());
                match slot {
                    Some(slot) => self.reach(slot),
                    None => self.omitted += 1,
                }
                Root {
                    id: RootId(id),
                    label,
                    address,
                    slot,
                }
            })
            .collect();
        while let Some(slot) = self.pending.pop() {
            self.refresh(memory, mode, slot);
            if let Node::Table(table) = &self.nodes[slot.index()] {
                let table = Arc::clone(table);
                for below in table.links() {
                    self.reach(below);
                }
            }
        }
        self.sweep();
        frozen
    }

    /// Puts a slot on the list of those to read, once a capture.
    fn reach(&mut self, slot: Slot) {
        let mark = &mut self.marks[slot.index()];
        if mark.reached != self.epoch {
            mark.reached = self.epoch;
            self.pending.push(slot);
        }
    }

    /// The slot for the table in frame `pfn` at `level`; `None` if the limit is reached.
    fn intern(&mut self, pfn: Pfn, level: Level) -> Option<Slot> {
        let uses = self.by_frame.get(&pfn).copied().unwrap_or_default();
        if let Some(slot) = uses[level.number()] {
            return Some(slot);
        }
        let node = Node::Missing(MissingTable { pfn, level });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot.index()] = node;
                self.marks[slot.index()] = Mark::default();
                slot
            }
            None if self.nodes.len() < self.limit => {
                let slot = Slot(u32::try_from(self.nodes.len()).ok()?);
                self.nodes.push(node);
                self.marks.push(Mark::default());
                slot
            }
            None => return None,
        };
        for other in uses.into_iter().flatten() {
            self.marks[other.index()].aliased = true;
            self.marks[slot.index()].aliased = true;
        }
        self.by_frame.entry(pfn).or_default()[level.number()] = Some(slot);
        Some(slot)
    }

    /// Reads a slot's frame, and parses it unless it is what it was.
    fn refresh<M: PhysicalMemory + ?Sized>(&mut self, memory: &M, mode: Mode, slot: Slot) {
        let (pfn, level, before) = match &self.nodes[slot.index()] {
            Node::Free => return,
            Node::Missing(missing) => (missing.pfn, missing.level, None),
            Node::Table(table) => (table.pfn(), table.level(), Some(Arc::clone(table))),
        };
        self.marks[slot.index()].read = self.epoch;
        // A table that is still here was read by the capture just before this one: what that did
        // not reach is gone.
        if let Some(before) = &before
            && !before.is_cut()
            && memory.is_unchanged(pfn)
        {
            return;
        }
        let shared = self.words_read_for_another_level(pfn, slot);
        let words: &Words = match &shared {
            Some(words) => words,
            None if memory.read_table(pfn, &mut self.buffer).is_ok() => &self.buffer,
            None => {
                self.nodes[slot.index()] = Node::Missing(MissingTable { pfn, level });
                return;
            }
        };
        if let Some(before) = before
            && **before.words() == *words
            && !before.is_cut()
        {
            return;
        }
        let words = shared.unwrap_or_else(|| Arc::new(*self.buffer));
        let mut omitted = 0;
        let table = Table::parse(pfn, level, mode, words, |pfn, level| {
            let slot = self.intern(pfn, level);
            omitted += u64::from(slot.is_none());
            slot
        });
        self.omitted += omitted;
        self.nodes[slot.index()] = Node::Table(Arc::new(table));
    }

    /// The frame's words, if this capture has already read them for a use at another level.
    fn words_read_for_another_level(&self, pfn: Pfn, slot: Slot) -> Option<Arc<Words>> {
        if !self.marks[slot.index()].aliased {
            return None;
        }
        let others = self.by_frame.get(&pfn)?.iter().flatten();
        others
            .filter(|other| **other != slot && self.marks[other.index()].read == self.epoch)
            .find_map(|other| match &self.nodes[other.index()] {
                Node::Table(table) => Some(Arc::clone(table.words())),
                Node::Free | Node::Missing(_) => None,
            })
    }

    /// Gives up what this capture did not reach. A table that stays points only to slots that were
    /// reached with it, so a slot that is free has nothing pointing to it.
    fn sweep(&mut self) {
        for (number, node) in (0u32..).zip(&mut self.nodes) {
            if self.marks[number as usize].reached == self.epoch {
                continue;
            }
            let (pfn, level) = match node {
                Node::Free => continue,
                Node::Missing(missing) => (missing.pfn, missing.level),
                Node::Table(table) => (table.pfn(), table.level()),
            };
            *node = Node::Free;
            self.free.push(Slot(number));
            if let Some(uses) = self.by_frame.get_mut(&pfn) {
                uses[level.number()] = None;
                if uses.iter().all(Option::is_none) {
                    self.by_frame.remove(&pfn);
                }
            }
        }
    }
}
