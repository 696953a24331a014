//! `heirloom diff` of two cores between which processes were born, ended and grew, against the kernel's
//! own list of roots and the pages of each.

use std::collections::{BTreeMap, BTreeSet};

use heirloom_inspect::{Half, PhysAddr, Rights, Snapshot, VirtRange};
use serde_json::Value;

use crate::command::{address, ask, list, number};
use crate::common::linux::{Guest, Listing, Variant};
use crate::image::Moment;

/// What an address space maps, by 4 KiB: where to, and what may be done there.
type Pages = BTreeMap<u64, (u64, Rights)>;

fn pages(snapshot: &Snapshot, root: PhysAddr) -> Pages {
    let root = snapshot.roots().iter().find(|found| found.address == root);
    let mut pages = Pages::new();
    for page in snapshot.leaves(root.unwrap().id, VirtRange::ALL) {
        for offset in (0..page.size.bytes()).step_by(4096) {
            pages.insert(
                page.va.get() + offset,
                (page.pa.get() + offset, page.rights),
            );
        }
    }
    pages
}

/// What differs: each address, with what it was and what it is.
type Changes = BTreeMap<u64, (Option<(u64, Rights)>, Option<(u64, Rights)>)>;

fn changes(before: &Pages, after: &Pages) -> Changes {
    let all: BTreeSet<u64> = before.keys().chain(after.keys()).copied().collect();
    all.into_iter()
        .map(|va| (va, (before.get(&va).copied(), after.get(&va).copied())))
        .filter(|(_, (before, after))| before != after)
        .collect()
}

/// What the report says of one address space.
fn reported(report: &Value, root: PhysAddr) -> Changes {
    let mut changes = Changes::new();
    for change in list(report, "ranges") {
        let is_its = |space: &Value| space.get("found").map(address) == Some(root);
        if !list(change, "spaces").iter().any(is_its) {
            continue;
        }
        let destination = |name: &str| {
            let to = change.get(name).filter(|to| !to.is_null())?;
            let right = |name: &str| to["rights"][name].as_bool().unwrap();
            let rights = Rights {
                write: right("write"),
                user: right("user"),
                execute: right("execute"),
            };
            Some((number(&to["pa"]), rights))
        };
        let (before, after) = (destination("before"), destination("after"));
        let (first, last) = (
            number(&change["range"]["first"]),
            number(&change["range"]["last"]),
        );
        for offset in (0..=last - first).step_by(4096) {
            let at = |to: Option<(u64, Rights)>| to.map(|(pa, rights)| (pa + offset, rights));
            let twice = changes.insert(first + offset, (at(before), at(after)));
            assert!(twice.is_none(), "{root}: {change} is said twice");
        }
    }
    changes
}

fn addresses(report: &Value, name: &str) -> BTreeSet<PhysAddr> {
    list(report, name)
        .iter()
        .map(|space| address(&space["address"]))
        .collect()
}

/// The roots that the kernel keeps for processes that are alive, or that a CPU is on: one that idles keeps
/// the root of the last process for a while, even if that has ended.
fn living(moment: &Moment, snapshot: &Snapshot, listing: &Listing) -> BTreeSet<PhysAddr> {
    let core = moment.open_core();
    let roots = moment.kernel_data(&core, listing).roots().into_keys();
    let has_entries = |root: &PhysAddr| {
        let found = snapshot.roots().iter().find(|found| found.address == *root);
        let table = snapshot.root_table(found.unwrap().id).unwrap();
        let mut entries = table.present().iter();
        entries.any(|index| Half::of_index(index) == Half::User)
    };
    let has_cpu = |root: &PhysAddr| moment.cpus.iter().any(|cpu| cpu.cr3.root() == *root);
    roots
        .filter(|root| has_entries(root) || has_cpu(root))
        .collect()
}

#[test]
fn between_two_cores_the_roots_born_and_gone_and_the_pages_changed_are_told_all_and_no_others() {
    let guest = Guest::boot(Variant::PTI_OFF);
    let listing = &guest.listing;
    let mut qmp = guest.qmp();
    let before = Moment::stop_at(&guest, &mut qmp, "before");
    qmp.resume();
    let ends = listing
        .with_memory()
        .find(|(_, process)| process.name == "sleep")
        .unwrap();
    guest.tell(&format!("kill {}; fork & heap & sleep 1", ends.0));
    let after = Moment::stop_at(&guest, &mut qmp, "after");

    let report = ask(&["diff", &before.target(), &after.target()]);
    let (snapshot_before, snapshot_after) = (before.capture(listing), after.capture(listing));
    let roots_before = living(&before, &snapshot_before, listing);
    let roots_after = living(&after, &snapshot_after, listing);
    let only_in = |these: &BTreeSet<PhysAddr>, those: &BTreeSet<PhysAddr>| {
        these.difference(those).copied().collect::<BTreeSet<_>>()
    };
    let born = only_in(&roots_after, &roots_before);
    // Five processes for the one that has ended, whose root may have been used again.
    assert!(born.len() >= 4, "{born:?}");
    assert_eq!(addresses(&report, "born"), born);
    let gone = only_in(&roots_before, &roots_after);
    assert_eq!(addresses(&report, "gone"), gone);

    let mut changed = 0;
    for root in roots_before.intersection(&roots_after) {
        let (was, is) = (
            pages(&snapshot_before, *root),
            pages(&snapshot_after, *root),
        );
        let expected = changes(&was, &is);
        assert!(reported(&report, *root) == expected, "{root}");
        changed += usize::from(!expected.is_empty());
    }
    // The shell that was told, at least.
    assert!(changed > 0);
}
