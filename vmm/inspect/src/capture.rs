//! Reading the tables of every address space out of guest memory, each frame once.
//!
//! A capture runs at every guest event, thousands of times, over tables that hardly change. So the
//! capturer keeps what it read, and a capture costs what changed since the last one:
//!
//! - Where the caller knows which frames were written ([`Written::Frames`]: a hypervisor's dirty log),
//!   only those are read again. Otherwise all are, and a table that holds the same bytes keeps its
//!   parsed form and its `Arc`.
//! - Entries lead strictly down a level, so tables cannot form a circle: a count of the entries (and
//!   roots) that point to a table tells exactly when nothing reaches it any more.
//! - The snapshot shares with the one before what did not change.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::budget::Budget;
use crate::frames::FrameIndex;
use crate::memory::{PhysicalMemory, Words, Written};
use crate::nodes::{Node, Nodes};
use crate::snapshot::{MissingTable, Root, RootId, RootLabel, Snapshot};
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
    /// What all snapshots pay from; `None` where each has its own.
    budget: Option<Budget>,
    /// What `nodes` were parsed for.
    mode: Option<Mode>,
    nodes: Nodes,
    index: FrameIndex,
    /// By slot.
    marks: Vec<Mark>,
    free: Vec<Slot>,
    roots: Arc<[Root]>,
    /// Slots whose frames could not be read.
    missing: BTreeSet<Slot>,
    /// Entries whose tables did not fit the last capture.
    omitted: u64,
    /// Number of the running capture; marks are compared with it.
    epoch: u32,
    /// By level, what the running capture has yet to read …
    unread: [Vec<Slot>; 5],
    /// … and what it has found that nothing points to.
    unreached: [Vec<Slot>; 5],
    buffer: Box<Words>,
}

/// Tables that are read before the budget is asked again.
const PAID_AT_ONCE: usize = 64;

/// What the capturer knows of a slot in use.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Entries and roots that point to it.
    references: u32,
    /// Last capture that read its frame.
    read: u32,
    /// The frame has had another slot, for another level.
    aliased: bool,
}

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
            // 16 GiB of tables: neither slots nor references (512 a table) run out of 32-bit numbers.
            limit: limit.min(1 << 22),
            budget: None,
            mode: None,
            nodes: Nodes::default(),
            index: FrameIndex::default(),
            marks: Vec::new(),
            free: Vec::new(),
            roots: Arc::default(),
            missing: BTreeSet::new(),
            omitted: 0,
            epoch: 0,
            unread: Default::default(),
            unreached: Default::default(),
            buffer: Box::new([0; 512]),
        }
    }

    /// Has taking snapshots and whatever is done with them pay from one budget. Where none is set, each
    /// snapshot has one of its own. A snapshot for which it did not last is not whole.
    #[must_use]
    pub fn with_budget(self, budget: Budget) -> Self {
        Capturer {
            budget: Some(budget),
            ..self
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
        self.capture_written(memory, mode, roots, Written::Anything)
    }

    /// As [`Capturer::capture`], where it is known what was written since this capturer's last capture.
    /// That costs no more than the frames that were written, the tables that are new, and a glance at
    /// each root.
    pub fn capture_written<M: PhysicalMemory + ?Sized>(
        &mut self,
        memory: &M,
        mode: Mode,
        roots: &[(RootLabel, PhysAddr)],
        written: Written<'_>,
    ) -> Snapshot {
        // What a snapshot holds must not depend on the ones before it. When not all tables fit, it
        // would: those of the last capture may have taken the place of those left out now.
        if self.mode != Some(mode) || self.omitted > 0 || self.epoch == u32::MAX {
            self.forget(mode);
        }
        let fresh = self.nodes.len() == 0;
        self.advance(memory, mode, roots, written);
        if self.omitted > 0 && !fresh {
            self.forget(mode);
            self.advance(memory, mode, roots, Written::Anything);
        }
        Snapshot::new(
            mode,
            Arc::clone(&self.roots),
            self.nodes.clone(),
            self.index.clone(),
            crate::snapshot::Counts {
                tables: self.nodes.len() - self.free.len() - self.missing.len(),
                missing: self.missing.len(),
                omitted: self.omitted,
            },
            self.budget.clone().unwrap_or_default(),
        )
    }

    fn forget(&mut self, mode: Mode) {
        *self = Capturer {
            mode: Some(mode),
            budget: self.budget.take(),
            ..Capturer::with_limit(self.limit)
        };
    }

    /// Goes from what the last capture found to what is there now, level by level: once all tables
    /// above a level are as they are now, it is certain which tables of that level are reached.
    fn advance<M: PhysicalMemory + ?Sized>(
        &mut self,
        memory: &M,
        mode: Mode,
        roots: &[(RootLabel, PhysAddr)],
        written: Written<'_>,
    ) {
        self.epoch += 1;
        self.find_written(written);
        self.take_roots(mode, roots);
        for level in Level::ALL {
            for slot in std::mem::take(&mut self.unreached[level.number()]) {
                self.give_up(slot);
            }
            for slots in std::mem::take(&mut self.unread[level.number()]).chunks(PAID_AT_ONCE) {
                let budget = self.budget.as_ref();
                if budget.is_some_and(|budget| !budget.pay(512 * slots.len() as u64)) {
                    // What is known now is no moment's; the next capture begins anew.
                    self.omitted += slots.len() as u64;
                    continue;
                }
                for slot in slots {
                    self.refresh(memory, mode, level, *slot);
                }
            }
        }
    }

    /// Lists the known tables that must be read again.
    fn find_written(&mut self, written: Written<'_>) {
        match written {
            Written::Anything => {
                for (slot, node) in self.nodes.iter() {
                    if let Some(table) = node.table() {
                        self.unread[table.level().number()].push(slot);
                    }
                }
            }
            Written::Frames(frames) => {
                for &pfn in frames {
                    for (level, slot) in self.index.uses(pfn) {
                        self.unread[level.number()].push(slot);
                    }
                }
            }
        }
        // A frame that was not there may be now, and no log tells.
        for &slot in &self.missing {
            if let Some(Node::Missing(missing)) = self.nodes.get(slot) {
                self.unread[missing.level.number()].push(slot);
            }
        }
    }

    /// Replaces the roots. Between one capture and the next few come and go, and the others keep
    /// their order: what both lists begin and end with needs no look at its tables.
    fn take_roots(&mut self, mode: Mode, roots: &[(RootLabel, PhysAddr)]) {
        let before = Arc::clone(&self.roots);
        let mut pairs = before.iter().zip(roots);
        if before.len() == roots.len()
            && pairs.all(|(old, new)| old.address == new.1 && old.label == new.0)
        {
            return;
        }
        let same = |(old, new): &(&Root, &(RootLabel, PhysAddr))| old.address == new.1;
        let first = before.iter().zip(roots).take_while(same).count();
        let last = before[first..]
            .iter()
            .rev()
            .zip(roots[first..].iter().rev());
        let last = last.take_while(same).count();
        let (old_end, new_end) = (before.len() - last, roots.len() - last);
        let slots: Vec<Option<Slot>> = roots[first..new_end]
            .iter()
            .map(|(_, address)| self.intern(address.pfn(), mode.depth.top()))
            .collect();
        self.omitted += slots.iter().filter(|slot| slot.is_none()).count() as u64;
        let slot_of = |at: usize| match at {
            at if at < first => before[at].slot,
            at if at < new_end => slots[at - first],
            at => before[at - new_end + old_end].slot,
        };
        self.roots = (0u32..)
            .zip(roots.iter().enumerate())
            .map(|(id, (at, &(label, address)))| Root {
                id: RootId(id),
                label,
                address,
                slot: slot_of(at),
            })
            .collect();
        for root in &before[first..old_end] {
            if let Some(slot) = root.slot {
                self.release(mode.depth.top(), slot);
            }
        }
    }

    /// One more reference to the table in frame `pfn` at `level`: its slot; `None` if the limit is
    /// reached.
    fn intern(&mut self, pfn: Pfn, level: Level) -> Option<Slot> {
        let slot = match self.index.slot(pfn, level) {
            Some(slot) => slot,
            None => self.add(pfn, level)?,
        };
        self.marks[slot.index()].references += 1;
        Some(slot)
    }

    /// A slot for a table that has none, to be read.
    fn add(&mut self, pfn: Pfn, level: Level) -> Option<Slot> {
        let node = Node::Missing(MissingTable { pfn, level });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.nodes.set(slot, node);
                self.marks[slot.index()] = Mark::default();
                slot
            }
            None if self.nodes.len() < self.limit => {
                self.marks.push(Mark::default());
                self.nodes.push(node)?
            }
            None => return None,
        };
        for (_, other) in self.index.uses(pfn) {
            self.marks[other.index()].aliased = true;
            self.marks[slot.index()].aliased = true;
        }
        self.index.insert(pfn, level, slot);
        self.missing.insert(slot);
        self.unread[level.number()].push(slot);
        Some(slot)
    }

    /// One reference less to the table of `level` in `slot`.
    fn release(&mut self, level: Level, slot: Slot) {
        let references = &mut self.marks[slot.index()].references;
        *references -= 1;
        if *references == 0 {
            self.unreached[level.number()].push(slot);
        }
    }

    /// Gives up a slot that nothing points to, unless something does again.
    fn give_up(&mut self, slot: Slot) {
        let node = match self.nodes.get(slot) {
            Some(node) if self.marks[slot.index()].references == 0 => node.clone(),
            _ => return,
        };
        let (pfn, level) = match &node {
            Node::Free => return,
            Node::Missing(missing) => (missing.pfn, missing.level),
            Node::Table(table) => (table.pfn(), table.level()),
        };
        self.nodes.set(slot, Node::Free);
        self.missing.remove(&slot);
        self.index.remove(pfn, level);
        self.free.push(slot);
        if let Some(table) = node.table() {
            self.release_links(table);
        }
    }

    fn release_links(&mut self, table: &Table) {
        if let Some(next) = table.level().next() {
            for below in table.links() {
                self.release(next, below);
            }
        }
    }

    /// Reads a slot's frame, and parses it unless it is what it was.
    fn refresh<M: PhysicalMemory + ?Sized>(
        &mut self,
        memory: &M,
        mode: Mode,
        level: Level,
        slot: Slot,
    ) {
        let (pfn, before) = match self.nodes.get(slot) {
            Some(Node::Missing(missing)) if missing.level == level => (missing.pfn, None),
            Some(Node::Table(table)) if table.level() == level => {
                (table.pfn(), Some(Arc::clone(table)))
            }
            // It was given up, and may have become another's.
            _ => return,
        };
        let mark = &mut self.marks[slot.index()];
        if mark.read == self.epoch {
            return;
        }
        mark.read = self.epoch;
        let shared = self.words_read_for_another_level(pfn, slot);
        let words: &Words = match &shared {
            Some(words) => words,
            None if memory.read_table(pfn, &mut self.buffer).is_ok() => &self.buffer,
            None => {
                if let Some(before) = before {
                    self.nodes
                        .set(slot, Node::Missing(MissingTable { pfn, level }));
                    self.missing.insert(slot);
                    self.release_links(&before);
                }
                return;
            }
        };
        if let Some(before) = &before
            && **before.words() == *words
        {
            return;
        }
        let words = shared.unwrap_or_else(|| Arc::new(*self.buffer));
        let mut omitted = 0;
        let table = Table::parse(pfn, level, mode, words, |index, pfn, below| {
            let known = before
                .as_ref()
                .filter(|before| before.entry(index).address().pfn() == pfn)
                .and_then(|before| before.link(index));
            let slot = match known {
                Some(slot) => {
                    self.marks[slot.index()].references += 1;
                    Some(slot)
                }
                None => self.intern(pfn, below),
            };
            omitted += u64::from(slot.is_none());
            slot
        });
        self.omitted += omitted;
        self.nodes.set(slot, Node::Table(Arc::new(table)));
        match before {
            Some(before) => self.release_links(&before),
            None => {
                self.missing.remove(&slot);
            }
        }
    }

    /// The frame's words, if this capture has already read them for a use at another level.
    fn words_read_for_another_level(&self, pfn: Pfn, slot: Slot) -> Option<Arc<Words>> {
        if !self.marks[slot.index()].aliased {
            return None;
        }
        self.index
            .uses(pfn)
            .filter(|(_, other)| *other != slot && self.marks[other.index()].read == self.epoch)
            .find_map(|(_, other)| self.nodes.get(other)?.table())
            .map(|table| Arc::clone(table.words()))
    }
}
