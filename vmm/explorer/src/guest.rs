//! The story of any guest at one moment: its roots in clusters of equal kernel halves, the two roots of
//! each KPTI pair together, and what the generic rules found.

use std::collections::BTreeMap;

use heirloom_inspect::check::Check;
use heirloom_inspect::discover::{Discovery, Kind, Space};
use heirloom_inspect::{PhysAddr, Root, RootLabel};

use crate::story::{About, Described, Event, Group, NamedRange, Story};

/// Which address spaces are compared with each other.
const KERNEL_HALVES: usize = 0;
const USER_ROOTS: usize = 1;

/// The story of the target called `name`.
pub fn story_of(name: &str, discovery: &Discovery, check: &Check) -> Story {
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
                name: region.area.name().to_owned(),
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
    let mut story = Story::new(about, groups);
    let count = discovery.spaces.len();
    let found = Event::new(
        0,
        crate::Kind::Found,
        format!("{count} address spaces found"),
    );
    story.moment(&discovery.snapshot, found, |root| {
        describe(discovery, &spaces, &numbers, root)
    });
    story.check(check);
    story
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
) -> Described {
    let name = match root.label {
        RootLabel::Found(address) => address.to_string(),
        label => label.to_string(),
    };
    let Some(space) = spaces.get(&root.address) else {
        return Described {
            name,
            ..Described::default()
        };
    };
    let partner = kernel_partner(space, spaces);
    let cluster = partner.map_or(space.cluster, |kernel| kernel.cluster);
    let mut kind = space.kind.name().to_owned();
    for cpu in &space.cpus {
        kind = format!("{kind}, CPU {cpu}");
    }
    Described {
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
