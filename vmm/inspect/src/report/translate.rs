//! One address: cut into its indices, and walked entry by entry.

use serde::Serialize;

use super::subject::Subject;
use crate::discover::{Discovery, Kind};
use crate::layout::{Area, area_at};
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::{PhysAddr, VirtAddr};
use heirloom_paging::level::{Depth, Level};
use heirloom_paging::walk::Walk;

/// What `heirloom translate` found.
#[derive(Clone, Debug, Serialize)]
pub struct TranslateReport {
    /// The version of this form, [`super::INSPECTION_VERSION`].
    pub version: u32,
    /// What was looked at.
    pub target: Subject,
    /// Whose address space it is.
    pub whose: RootLabel,
    /// What kind of address space it is.
    pub kind: Kind,
    /// The other root of a KPTI pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partner: Option<PhysAddr>,
    /// The area that the address lies in.
    pub area: Option<Area>,
    /// The symbol at or before the address, where the kernel's symbols are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// The index at each level, from the root down.
    pub indices: Vec<Index>,
    /// The byte in the page of 4 KiB.
    pub offset: u64,
    /// The walk itself, entry by entry.
    pub walk: Walk,
}

/// Which entry of a level's table translates an address.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Index {
    /// The level.
    pub level: Level,
    /// The index of the entry in its table.
    pub index: u16,
}

impl TranslateReport {
    /// The walk of `va` in `root` of `discovery`, which is of the target called `name`.
    pub fn new(name: &str, discovery: &Discovery, root: RootId, va: VirtAddr) -> TranslateReport {
        let snapshot = &discovery.snapshot;
        let levels = levels(snapshot.mode().depth);
        TranslateReport {
            version: super::INSPECTION_VERSION,
            target: Subject::new(name, discovery),
            whose: snapshot.root(root).label,
            kind: discovery.space(root).kind,
            partner: discovery.space(root).partner,
            area: area_at(&discovery.layout, va),
            symbol: discovery.symbol_at(va),
            indices: levels
                .iter()
                .map(|&level| Index {
                    level,
                    index: va.index(level),
                })
                .collect(),
            offset: va.offset_in(Level::Pt),
            walk: snapshot.translate(root, va),
        }
    }
}

fn levels(depth: Depth) -> &'static [Level] {
    match depth {
        Depth::Four => &Level::ALL[1..],
        Depth::Five => &Level::ALL,
    }
}
