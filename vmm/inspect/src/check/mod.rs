//! The generic rules: what must hold in the page tables of any kernel.
//!
//! Where the judge holds our own guest against what it says of itself, here the tables alone speak. A
//! difference between address spaces is told as what it is: a *pointer* divergence, where one has a
//! private copy of a table and maps the same, or a *mapping* divergence, where it maps something else. What
//! kernels do on purpose is an exception with a name ([`EXCEPTIONS`]), and counted.

mod baseline;
mod partial;
mod width;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use baseline::{Allowance, Baseline, BaselineError, Compared};

pub use crate::rules::{
    EXCEPTIONS, EntryPlace, Excepted, Exception, Finding, MAX_FINDINGS, Outcome, RuleInfo, Spaces,
    Verdict,
};

use crate::compare::{EntryDifferenceKind, Mappings};
use crate::discover::{Discovery, Kind, Space};
use crate::history::is_ram;
use crate::index::{Scope, TableIndex};
use crate::layout::Area;
use crate::profile::nearest;
use crate::rules::exceptions::BEYOND_RAM;
use crate::rules::{Context, Examination, FOR_ANY, RuleSet};
use heirloom_paging::addr::PhysAddr;
use heirloom_paging::level::{Half, PageSize};

/// What the generic rules found.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Whether no rule is broken, and none was given up.
    pub holds: bool,
    /// Whether there is a live root with a kernel half to judge; a guest that has just begun to page has none.
    pub has_kernel_half: bool,
    /// Every rule's verdict.
    pub rules: Vec<Verdict>,
    /// Rules that must be tried and were not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_not_tried: Vec<NotTried>,
    /// What a baseline made of the findings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
}

/// A rule that must be tried and was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NotTried {
    /// Its name.
    pub rule: &'static str,
    /// What was missing.
    pub why: &'static str,
}

/// There is no rule of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule `{name}`; the nearest is `{nearest}`")]
pub struct UnknownRule {
    /// As it was asked for.
    pub name: String,
    /// The name of a rule that is most like it.
    pub nearest: &'static str,
}

/// How strict to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strictness {
    /// Pages of processes that are writable and executable are a fault, too.
    pub user: bool,
    /// What a root that is idle or freed lacks against the others is a fault, too.
    pub idle: bool,
}

impl Check {
    /// Holds every built-in rule against the live address spaces.
    pub fn of(discovery: &Discovery, strictness: Strictness) -> Check {
        Check::by(&RuleSet::new(FOR_ANY), discovery, strictness)
    }

    /// Holds `rules` against the live address spaces: the built-in ones and others' own, as
    /// [`RuleSet::with`] puts them together.
    pub fn by(rules: &RuleSet, discovery: &Discovery, strictness: Strictness) -> Check {
        let spaces = judged(discovery, strictness.idle);
        let index = index(discovery, &spaces);
        let mut notes = notes(discovery, &index);
        let mut examination = Examination::new(rules);
        examination.once(&Context {
            cpus: &discovery.cpus,
            areas: &discovery.layout.regions,
            ram: &discovery.ram,
            profile: &discovery.profile,
            found: Some(discovery),
            judged: &spaces,
            ..Context::new(&index)
        });
        let mut verdicts = examination.into_verdicts();
        partial::take_back(discovery, &mut verdicts, &mut notes);
        width::leave_open(discovery, &mut verdicts, &mut notes);
        if !strictness.user {
            verdicts.retain(|verdict| {
                let is_lenient = verdict.rule.name == "user-write-xor-execute";
                if is_lenient && verdict.violations > 0 {
                    let (pages, are) = match verdict.violations {
                        1 => ("page", "is"),
                        _ => ("pages", "are"),
                    };
                    notes.push(format!(
                        "{} {pages} of processes {are} writable and executable (--strict-user makes that a fault)",
                        verdict.violations
                    ));
                }
                !is_lenient
            });
        }
        Check {
            holds: !verdicts
                .iter()
                .any(|verdict| verdict.is_broken() || verdict.is_given_up()),
            has_kernel_half: discovery.reference.is_some() && !spaces.is_empty(),
            rules: verdicts,
            required_not_tried: Vec::new(),
            compared: None,
            notes,
        }
    }

    /// The built-in rule that is called so.
    ///
    /// # Errors
    /// [`UnknownRule`], with the name that is most like it.
    pub fn rule(name: &str) -> Result<RuleInfo, UnknownRule> {
        Check::rules()
            .find(|rule| rule.name == name)
            .ok_or_else(|| UnknownRule {
                name: name.to_owned(),
                nearest: nearest(name, Check::rules().map(|rule| rule.name)),
            })
    }

    /// Demands that these rules were tried.
    pub fn require(&mut self, rules: &[RuleInfo]) {
        for rule in rules {
            let mut verdicts = self.rules.iter();
            let why = match verdicts.find(|verdict| verdict.rule.name == rule.name) {
                Some(verdict) => match verdict.outcome {
                    Outcome::NotTried { why } => why,
                    Outcome::Holds | Outcome::Broken => continue,
                },
                None => "it counts only where processes are judged strictly",
            };
            let rule = rule.name;
            self.required_not_tried.push(NotTried { rule, why });
        }
    }

    /// Whether a rule is broken.
    pub fn is_broken(&self) -> bool {
        self.rules.iter().any(Verdict::is_broken)
    }

    /// Every rule's name and meaning.
    pub fn rules() -> impl Iterator<Item = RuleInfo> {
        FOR_ANY.iter().map(|rule| rule.info)
    }
}

/// The address spaces that are judged. `idle`: also those of which memory does not tell whether they live.
fn judged(discovery: &Discovery, idle: bool) -> Vec<&Space> {
    let spaces = discovery.spaces.iter();
    let idle = spaces.filter(|space| idle && space.kind == Kind::Idle);
    discovery.judged().chain(idle).collect()
}

/// Those, looked through; the reference comes first, so that what all share is named by it.
fn index(discovery: &Discovery, judged: &[&Space]) -> TableIndex {
    let order = |space: &&Space| match space.kind {
        _ if Some(space.root) == discovery.reference => 0,
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
    let mut spaces = judged.to_vec();
    spaces.sort_by_key(order);
    let roots = spaces.iter();
    let roots = roots.map(|space| (space.root, discovery.parts(space.root)));
    let scope = Scope {
        ram: discovery.ram.clone(),
        ..Scope::default()
    };
    TableIndex::of_roots(&discovery.snapshot, roots.collect(), scope)
}

/// How many roots are idle or freed, and what they lack against the others, entry by entry.
fn idle_roots(discovery: &Discovery) -> Vec<String> {
    let idle = || {
        discovery
            .spaces
            .iter()
            .filter(|space| space.kind == Kind::Idle)
    };
    let count = idle().count();
    if count == 0 {
        return Vec::new();
    }
    let (roots, they_have) = match count {
        1 => ("root is", "it has"),
        _ => ("roots are", "they have"),
    };
    let mut notes = vec![format!(
        "{count} {roots} idle or freed: memory does not tell a kernel thread's root from a freed one; what \
         {they_have} besides the kernel half is not judged"
    )];
    let top = discovery.mode().depth.root_name();
    // Which roots differ in an entry, and how; then which entries have the same said of them.
    let mut by_entry: BTreeMap<(&str, u16), (Vec<PhysAddr>, &str)> = BTreeMap::new();
    for space in idle() {
        for difference in &space.differences {
            let what = match (difference.kind, difference.mappings) {
                (EntryDifferenceKind::OnlyLeft, _) => "lacks",
                (EntryDifferenceKind::OnlyRight, _) => "alone has",
                (EntryDifferenceKind::Flags, Mappings::Same) => "has other flags at",
                (_, Mappings::Same) => "has a private copy of",
                _ => "has something else at",
            };
            let mut areas = discovery.layout.regions_in(difference.range);
            let area = areas.next().map_or("", |region| region.name.as_str());
            let (roots, _) = by_entry
                .entry((what, difference.index))
                .or_insert((Vec::new(), area));
            roots.push(space.address);
        }
    }
    let mut groups: BTreeMap<(&str, Vec<PhysAddr>), Vec<String>> = BTreeMap::new();
    for ((what, index), (roots, area)) in by_entry {
        let place = match area {
            "" => format!("{top}[{index}]"),
            area => format!("{top}[{index}] ({area})"),
        };
        groups.entry((what, roots)).or_default().push(place);
    }
    for ((what, roots), places) in groups {
        let roots: Vec<String> = roots.iter().map(ToString::to_string).collect();
        notes.push(format!(
            "idle or freed root {} {what} {}, against the others (--strict-idle makes that a fault)",
            first_few(&roots),
            first_few(&places)
        ));
    }
    notes
}

/// The first few of a list, and how many more there are.
fn first_few(all: &[String]) -> String {
    let few = all[..all.len().min(Spaces::MAX_NAMED)].join(", ");
    match all.len().saturating_sub(Spaces::MAX_NAMED) {
        0 => few,
        more => format!("{few} and {more} more"),
    }
}

/// Such roots that are listed.
const MAX_SELF_MAPS: usize = 4;

/// Roots whose entry points to another root where all others' point to themselves: fork code has that for a moment,
/// and what forgot to set its own self-map for ever.
fn self_maps_of_others(discovery: &Discovery) -> Option<String> {
    let maps = || {
        let spaces = discovery.spaces.iter();
        spaces.flat_map(|space| space.self_maps.iter().map(move |map| (space.address, map)))
    };
    let own: BTreeSet<u16> = maps()
        .filter(|(root, map)| map.to == *root)
        .map(|(_, map)| map.index)
        .collect();
    let top = discovery.mode().depth.root_name();
    let others: Vec<String> = maps()
        .filter(|(root, map)| own.contains(&map.index) && map.to != *root)
        .map(|(root, map)| format!("{top}[{}] of {root} to {}", map.index, map.to))
        .collect();
    (!others.is_empty()).then(|| {
        let few = others[..others.len().min(MAX_SELF_MAPS)].join(", ");
        let more = match others.len().saturating_sub(MAX_SELF_MAPS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("a self-map points to another root than its own: {few}{more}: what it shows are that one's tables")
    })
}

/// Where the kernel uses recursive paging.
fn self_maps(discovery: &Discovery) -> Option<String> {
    let mut roots: BTreeMap<u16, usize> = BTreeMap::new();
    for map in discovery.spaces.iter().flat_map(|space| &space.self_maps) {
        *roots.entry(map.index).or_default() += 1;
    }
    let top = discovery.mode().depth.root_name();
    let slots: Vec<String> = roots
        .iter()
        .map(|(index, roots)| {
            let unit = if *roots == 1 { "root" } else { "roots" };
            format!("{top}[{index}] of {roots} {unit}")
        })
        .collect();
    let verb = if slots.len() == 1 { "points" } else { "point" };
    (!slots.is_empty()).then(|| {
        format!(
            "recursive paging: {} {verb} to a root (self-map); what it shows are the tables, which are judged \
             as tables",
            slots.join(", ")
        )
    })
}

/// Pages of the direct map that are linear and not all RAM: as many kernels have, past the end of RAM or over
/// holes; small ones where the profile lets these pass.
fn direct_map_beyond_ram(discovery: &Discovery, index: &TableIndex) -> Option<String> {
    let map = discovery.layout.direct_map?;
    let mut pages = 0;
    let mut all: Option<(PhysAddr, PhysAddr)> = None;
    for (_, page) in index.pages(Half::Kernel) {
        let is_linear = map.range.contains(page.va) && page.pa == map.physical(page.va);
        if is_linear
            && (page.size != PageSize::Size4KiB || discovery.profile.excepts(BEYOND_RAM))
            && !is_ram(&discovery.ram, page.pa, page.size.bytes())
        {
            pages += 1;
            let (first, end) = all.unwrap_or((page.pa, page.end()));
            all = Some((first.min(page.pa), end.max(page.end())));
        }
    }
    let (first, end) = all?;
    let of_any_size = discovery.profile.excepts(BEYOND_RAM);
    let large = if of_any_size { "" } else { "large " };
    let name = discovery.name_of(Area::DirectMap);
    let (are, of) = match pages {
        1 => ("is", "it covers"),
        _ => ("are", "they lie within"),
    };
    let page = if pages == 1 { "page" } else { "pages" };
    Some(format!(
        "{pages} {large}{page} of the {name} {are} not all RAM, past its end or over a hole: {of} {first}–{end}"
    ))
}

fn notes(discovery: &Discovery, index: &TableIndex) -> Vec<String> {
    let mut notes = discovery.notes.clone();
    let freed = discovery
        .spaces
        .iter()
        .filter(|space| space.kind == Kind::Freed)
        .count();
    if freed > 0 {
        let (roots, are) = match freed {
            1 => ("root", "is"),
            _ => ("roots", "are"),
        };
        notes.push(format!(
            "{freed} freed {roots} {are} still in memory; nobody runs there, so that is not judged"
        ));
    }
    notes.extend(idle_roots(discovery));
    if discovery.copies_kernel_tables() {
        notes.push(
            "each address space has private copies of all kernel tables: each change of a kernel mapping must \
             be made in every one"
                .into(),
        );
    }
    notes.extend(self_maps(discovery));
    notes.extend(self_maps_of_others(discovery));
    notes.extend(direct_map_beyond_ram(discovery, index));
    let mut devices: BTreeMap<&str, u64> = BTreeMap::new();
    let pages = index.pages(Half::Kernel).chain(index.pages(Half::User));
    for (_, page) in pages {
        if !is_ram(&discovery.ram, page.pa, page.size.bytes()) {
            let area = crate::layout::area_at(&discovery.layout, page.va);
            *devices
                .entry(area.map_or("elsewhere", |area| discovery.name_of(area)))
                .or_default() += 1;
        }
    }
    if !devices.is_empty() {
        let counts: Vec<String> = devices
            .iter()
            .map(|(area, pages)| format!("{pages} in {area}"))
            .collect();
        notes.push(format!(
            "pages that lead outside RAM (devices, firmware): {}",
            counts.join(", ")
        ));
    }
    if discovery.snapshot.omitted() > 0 {
        notes.push(format!(
            "{} tables were left out: there are absurdly many",
            discovery.snapshot.omitted()
        ));
    }
    notes
}
