//! The timeline of any guest at one moment: its roots in clusters of equal kernel halves, the two roots of
//! each KPTI pair together, and what the generic rules found.

use std::collections::BTreeMap;

use heirloom_explorer::{About, Event, Finding, Group, NamedRange, Sign, SpaceInfo, Timeline};
use heirloom_inspect::check::{self, Check, Spaces};
use heirloom_inspect::discover::{Discovery, Kind, Space};
use heirloom_inspect::rules::RuleInfo;
use heirloom_inspect::{PhysAddr, Root, RootLabel};

/// Which address spaces are compared with each other.
const KERNEL_HALVES: usize = 0;
const USER_ROOTS: usize = 1;

/// The timeline of the target called `name`.
pub(crate) fn timeline_of(name: &str, discovery: &Discovery, check: &Check) -> Timeline {
    let broken: Vec<&str> = check
        .rules
        .iter()
        .filter(|verdict| verdict.violations > 0)
        .map(|verdict| verdict.rule.name)
        .collect();
    let rules = check.rules.len();
    let about = About {
        title: name.to_owned(),
        holds: Some(check.holds),
        verdict: if broken.is_empty() {
            format!("HOLDS: all {rules} rules hold.")
        } else {
            let (count, names) = (broken.len(), broken.join(", "));
            format!("BROKEN: {count} of {rules} rules are broken: {names}.")
        },
        regions: discovery
            .layout
            .regions
            .iter()
            .map(|region| NamedRange {
                name: region.name.to_string(),
                range: region.range,
            })
            .collect(),
        notes: check.notes.clone(),
    };
    let spaces: BTreeMap<PhysAddr, &Space> = discovery
        .spaces
        .iter()
        .map(|space| (space.address, space))
        .collect();
    let (groups, numbers) = groups(discovery, &spaces);
    let mut timeline = Timeline::new(about, groups);
    let count = discovery.spaces.len();
    let found = Event::new(0, Sign::Found, format!("{count} address spaces found"));
    timeline.moment(&discovery.snapshot, found, |root| {
        describe(discovery, &spaces, &numbers, root)
    });
    // What the CPU runs is what is looked at first.
    if let Some((_, cpu)) = discovery.running_cpus().next() {
        timeline.open_in(cpu.cr3.root());
    }
    for verdict in &check.rules {
        for (place, finding) in verdict.findings.iter().enumerate() {
            let finding = finding_of(&timeline, &verdict.rule, place, finding);
            timeline.finding(finding);
        }
    }
    timeline
}

/// A finding of a rule, which is at `place` in the rule's list.
fn finding_of(
    timeline: &Timeline,
    rule: &RuleInfo,
    place: usize,
    finding: &check::Finding,
) -> Finding {
    Finding {
        identity: format!("{} {place}", rule.name),
        rule: rule.name.to_owned(),
        statement: rule.statement.to_owned(),
        spaces: timeline.spaces_at(&finding.spaces.roots),
        whose: whose(&finding.spaces),
        place: finding.place.clone(),
        address: finding.range.map(|range| range.first),
        expected: finding.expected.clone(),
        found: finding.found.clone(),
        walks: super::walks_as_text(&finding.walks),
    }
}

/// Which address spaces a finding is about, in words.
fn whose(spaces: &Spaces) -> String {
    match (spaces.count, spaces.roots.first()) {
        (0, _) | (_, None) => String::new(),
        (1, Some(root)) => format!("root {root}"),
        (count, Some(root)) => format!("{count} of {} roots, {root} first", spaces.of),
    }
}

/// The kernel root of the pair that a user root belongs to.
fn kernel_partner<'s>(space: &Space, spaces: &BTreeMap<PhysAddr, &'s Space>) -> Option<&'s Space> {
    let partner = space.partner.filter(|_| space.kind == Kind::UserRoot)?;
    spaces.get(&partner).copied()
}

/// One group for each cluster that has more to it than the user roots of pairs, which stand beside
/// their kernel roots: the groups, and the number of each cluster's.
fn groups(
    discovery: &Discovery,
    spaces: &BTreeMap<PhysAddr, &Space>,
) -> (Vec<Group>, BTreeMap<usize, usize>) {
    let mut clusters: BTreeMap<usize, Vec<&Space>> = BTreeMap::new();
    for space in &discovery.spaces {
        if kernel_partner(space, spaces).is_none() {
            clusters.entry(space.cluster).or_default().push(space);
        }
    }
    let mut groups = Vec::new();
    let mut numbers = BTreeMap::new();
    for (cluster, members) in clusters {
        numbers.insert(cluster, groups.len());
        let entries = members.first().map_or(0, |space| space.kernel_entries);
        groups.push(Group {
            name: format!("cluster {cluster}"),
            note: match members.len() {
                1 => format!("one root, {entries} kernel entries"),
                roots => format!("{roots} roots with the same {entries} kernel entries"),
            },
        });
    }
    (groups, numbers)
}

fn describe(
    discovery: &Discovery,
    spaces: &BTreeMap<PhysAddr, &Space>,
    numbers: &BTreeMap<usize, usize>,
    root: &Root,
) -> SpaceInfo {
    let name = match root.label {
        RootLabel::Found(address) => address.to_string(),
        label => label.to_string(),
    };
    let Some(space) = spaces.get(&root.address) else {
        return SpaceInfo {
            name,
            ..SpaceInfo::default()
        };
    };
    let partner = kernel_partner(space, spaces);
    let cluster = partner.map_or(space.cluster, |kernel| kernel.cluster);
    let mut kind = space.kind.name().to_owned();
    for cpu in &space.cpus {
        kind = format!("{kind}, CPU {cpu}");
    }
    SpaceInfo {
        name,
        kind,
        group: numbers.get(&cluster).copied().unwrap_or(0),
        set: match space.kind {
            Kind::UserRoot => Some(USER_ROOTS),
            kind => kind.has_kernel_half().then_some(KERNEL_HALVES),
        },
        parent: partner.map(|kernel| kernel.label),
        reference: [discovery.reference, discovery.user_reference].contains(&Some(space.root)),
    }
}
