//! What each process has of its own in the kernel half, on purpose: its kernel stack, or the state of its CPU, at
//! one address in all address spaces.

use std::collections::HashSet;

use crate::discover::{Discovery, Kind, Space};
use crate::snapshot::RootId;
use heirloom_paging::addr::{PhysAddr, VirtAddr, VirtRange};
use heirloom_paging::entry::Decoded;
use heirloom_paging::level::PageSize;
use heirloom_paging::rights::Rights;

/// Processes that must have it: two that differ may be one fault.
const LEAST: usize = 3;
/// Pages that one process has there at most …
const MAX_PAGES: usize = 1 << 10;
/// … and all together.
const MAX_ALL: usize = 1 << 17;

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

/// Where pages are, and how.
type Places = Vec<(VirtAddr, PageSize, Rights)>;

/// Whether each of these has a table of its own at `index`, and all show pages at the same addresses with the same
/// rights, none for ring 3, no two the same frame.
fn is_own(found: &Discovery, processes: &[&Space], index: u16, left: &mut usize) -> bool {
    let mut tables = HashSet::new();
    let mut frames = HashSet::new();
    let mut places: Option<Places> = None;
    processes.iter().all(|space| {
        let table = found.snapshot.root_table(space.root);
        let below = table.map(|table| table.decode(index));
        let Some(Decoded::Table(below)) = below.filter(|_| *left > 0) else {
            return false;
        };
        let Some((own, shown)) = pages(found, space.root, index) else {
            return false;
        };
        *left = left.saturating_sub(own.len());
        let is_same = places.get_or_insert_with(|| own.clone()) == &own;
        let is_closed = own.iter().all(|(_, _, rights)| !rights.user);
        let are_new = shown.into_iter().all(|frame| frames.insert(frame));
        tables.insert(below) && is_same && is_closed && are_new
    })
}

/// What an entry of a root shows, if that is something, and not too much to look through.
fn pages(found: &Discovery, root: RootId, index: u16) -> Option<(Places, Vec<PhysAddr>)> {
    let range = VirtRange::of_top_entry(index, found.mode().depth);
    let leaves = found.snapshot.leaves(root, range).take(MAX_PAGES + 1);
    let (places, frames): (Places, Vec<PhysAddr>) = leaves
        .map(|page| ((page.va, page.size, page.rights), page.pa))
        .unzip();
    (1..=MAX_PAGES)
        .contains(&places.len())
        .then_some((places, frames))
}
