//! Every root of a guest, and what it is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::subject::Subject;
use crate::compare::{EntryDifference, Mappings};
use crate::discover::{Discovery, Kind, Space};
use crate::layout::{Layout, area_at};
use heirloom_paging::addr::PhysAddr;

/// What `heirloom roots` found.
#[derive(Clone, Debug, Serialize)]
pub struct Roots {
    /// The version of this form, [`super::INSPECTION_VERSION`].
    pub version: u32,
    /// What was looked at.
    pub target: Subject,
    /// How many roots there are of each kind.
    pub kinds: BTreeMap<Kind, usize>,
    /// Roots with the very same kernel half, the largest cluster first.
    pub clusters: Vec<Cluster>,
    /// Every address space, in the order of the snapshot.
    pub roots: Vec<Space>,
    /// Names for the places at which an address space differs, by its root and the entry.
    #[serde(skip)]
    pub areas: BTreeMap<(PhysAddr, u16), &'static str>,
}

/// Roots whose kernel halves are the same, entry for entry.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    /// Its number; 0 is the largest.
    pub number: usize,
    /// How many roots are in it.
    pub roots: usize,
    /// Present entries of the kernel half.
    pub kernel_entries: usize,
    /// How many of them are of each kind.
    pub kinds: BTreeMap<Kind, usize>,
}

impl Roots {
    /// The roots of `discovery`, which is of the target called `name`.
    pub fn new(name: &str, discovery: &Discovery) -> Roots {
        let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
        let mut clusters: BTreeMap<usize, Cluster> = BTreeMap::new();
        let mut areas = BTreeMap::new();
        for space in &discovery.spaces {
            *kinds.entry(space.kind).or_default() += 1;
            let cluster = clusters.entry(space.cluster).or_insert(Cluster {
                number: space.cluster,
                roots: 0,
                kernel_entries: space.kernel_entries,
                kinds: BTreeMap::new(),
            });
            cluster.roots += 1;
            *cluster.kinds.entry(space.kind).or_default() += 1;
            for difference in &space.differences {
                if let Some(name) = area_of(&discovery.layout, discovery, difference) {
                    areas.insert((space.address, difference.index), name);
                }
            }
        }
        Roots {
            version: super::INSPECTION_VERSION,
            target: Subject::new(name, discovery),
            kinds,
            clusters: clusters.into_values().collect(),
            roots: discovery.spaces.clone(),
            areas,
        }
    }
}

/// What lies where the difference is; if that is all of an entry, the first thing that lies there.
fn area_of(
    layout: &Layout,
    discovery: &Discovery,
    difference: &EntryDifference,
) -> Option<&'static str> {
    let at = match difference.mappings {
        Mappings::Differ { first } => first,
        Mappings::Same | Mappings::Undecided => difference.range.first,
    };
    let inside = || layout.regions_in(difference.range).next();
    area_at(layout, at)
        .or_else(|| inside().map(|region| region.area))
        .map(|area| discovery.name_of(area))
}
