//! All that reaches a physical address.

use std::fmt;

use serde::Serialize;

use super::subject::{RootList, Subject};
use crate::discover::Discovery;
use crate::layout::{Area, area_at};
use crate::memory::PhysRange;
use crate::reverse::Reached;
use crate::sharing::Parent;
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::level::Level;

/// Roots that a line names.
const MOST_NAMED: usize = 8;

/// What `heirloom reverse` found.
#[derive(Clone, Debug, Serialize)]
pub struct ReverseReport {
    pub version: u32,
    pub target: Subject,
    pub pa: PhysAddr,
    pub in_ram: bool,
    /// The levels at which the frame is a page table, and the entries that point to it.
    pub tables: Vec<UsedAsTable>,
    /// Whether the frame is a root.
    pub is_root: bool,
    pub reached: Vec<ReachedBy>,
    /// There are absurdly many more.
    pub is_cut: bool,
    #[serde(skip)]
    roots: usize,
}

/// A level at which a frame is a page table.
#[derive(Clone, Debug, Serialize)]
pub struct UsedAsTable {
    pub level: Level,
    pub entries: Vec<Parent>,
}

/// A virtual address and the address spaces that have it.
#[derive(Clone, Debug, Serialize)]
pub struct ReachedBy {
    #[serde(flatten)]
    pub reached: Reached,
    pub area: Option<Area>,
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
                area: area_at(&discovery.layout, snapshot, reached.va),
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

impl fmt::Display for ReverseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.target)?;
        write!(f, "{:#x}, frame {}", self.pa, self.pa.pfn())?;
        if !self.in_ram {
            write!(f, ", outside RAM")?;
        }
        if self.is_root {
            write!(f, ", a root")?;
        }
        for table in &self.tables {
            let entries = table.entries.len();
            write!(f, ", a {}", self.target.mode.depth.name(table.level))?;
            if entries > 0 {
                let noun = if entries == 1 { "entry" } else { "entries" };
                write!(f, " ({entries} {noun} point there)")?;
            }
        }
        if self.reached.is_empty() {
            return write!(f, "\n  no virtual address reaches it");
        }
        for by in &self.reached {
            let Reached { va, mapping, .. } = &by.reached;
            let area = by.area.map_or("no named area", Area::name);
            write!(
                f,
                "\n  {va:#018x}  {}  {} page  {area:<14}  ",
                mapping.rights, mapping.size
            )?;
            if by.roots.len() == self.roots {
                write!(f, "all {} roots", self.roots)?;
            } else {
                let named = &by.roots[..by.roots.len().min(MOST_NAMED)];
                let noun = if by.roots.len() == 1 { "root" } else { "roots" };
                let list = RootList {
                    roots: named,
                    count: by.roots.len(),
                };
                write!(f, "{} {noun}: {list}", by.roots.len())?;
            }
        }
        if self.is_cut {
            write!(f, "\n  … and absurdly many more")?;
        }
        Ok(())
    }
}
