//! What a rule is, and what it is shown.

use serde::Serialize;

use super::event::Told;
use super::finding::Evidence;
use super::survey::{self, Survey};
use super::world::World;
use crate::snapshot::{RootId, RootLabel, Snapshot};
use heirloom_paging::addr::VirtAddr;
use heirloom_paging::mode::CpuState;
use heirloom_paging::walk::Walk;

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
    /// The same tables, looked through.
    pub survey: &'a Survey<'a>,
    /// What must be so, this event included.
    pub world: &'a World,
    /// For an access to kernel memory: what memory holds there now, by the tables of the process in
    /// whose address space it was made.
    pub memory_value: Option<u64>,
}

impl Moment<'_> {
    /// The label of an address space.
    pub(super) fn label(&self, root: RootId) -> RootLabel {
        self.snapshot.root(root).label
    }

    /// The walk of `va` in `root`.
    pub(super) fn walk(&self, root: RootId, va: VirtAddr) -> (RootLabel, Walk) {
        (self.label(root), self.snapshot.translate(root, va))
    }

    /// Walks of `va` in the address space `reference`, if there is one, and in `other`.
    pub(super) fn walks(
        &self,
        reference: RootLabel,
        other: RootId,
        va: VirtAddr,
    ) -> Vec<(RootLabel, Walk)> {
        let reference = self.snapshot.root_of(reference).map(|root| root.id);
        reference
            .into_iter()
            .filter(|reference| *reference != other)
            .chain([other])
            .map(|root| self.walk(root, va))
            .collect()
    }

    /// The address to show for top-level entry `index`.
    pub(super) fn address_below(&self, index: u16) -> VirtAddr {
        survey::address_below(self.world, self.snapshot, index)
    }
}

/// Something that must hold at every moment.
pub trait Rule {
    /// Its name and meaning.
    fn info(&self) -> RuleInfo;

    /// Holds the rule against a moment.
    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence);
}
