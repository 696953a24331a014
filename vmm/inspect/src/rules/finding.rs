//! One place where a rule is broken.

use serde::Serialize;

use super::context::Context;
use crate::layout::Area;
use crate::snapshot::RootLabel;
use heirloom_paging::addr::{Pfn, PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::Entry;
use heirloom_paging::level::Level;
use heirloom_paging::walk::Walk;

/// One place where a rule is broken.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Finding {
    /// What it is called in a baseline: the rule, the area and how far into it, and what is wrong. The
    /// same from run to run, wherever the kernel and its frames happen to be.
    pub identity: String,
    /// The address space that is wrong; `None` where it is not about one, or about many.
    pub whose: Option<RootLabel>,
    /// What is wrong there, as people name it: `PGD[273]`, `CR3 of CPU 0`.
    pub place: String,
    /// The entry, and where it stands; `None` where it is not about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryPlace>,
    /// The first address at which it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<VirtAddr>,
    /// The addresses concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<VirtRange>,
    /// What lies there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub area: Option<Area>,
    /// The kernel's function or variable at the first address, or before it, where its symbols are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// The address spaces concerned.
    pub spaces: Spaces,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// The walks that show it, each with the address space that it was made in; only of the first
    /// findings of a rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub walks: Vec<(RootLabel, Walk)>,
    /// When it was there, in a run.
    #[serde(flatten)]
    pub seen: Option<Seen>,
    /// What is wrong, in a word or two.
    #[serde(skip)]
    pub what: &'static str,
}

/// When a finding was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Sequence number of the first event.
    pub first_event: u64,
    /// At how many events it was there.
    pub events: u64,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EntryPlace {
    /// The level of the entry's table.
    pub level: Level,
    /// The frame of its table.
    pub table: Pfn,
    /// Which entry of that table.
    pub index: u16,
    /// The entry as it stands in memory.
    pub entry: Entry,
}

/// Which address spaces a finding is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spaces {
    /// How many.
    pub count: usize,
    /// Of how many that there are.
    pub of: usize,
    /// There may be more: the rule has so many findings that not every address space was asked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
    /// The roots of the first few.
    pub roots: Vec<PhysAddr>,
}

impl Spaces {
    /// Roots that are named; more are only counted.
    pub const MAX_NAMED: usize = 8;

    pub(super) fn new(roots: &[PhysAddr], of: usize) -> Spaces {
        Spaces {
            count: roots.len(),
            of,
            at_least: false,
            roots: roots[..roots.len().min(Self::MAX_NAMED)].to_vec(),
        }
    }
}

impl Finding {
    /// Fills in what follows from the rest: area, address spaces, identity.
    pub(super) fn complete(&mut self, rule: &str, context: &Context<'_>) {
        let at = self.range.map(|range| range.first).or(self.address);
        if self.area.is_none() {
            self.area = at.and_then(|at| context.area_of(at));
        }
        if self.spaces.count == 0 {
            let owner = self.whose.and_then(|label| context.root_of(label));
            let roots: Vec<PhysAddr> = owner.map(|root| root.address).into_iter().collect();
            self.spaces = Spaces::new(&roots, context.index.space_count());
        }
        let place = match (at, context.area_start(at)) {
            (Some(at), Some((area, start))) => {
                let offset = at.get().wrapping_sub(start.get());
                format!("{area}+{offset:#x}")
            }
            (Some(at), None) => at.to_string(),
            (None, _) => self.place.clone(),
        };
        // Other roots are frames: what they are changes from run to run.
        let whose = match self.whose {
            Some(RootLabel::Kernel | RootLabel::Process(_)) if context.history.is_some() => self
                .whose
                .map_or_else(String::new, |whose| format!("/{whose}")),
            _ => String::new(),
        };
        let what = if self.what.is_empty() { "" } else { "/" };
        self.identity = format!("{rule}/{place}{whose}{what}{}", self.what);
    }
}
