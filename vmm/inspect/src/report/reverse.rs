//! All that reaches a physical address.

use serde::Serialize;

use super::subject::Subject;
use crate::discover::Discovery;
use crate::layout::{Area, area_at};
use crate::memory::PhysRange;
use crate::reverse::Reached;
use crate::sharing::Parent;
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::level::Level;

/// What `heirloom reverse` found.
#[derive(Clone, Debug, Serialize)]
pub struct ReverseReport {
    /// The version of this form, [`super::INSPECTION_VERSION`].
    pub version: u32,
    /// What was looked at.
    pub target: Subject,
    /// The physical address that was asked for.
    pub pa: PhysAddr,
    /// Whether there is RAM at it.
    pub in_ram: bool,
    /// The levels at which the frame is a page table, and the entries that point to it.
    pub tables: Vec<UsedAsTable>,
    /// Whether the frame is a root.
    pub is_root: bool,
    /// Every virtual address that leads to it.
    pub reached: Vec<ReachedBy>,
    /// There are absurdly many more.
    pub is_cut: bool,
    /// How many address spaces there are.
    #[serde(skip)]
    pub roots: usize,
}

/// A level at which a frame is a page table.
#[derive(Clone, Debug, Serialize)]
pub struct UsedAsTable {
    /// The level.
    pub level: Level,
    /// The entries that point to it as such a table.
    pub entries: Vec<Parent>,
}

/// A virtual address and the address spaces that have it.
#[derive(Clone, Debug, Serialize)]
pub struct ReachedBy {
    /// The virtual address, and how it is mapped.
    #[serde(flatten)]
    pub reached: Reached,
    /// The area that it lies in.
    pub area: Option<Area>,
    /// The symbol at or before the address, where the kernel's symbols are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// The root tables of the address spaces that have it.
    pub roots: Vec<PhysAddr>,
}

impl ReverseReport {
    /// All that reaches `pa` in the address spaces of `discovery`, which is of the target called `name`.
    pub fn new(name: &str, discovery: &Discovery, pa: PhysAddr) -> ReverseReport {
        let snapshot = &discovery.snapshot;
        let reverse = snapshot.reverse(pa);
        let reached = reverse
            .reached
            .into_iter()
            .map(|reached| ReachedBy {
                area: area_at(&discovery.layout, reached.va),
                symbol: discovery.symbol_at(reached.va),
                roots: reached
                    .roots
                    .iter()
                    .map(|root| snapshot.root(*root).address)
                    .collect(),
                reached,
            })
            .collect();
        ReverseReport {
            version: super::INSPECTION_VERSION,
            target: Subject::new(name, discovery),
            pa,
            in_ram: discovery
                .ram
                .iter()
                .any(|range: &PhysRange| range.overlaps(pa, 1)),
            tables: snapshot
                .levels_of(pa.pfn())
                .map(|level| UsedAsTable {
                    level,
                    entries: snapshot.parents(pa.pfn(), level).to_vec(),
                })
                .collect(),
            is_root: snapshot
                .roots()
                .iter()
                .any(|root| root.address.pfn() == pa.pfn()),
            reached,
            is_cut: reverse.is_cut,
            roots: snapshot.roots().len(),
        }
    }
}
