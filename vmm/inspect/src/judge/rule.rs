//! What a rule is, and what it is shown.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::event::Told;
use super::finding::Evidence;
use super::world::World;
use crate::addr::{GuestPhys, GuestVirt, Pfn};
use crate::entry::{Decoded, Entry};
use crate::leaves::Mapping;
use crate::mode::CpuState;
use crate::rights::Rights;
use crate::sharing::Subtree;
use crate::snapshot::{RootId, Snapshot};
use crate::table::Table;

/// A rule's name and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuleInfo {
    /// In kebab case.
    pub name: &'static str,
    /// What must hold, in one sentence.
    pub statement: &'static str,
    /// Where the rule comes from.
    pub source: &'static str,
}

/// One moment of the run: the guest stands still at the doorbell.
pub struct Moment<'a> {
    /// What the guest told.
    pub told: &'a Told,
    /// What the CPU has, as KVM tells it.
    pub cpu: &'a CpuState,
    /// The tables of every address space.
    pub snapshot: &'a Snapshot,
    /// What is below the kernel-half entries of its roots.
    pub kernel_half: &'a [Subtree],
    /// Every table of the kernel half, once for each set of rights with which it is reached.
    pub kernel_tables: &'a [KernelTable<'a>],
    /// Whether no kernel table differs from the event before.
    pub kernel_unchanged: bool,
    /// Every page of every user half.
    pub user_pages: &'a [(RootId, Mapping)],
    /// Every frame that is a page table of some address space.
    pub table_frames: &'a HashSet<Pfn>,
    /// The same at the event before.
    pub previous: Option<&'a Snapshot>,
    /// What must be so, this event included.
    pub world: &'a World,
    /// For an access to kernel memory: what memory holds there now.
    pub memory_value: Option<u64>,
}

/// A table of the kernel half.
#[derive(Clone, Debug)]
pub struct KernelTable<'a> {
    pub table: &'a Arc<Table>,
    /// What the entries above allow together.
    pub rights: Rights,
    /// The first address that it translates …
    pub base: GuestVirt,
    /// … in this address space, and perhaps in others.
    pub root: RootId,
}

/// A leaf of the kernel half.
#[derive(Clone, Copy, Debug)]
pub struct KernelPage {
    pub va: GuestVirt,
    pub pa: GuestPhys,
    pub bytes: u64,
    pub rights: Rights,
    pub root: RootId,
}

impl KernelTable<'_> {
    /// Its present entries, with the first address that each translates.
    pub fn entries(&self) -> impl Iterator<Item = (GuestVirt, u16, Entry, Decoded)> {
        let shift = self.table.level().shift();
        self.table.entries().map(move |(index, entry)| {
            let va = self.base.wrapping_add(u64::from(index) << shift);
            (va, index, entry, self.table.decode(index))
        })
    }

    /// The pages that it maps itself.
    pub fn pages(&self) -> impl Iterator<Item = KernelPage> {
        self.entries()
            .filter_map(|(va, _, entry, decoded)| match decoded {
                Decoded::Leaf(leaf) => Some(KernelPage {
                    va,
                    pa: leaf.pa,
                    bytes: leaf.size.bytes(),
                    rights: self.rights.through(entry),
                    root: self.root,
                }),
                _ => None,
            })
    }
}

/// The tables below `subtrees`.
pub(super) fn kernel_tables<'a>(
    snapshot: &'a Snapshot,
    subtrees: &[Subtree],
) -> Vec<KernelTable<'a>> {
    let mut seen = HashSet::new();
    let mut tables = Vec::new();
    let mut pending = Vec::new();
    for subtree in subtrees {
        let root = subtree.roots[0];
        let Some(top) = snapshot.root_table(root) else {
            continue;
        };
        if let Some(table) = snapshot.child(top, subtree.index) {
            let rights = Rights::ALL.through(subtree.entry);
            pending.push(KernelTable {
                table,
                rights,
                base: subtree.range.first,
                root,
            });
        }
        while let Some(placed) = pending.pop() {
            if !seen.insert((Arc::as_ptr(placed.table), placed.rights)) {
                continue;
            }
            for (va, index, entry, _) in placed.entries() {
                if let Some(table) = snapshot.child(placed.table, index) {
                    let rights = placed.rights.through(entry);
                    pending.push(KernelTable {
                        table,
                        rights,
                        base: va,
                        root,
                    });
                }
            }
            tables.push(placed);
        }
    }
    tables
}

/// Something that must hold at every moment.
pub trait Rule {
    /// Its name and meaning.
    fn info(&self) -> RuleInfo;

    /// Holds the rule against a moment.
    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence);
}
