//! What CPUs keep of address spaces that they have left: with CR4.PCIDE a load of CR3 drops nothing of other PCIDs,
//! and with bit 63 nothing at all (Intel SDM vol. 3A, 4.10.4.1).

use std::collections::BTreeMap;

use super::{CpuAsked, Flushes, Held, Why};
use crate::index::{Lost, Remembered, TableIndex};
use heirloom_paging::addr::PhysAddr;

/// Of an address space that has died so many translations are followed under each PCID: a load drops all or none.
const OF_THE_DEAD: usize = 8;

/// What was asked of one CPU of one PCID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcidAsked {
    /// Which.
    pub pcid: u16,
    /// The root that was last loaded with it.
    pub root: PhysAddr,
    /// How often, since the event before, it was loaded and nothing was dropped.
    pub kept: u64,
    /// If it was dropped since the event before: entries of user halves that had been written when that was last
    /// done.
    pub dropped: Option<u64>,
}

/// The root that each PCID had on each CPU at the event before.
#[derive(Debug, Default)]
pub(super) struct Roots(BTreeMap<(u32, u16), PhysAddr>);

impl Roots {
    /// The PCIDs under which the CPU may hold translations of a user half.
    pub(super) fn pcids_of(
        &self,
        root: PhysAddr,
        asked: &CpuAsked,
        noted: &[PcidAsked],
    ) -> Vec<u16> {
        let all = (asked.cpu, 0)..=(asked.cpu, u16::MAX);
        let before = self.0.range(all).filter(|(_, known)| **known == root);
        let before = before.map(|((_, pcid), _)| *pcid);
        let now = noted.iter().filter(|noted| noted.root == root);
        let loaded = (asked.root == root).then_some(asked.pcid);
        let mut found: Vec<u16> = before
            .chain(now.map(|noted| noted.pcid))
            .chain(loaded)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The CPU stands at an event.
    pub(super) fn update(&mut self, asked: &CpuAsked, noted: &[PcidAsked]) {
        let now = noted.iter().map(|noted| (noted.pcid, noted.root));
        let loaded = (asked.pcid, asked.root);
        let all = now.chain([loaded]);
        self.0
            .extend(all.map(|(pcid, root)| ((asked.cpu, pcid), root)));
    }
}

impl Flushes {
    /// What was asked of a PCID, if anything was noted of it.
    pub(super) fn of_pcid(&self, pcid: u16) -> Option<&PcidAsked> {
        let noted = self.pcids.as_deref()?;
        noted.iter().find(|noted| noted.pcid == pcid)
    }
}

impl Held {
    /// Whether the CPU has loaded the PCID again and kept what has it: what was flushed since was used before.
    pub(super) fn came_back(&self, flushes: &Flushes) -> bool {
        let noted = self.pcid.and_then(|pcid| flushes.of_pcid(pcid));
        let is_kept = noted.is_some_and(|noted| noted.kept > 0 && noted.dropped.is_none());
        self.why == Why::Elsewhere && is_kept && flushes.everything.is_none()
    }

    /// The CPU may use it from now on, if it has come back.
    pub(super) fn comes_back(&mut self, asked: &CpuAsked, flushes: &Flushes) {
        let Some(pcid) = self.pcid else { return };
        let noted = flushes.of_pcid(pcid);
        let is_loaded = asked.pcid == pcid;
        if self.why == Why::Elsewhere && (is_loaded || self.came_back(flushes)) {
            self.why = Why::NotAsked;
        }
        let now = if is_loaded {
            Some(asked.root)
        } else {
            noted.map(|noted| noted.root)
        };
        self.has_pcid_now = now.filter(|root| Some(*root) != self.lost.root);
    }
}

/// Of what a dead address space has lost, what is followed.
pub(super) fn followed(lost: Vec<Lost>, index: &TableIndex) -> Vec<Lost> {
    let is_alive = |root| {
        let mut roots = index.snapshot().roots().iter();
        roots.any(|known| Some(known.address) == root)
    };
    let Some(first) = lost.first() else {
        return lost;
    };
    if is_alive(first.root) {
        return lost;
    }
    // What others may map just so is no witness.
    let mut telling = lost;
    telling.sort_by_key(|lost| {
        let is_page = matches!(lost.was, Remembered::Page { .. });
        (!is_page, !lost.was_exclusive())
    });
    telling.truncate(OF_THE_DEAD);
    telling
}
