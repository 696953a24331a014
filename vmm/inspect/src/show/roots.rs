//! Every root of a guest, and what it is.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::subject::Subject;
use crate::compare::{EntryDifference, EntryDifferenceKind, Mappings};
use crate::discover::{Discovery, Kind, Space};
use crate::layout::{Area, Layout, area_at};
use crate::snapshot::RootLabel;
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::level::Level;

/// What `heirloom roots` found.
#[derive(Clone, Debug, Serialize)]
pub struct Roots {
    pub version: u32,
    pub target: Subject,
    /// How many roots there are of each kind.
    pub kinds: BTreeMap<Kind, usize>,
    /// Roots with the very same kernel half, the largest cluster first.
    pub clusters: Vec<Cluster>,
    pub roots: Vec<Space>,
    #[serde(skip)]
    top: Level,
    /// Names for the places at which an address space differs, by its root and the entry.
    #[serde(skip)]
    areas: BTreeMap<(PhysAddr, u16), &'static str>,
}

/// Roots whose kernel halves are the same, entry for entry.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    pub number: usize,
    pub roots: usize,
    /// Present entries of the kernel half.
    pub kernel_entries: usize,
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
            top: discovery.mode().depth.top(),
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
    area_at(layout, &discovery.snapshot, at)
        .or_else(|| inside().map(|region| region.area))
        .map(Area::name)
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.target)?;
        writeln!(f, "{} roots: {}", self.roots.len(), counts(&self.kinds))?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "root",
            "kind",
            "user root",
            "CPU",
            "kernel half",
            "user pages",
            "why",
        ]);
        // A user root stands in its kernel root's line.
        let (seconds, lines): (Vec<&Space>, Vec<&Space>) = self
            .roots
            .iter()
            .partition(|space| is_second_of_a_pair(space));
        let user_roots: BTreeMap<Option<PhysAddr>, &Space> = seconds
            .into_iter()
            .map(|space| (space.partner, space))
            .collect();
        for space in lines {
            let user_root = user_roots.get(&Some(space.address)).copied();
            table.add_row(self.row(space, user_root));
        }
        for column in [0, 2, 5] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        writeln!(f, "{}", trimmed(&table))?;
        write!(f, "\nclusters of equal kernel halves")?;
        for cluster in &self.clusters {
            write!(
                f,
                "\n  {}: {} entries, {} {}: {}",
                cluster.number,
                cluster.kernel_entries,
                cluster.roots,
                if cluster.roots == 1 { "root" } else { "roots" },
                counts(&cluster.kinds)
            )?;
        }
        Ok(())
    }
}

impl Roots {
    fn row(&self, space: &Space, user_root: Option<&Space>) -> [String; 7] {
        let mut cpus: Vec<String> = space.cpus.iter().map(ToString::to_string).collect();
        if let Some(user) = user_root {
            cpus.extend(user.cpus.iter().map(|cpu| format!("{cpu} (user root)")));
        }
        let address = match space.label {
            RootLabel::Found(address) => address.to_string(),
            label => format!("{label}: {}", space.address),
        };
        [
            address,
            space.kind.to_string(),
            user_root.map_or_else(|| "–".into(), |user| user.address.to_string()),
            cpus.join(", "),
            self.kernel_half(space),
            space.user_pages.to_string(),
            match user_root.filter(|user| !user.differences.is_empty()) {
                Some(user) => format!("{}; user root: {}", space.evidence, self.kernel_half(user)),
                None => space.evidence.clone(),
            },
        ]
    }

    fn kernel_half(&self, space: &Space) -> String {
        if space.differences.is_empty() {
            return format!("cluster {}", space.cluster);
        }
        let shown: Vec<String> = space
            .differences
            .iter()
            .take(4)
            .map(|difference| self.difference(space, difference))
            .collect();
        let more = space.differences.len().saturating_sub(4);
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("{}{rest}", shown.join(", "))
    }

    fn difference(&self, space: &Space, difference: &EntryDifference) -> String {
        let EntryDifference {
            index,
            kind,
            mappings,
            ..
        } = difference;
        let place = format!("{}[{index}]", self.top);
        let name = self
            .areas
            .get(&(space.address, *index))
            .map_or_else(String::new, |name| format!(" ({name})"));
        match (kind, mappings) {
            (EntryDifferenceKind::OnlyLeft, _) => format!("LACKS {place}{name}"),
            (EntryDifferenceKind::OnlyRight, _) => format!("{place}{name} of its own"),
            (_, Mappings::Same) => format!("PRIVATE COPY at {place}{name}"),
            _ => format!("DIVERGES at {place}{name}"),
        }
    }
}

fn is_second_of_a_pair(space: &Space) -> bool {
    space.partner.is_some_and(|partner| partner < space.address)
}

/// `63 process, 1 kernel`.
fn counts(kinds: &BTreeMap<Kind, usize>) -> String {
    let counts: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    counts.join(", ")
}

/// The table without blanks at the ends of lines.
pub(super) fn trimmed(table: &Table) -> String {
    table.trim_fmt()
}
