//! What the rules look at: all tables that a live address space reaches, each once for every way in
//! which it is reached.

use std::collections::HashSet;

use super::evidence::{EntryPlace, Finding, Spaces};
use crate::discover::{Discovery, Kind, Space};
use crate::memory::PhysRange;
use crate::sharing::Placement;
use crate::snapshot::{RootId, RootLabel, Snapshot};
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::{Decoded, Entry, Leaf};
use heirloom_paging::level::{Half, Level, PageSize};
use heirloom_paging::rights::Rights;
use heirloom_paging::walk::Walk;

/// A leaf, where it stands, and one address space that reaches it so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) va: VirtAddr,
    pub(super) leaf: Leaf,
    pub(super) rights: Rights,
    pub(super) root: RootId,
    pub(super) half: Half,
    pub(super) at: EntryPlace,
}

impl Page {
    pub(super) fn range(&self) -> VirtRange {
        VirtRange {
            first: self.va,
            last: self.va.wrapping_add(self.leaf.size.bytes() - 1),
        }
    }

    pub(super) fn end(&self) -> PhysAddr {
        self.leaf.pa.wrapping_add(self.leaf.size.bytes())
    }
}

/// The live address spaces, looked through.
pub(super) struct Scene<'a> {
    pub(super) discovery: &'a Discovery,
    pub(super) snapshot: &'a Snapshot,
    /// The address spaces that are judged.
    pub(super) live: Vec<&'a Space>,
    /// Their tables; the reference's come first, so that what all share is named by it.
    pub(super) placements: Vec<Placement<'a>>,
    /// Leaves of kernel halves and of user halves, each once for each set of rights.
    pub(super) kernel_pages: Vec<Page>,
    pub(super) user_pages: Vec<Page>,
    /// Every frame that holds a table of a live address space.
    pub(super) table_frames: HashSet<Pfn>,
}

impl<'a> Scene<'a> {
    /// `idle`: roots of which memory does not tell whether they live are judged, too.
    pub(super) fn new(discovery: &'a Discovery, idle: bool) -> Scene<'a> {
        let snapshot = &discovery.snapshot;
        let idle = discovery
            .spaces
            .iter()
            .filter(|space| idle && space.kind == Kind::Idle);
        let live: Vec<&Space> = discovery.judged().chain(idle).collect();
        let is_reference = |space: &Space| Some(space.root) == discovery.reference;
        let order = |space: &Space| match space.kind {
            _ if is_reference(space) => 0,
            Kind::Kernel => 1,
            Kind::Process | Kind::NoPages => 2,
            Kind::UserRoot => 3,
            Kind::Foreign
            | Kind::Trampoline
            | Kind::Identity
            | Kind::Separate
            | Kind::Idle
            | Kind::Freed
            | Kind::NotUnderstood => 4,
        };
        let mut roots: Vec<&Space> = live.clone();
        roots.sort_by_key(|space| order(space));
        let placements = snapshot.placements_split(
            roots
                .iter()
                .map(|space| (space.root, discovery.parts(space.root))),
        );
        let mut scene = Scene {
            discovery,
            snapshot,
            live,
            placements,
            kernel_pages: Vec::new(),
            user_pages: Vec::new(),
            table_frames: HashSet::new(),
        };
        scene.look_through();
        scene
    }

    fn look_through(&mut self) {
        // With KPTI two roots have a process's tables, the kernel's with NX on top. What ring 3 does, it
        // does by the other one.
        let in_ring_3: HashSet<_> = self
            .placements
            .iter()
            .filter(|placement| placement.half == Half::User && placement.rights.execute)
            .map(|placement| {
                (
                    placement.table.pfn(),
                    placement.table.level(),
                    placement.rights,
                )
            })
            .collect();
        for placement in &self.placements {
            let (pfn, level) = (placement.table.pfn(), placement.table.level());
            self.table_frames.insert(pfn);
            let with_execute = Rights {
                execute: true,
                ..placement.rights
            };
            if placement.half == Half::User
                && !placement.rights.execute
                && in_ring_3.contains(&(pfn, level, with_execute))
            {
                continue;
            }
            for placed in placement.entries() {
                let Decoded::Leaf(leaf) = placed.decoded else {
                    continue;
                };
                let page = Page {
                    va: placed.va,
                    leaf,
                    rights: placed.rights,
                    root: placement.root,
                    half: placement.half,
                    at: EntryPlace {
                        level,
                        table: pfn,
                        index: placed.index,
                        entry: placed.entry,
                    },
                };
                match placement.half {
                    Half::Kernel => self.kernel_pages.push(page),
                    Half::User => self.user_pages.push(page),
                }
            }
        }
    }

    /// The space that a root belongs to.
    pub(super) fn space(&self, root: RootId) -> &'a Space {
        self.discovery.space(root)
    }

    /// A walk with the address space that it was made in.
    pub(super) fn walk(&self, root: RootId, va: VirtAddr) -> (RootLabel, Walk) {
        let label = self.snapshot.root(root).label;
        (label, self.snapshot.translate(root, va))
    }

    /// The live address spaces in which a walk of `va` passes the entry at `at`.
    pub(super) fn spaces_with(&self, va: VirtAddr, at: &EntryPlace) -> Spaces {
        let roots: Vec<PhysAddr> = self
            .live
            .iter()
            .filter(|space| {
                let walk = self.snapshot.translate(space.root, va);
                walk.steps()
                    .iter()
                    .any(|step| step.table == at.table && step.level == at.level)
            })
            .map(|space| space.address)
            .collect();
        Spaces::new(&roots, self.live.len())
    }

    /// One address space alone.
    pub(super) fn only(&self, root: RootId) -> Spaces {
        Spaces::new(&[self.snapshot.root(root).address], self.live.len())
    }

    /// A finding about a page.
    pub(super) fn finding(&self, page: &Page, expected: impl Into<String>) -> Finding {
        Finding {
            place: format!("{}[{}]", page.at.level, page.at.index),
            entry: Some(page.at),
            range: Some(page.range()),
            area: self.discovery.layout.area_of(page.va),
            spaces: self.spaces_with(page.va, &page.at),
            expected: expected.into(),
            found: format!(
                "{} page at {}, {}",
                page.leaf.size, page.leaf.pa, page.rights
            ),
            walks: vec![self.walk(page.root, page.va)],
        }
    }

    /// A finding about an entry of a table that `placement` reaches.
    pub(super) fn finding_at(
        &self,
        placement: &Placement<'_>,
        index: u16,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Finding {
        let level = placement.table.level();
        let (at, va) = self.place(placement, index);
        Finding {
            place: format!("{level}[{index}]"),
            entry: Some(at),
            range: VirtRange::new(va, level.entry_span()),
            area: self.discovery.layout.area_of(va),
            spaces: self.spaces_with(va, &at),
            expected: expected.into(),
            found: found.into(),
            walks: vec![self.walk(placement.root, va)],
        }
    }

    /// Where entry `index` of a placed table stands, and the first address that it translates.
    pub(super) fn place(&self, placement: &Placement<'_>, index: u16) -> (EntryPlace, VirtAddr) {
        let level = placement.table.level();
        let depth = self.snapshot.mode().depth;
        let offset = u64::from(index) << level.shift();
        let va = VirtAddr::sign_extended(placement.base.get().wrapping_add(offset), depth);
        let at = EntryPlace {
            level,
            table: placement.table.pfn(),
            index,
            entry: placement.table.entry(index),
        };
        (at, va)
    }

    /// Whether all of a page is RAM.
    pub(super) fn is_ram(&self, pa: PhysAddr, size: PageSize) -> bool {
        is_ram(&self.discovery.ram, pa, size.bytes())
    }
}

fn is_ram(ram: &[PhysRange], pa: PhysAddr, bytes: u64) -> bool {
    let first = ram.partition_point(|range| range.end() <= pa);
    ram.get(first).is_some_and(|range| {
        range.start <= pa && pa.get().saturating_add(bytes) <= range.end().get()
    })
}

/// An entry as people read it.
pub(super) fn shown(entry: Entry) -> String {
    if entry.present() {
        format!("{entry} ({})", entry.flags())
    } else {
        "absent".into()
    }
}

/// `PGD[273]` of a root.
pub(super) fn top_place(level: Level, index: u16) -> String {
    format!("{level}[{index}]")
}
