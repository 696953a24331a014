//! What each process has of its own in the kernel half, on purpose: its kernel stack, or the state of its CPU, at
//! one address in all address spaces.

use std::collections::HashSet;

use crate::discover::{Discovery, Kind, Space};
use crate::snapshot::RootId;
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::level::PageSize;
use heirloom_paging::rights::Rights;

/// Processes that must have it: two that differ may be one fault.
const LEAST: usize = 3;
/// Pages that one process shows there at most …
const MAX_PAGES: usize = 1 << 14;
/// … and all together.
const MAX_ALL: usize = 1 << 18;

/// The entries of roots that the difference of any space is about, and that each process has of its own.
pub(super) fn indices(found: &Discovery) -> HashSet<u16> {
    let processes: Vec<&Space> = found
        .judged()
        .filter(|space| space.kind == Kind::Process)
        .collect();
    if processes.len() < LEAST {
        return HashSet::new();
    }
    let differing: HashSet<u16> = processes
        .iter()
        .flat_map(|space| space.differences.iter().map(|difference| difference.index))
        .collect();
    let mut left = MAX_ALL;
    differing
        .into_iter()
        .filter(|index| is_own(found, &processes, *index, &mut left))
        .collect()
}

/// Where a page is, and how.
type Place = (VirtAddr, PageSize, Rights);

/// Whether what these show below entry `index`, besides what all address spaces show alike, is at the same addresses
/// with the same rights in each, none for ring 3, no two the same frame; and the reference has nothing else there.
fn is_own(found: &Discovery, processes: &[&Space], index: u16, left: &mut usize) -> bool {
    let Some(reference) = found.reference else {
        return false;
    };
    let mut all: Vec<Vec<(Place, PhysAddr)>> = Vec::new();
    for space in processes {
        let shown = pages(found, space.root, index);
        let Some(rest) = left.checked_sub(shown.len()) else {
            return false;
        };
        if shown.is_empty() || shown.len() > MAX_PAGES {
            return false;
        }
        *left = rest;
        all.push(shown);
    }
    let mut common: HashSet<(Place, PhysAddr)> = all[0].iter().copied().collect();
    for shown in &all[1..] {
        let these: HashSet<_> = shown.iter().copied().collect();
        common.retain(|page| these.contains(page));
    }
    let (mut frames, mut places) = (HashSet::new(), None);
    let is_each = all.into_iter().all(|shown| {
        let own: Vec<(Place, PhysAddr)> = shown
            .into_iter()
            .filter(|page| !common.contains(page))
            .collect();
        let at: Vec<Place> = own.iter().map(|(place, _)| *place).collect();
        let is_closed = at.iter().all(|(_, _, rights)| !rights.user);
        let are_new = own.iter().all(|(_, frame)| frames.insert(*frame));
        let is_same = places.get_or_insert_with(|| at.clone()) == &at;
        !at.is_empty() && is_closed && are_new && is_same
    });
    let places: HashSet<Place> = places.into_iter().flatten().collect();
    let shown = pages(found, reference, index);
    let seen = shown.iter().filter(|page| common.contains(page)).count();
    is_each
        && seen == common.len()
        && shown
            .iter()
            .all(|page| common.contains(page) || places.contains(&page.0))
}

/// What an entry of a root shows; of what is too much to look through, one page too many.
fn pages(found: &Discovery, root: RootId, index: u16) -> Vec<(Place, PhysAddr)> {
    let range = VirtRange::of_top_entry(index, found.mode().depth);
    let leaves = found.snapshot.leaves(root, range).take(MAX_PAGES + 1);
    leaves
        .map(|page| ((page.va, page.size, page.rights), page.pa))
        .collect()
}
