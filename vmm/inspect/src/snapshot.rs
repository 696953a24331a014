//! The page tables of all address spaces at one moment: immutable, and cheap to keep.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::budget::Budget;
use crate::frames::FrameIndex;
use crate::nodes::{Node, Nodes};
use crate::sharing::Parent;
use crate::table::{Slot, Table};
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr};
use heirloom_paging::level::Level;
use heirloom_paging::mode::Mode;
use heirloom_paging::walk::{Unreadable, Walk, translate};

/// Which of a snapshot's roots; only for the snapshot that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RootId(pub(crate) u32);

/// Whose address space a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootLabel {
    /// The kernel's own, from which the first process inherits.
    Kernel,
    /// That of the process with this number.
    Process(u32),
    /// What CR3 of this CPU held, its owner not being known.
    Cpu(u32),
    /// Found at this address, its owner not being known.
    Found(PhysAddr),
}

impl fmt::Display for RootLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RootLabel::Kernel => f.pad("kernel"),
            RootLabel::Process(pid) => f.pad(&format!("process {pid}")),
            RootLabel::Cpu(cpu) => f.pad(&format!("CPU {cpu}")),
            RootLabel::Found(address) => f.pad(&format!("root {address}")),
        }
    }
}

/// One address space: its root table and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Root {
    /// Its number in the snapshot.
    pub id: RootId,
    /// Whose it is, where that is known.
    pub label: RootLabel,
    /// The root table, what CR3 points to.
    pub address: PhysAddr,
    #[serde(skip)]
    pub(crate) slot: Option<Slot>,
}

/// A table that entries point to and that guest memory does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct MissingTable {
    /// The frame.
    pub pfn: Pfn,
    /// The level at which it was to be read as a table.
    pub level: Level,
}

/// How much a snapshot holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) tables: usize,
    pub(crate) missing: usize,
    pub(crate) omitted: u64,
}

/// The page tables of every address space at one moment. Each table frame is held once for each
/// level at which it is used, however many roots share it; cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Inner>, Budget);

#[derive(Debug)]
struct Inner {
    mode: Mode,
    roots: Arc<[Root]>,
    nodes: Nodes,
    index: FrameIndex,
    counts: Counts,
    parents: OnceLock<HashMap<Slot, Vec<Parent>>>,
    /// Tables that show one page many times; empty before they matter.
    shadows: OnceLock<HashSet<Slot>>,
}

impl Snapshot {
    pub(crate) fn new(
        mode: Mode,
        roots: Arc<[Root]>,
        nodes: Nodes,
        index: FrameIndex,
        counts: Counts,
        budget: Budget,
    ) -> Self {
        let inner = Inner {
            mode,
            roots,
            nodes,
            index,
            counts,
            parents: OnceLock::new(),
            shadows: OnceLock::new(),
        };
        Snapshot(Arc::new(inner), budget)
    }

    /// What may still be done with the tables.
    pub fn budget(&self) -> &Budget {
        &self.1
    }

    /// The same tables, with a budget of their own.
    #[must_use]
    pub fn with_budget(&self, budget: Budget) -> Snapshot {
        Snapshot(Arc::clone(&self.0), budget)
    }

    /// How the tables are read.
    pub fn mode(&self) -> &Mode {
        &self.0.mode
    }

    /// The address spaces, in the order in which the capture was given them.
    pub fn roots(&self) -> &[Root] {
        &self.0.roots
    }

    /// Whether this and `other` have one list of roots, known without a look at it: so have two moments
    /// of one capturer between which no address space came or went.
    pub(crate) fn shares_roots(&self, other: &Snapshot) -> bool {
        Arc::ptr_eq(&self.0.roots, &other.0.roots)
    }

    /// One of the address spaces.
    ///
    /// # Panics
    /// If `id` comes from another snapshot that has more roots.
    pub fn root(&self, id: RootId) -> &Root {
        &self.0.roots[id.0 as usize]
    }

    /// The first address space with this label.
    pub fn root_of(&self, label: RootLabel) -> Option<&Root> {
        self.0.roots.iter().find(|root| root.label == label)
    }

    /// The root table of an address space; `None` if guest memory does not have it.
    pub fn root_table(&self, id: RootId) -> Option<&Arc<Table>> {
        self.table_at(self.root(id).slot?)
    }

    /// Every captured table; a frame that is used at two levels appears as two.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.0.nodes.iter().filter_map(|(_, node)| node.table())
    }

    /// How many tables there are, without a look at them.
    pub fn table_count(&self) -> usize {
        self.0.counts.tables
    }

    /// The tables that entries (or roots) point to and that are outside guest memory.
    pub fn missing(&self) -> impl Iterator<Item = MissingTable> {
        // Mostly there are none, and nothing is looked through for them.
        let missing = self.0.nodes.iter().filter_map(|(_, node)| match node {
            Node::Missing(missing) => Some(*missing),
            Node::Free | Node::Table(_) => None,
        });
        missing.take(self.0.counts.missing)
    }

    /// How many tables are missing.
    pub fn missing_count(&self) -> usize {
        self.0.counts.missing
    }

    /// Entries whose tables were left out because the capture had reached its limit; 0 unless the
    /// tables are absurdly many.
    pub fn omitted(&self) -> u64 {
        self.0.counts.omitted
    }

    /// The table in frame `pfn`, as used at `level`.
    pub fn table(&self, pfn: Pfn, level: Level) -> Option<&Arc<Table>> {
        self.table_at(self.slot_of(pfn, level)?)
    }

    /// The levels at which frame `pfn` is used as a table: none for most frames, one for an
    /// ordinary table, more for an alias or a self-map.
    pub fn levels_of(&self, pfn: Pfn) -> impl Iterator<Item = Level> {
        Level::ALL
            .into_iter()
            .filter(move |&level| self.table(pfn, level).is_some())
    }

    /// The table that entry `index` of `table` points to. `None` if the entry points to none or
    /// guest memory does not have it.
    pub fn child(&self, table: &Table, index: u16) -> Option<&Arc<Table>> {
        self.table_at(table.link(index)?)
    }

    /// Whether entry `index` of `table` points to a table that guest memory does not have. Of one that did
    /// not fit the capture nobody knows.
    pub(crate) fn leads_nowhere(&self, table: &Table, index: u16) -> bool {
        let slot = table.link(index);
        slot.is_some_and(|slot| self.table_at(slot).is_none())
    }

    /// Translates `va` in address space `root`.
    ///
    /// # Panics
    /// If `root` comes from another snapshot that has more roots.
    pub fn translate(&self, root: RootId, va: VirtAddr) -> Walk {
        let root = self.root(root);
        let mut slot = root.slot;
        translate(self.mode(), root.address, va, |_: Pfn, _: Level, index| {
            let node = slot.and_then(|slot| self.0.nodes.get(slot));
            match node {
                Some(Node::Table(found)) => {
                    slot = found.link(index);
                    Ok(found.entry(index))
                }
                Some(Node::Missing(_)) => Err(Unreadable::OutsideMemory),
                Some(Node::Free) | None => Err(Unreadable::NotCaptured),
            }
        })
    }

    /// Whether the walk of `va` in `root` passes the table in `slot`.
    pub(crate) fn is_at(&self, root: RootId, va: VirtAddr, slot: Slot) -> bool {
        let walk = self.translate(root, va);
        self.table_at(slot).is_some_and(|table| {
            walk.steps()
                .iter()
                .any(|step| step.table == table.pfn() && step.level == table.level())
        })
    }

    pub(crate) fn table_at(&self, slot: Slot) -> Option<&Arc<Table>> {
        self.0.nodes.get(slot)?.table()
    }

    /// One more than the highest slot in use.
    pub(crate) fn slots(&self) -> usize {
        self.0.nodes.len()
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.0.nodes
    }

    /// Every captured table with its slot.
    pub(crate) fn slotted_tables(&self) -> impl Iterator<Item = (Slot, &Arc<Table>)> {
        let nodes = self.0.nodes.iter();
        nodes.filter_map(|(slot, node)| Some((slot, node.table()?)))
    }

    pub(crate) fn slot_of(&self, pfn: Pfn, level: Level) -> Option<Slot> {
        self.0.index.slot(pfn, level)
    }

    pub(crate) fn shadows(&self) -> &OnceLock<HashSet<Slot>> {
        &self.0.shadows
    }

    pub(crate) fn parents_index(&self) -> &OnceLock<HashMap<Slot, Vec<Parent>>> {
        &self.0.parents
    }
}
