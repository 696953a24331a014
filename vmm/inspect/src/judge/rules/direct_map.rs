//! "Direct map virtual address maps the whole physical memory": all of it, and nothing else.
//!
//! Address spaces that have the same entries for the direct map are judged as one, and a finding
//! names the first of them.

use std::collections::HashMap;

use heirloom_abi::layout::Region;

use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::judge::truth::Sharing;
use crate::leaves::{Leaves, Mapping};
use crate::sharing::Subtree;
use crate::snapshot::{RootId, RootLabel};
use heirloom_paging::addr::{PAGE_SIZE, PhysAddr, VirtAddr};

/// Every frame of RAM is at its place in the direct map.
pub(super) struct DirectMapComplete;

impl Rule for DirectMapComplete {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "direct-map-complete",
            statement: "every frame of RAM is mapped at direct map + its address, wherever the kernel runs",
            source: "lecture: every PFN has a direct mapped kernel virtual address; Linux mm.rst",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for group in address_spaces_by_direct_map(moment) {
            let root = group[0];
            let area = crate::region::range_of_region(Region::DirectMap);
            let mut pages = moment.snapshot.leaves(root, area).peekable();
            for ram in &moment.world.truth().ram {
                evidence.checked(ram.frames() * group.len() as u64);
                let mut rest = ram.whole_frames();
                while !rest.is_empty() {
                    let (step, right) = look(&mut pages, &rest);
                    if !evidence.may_walk(1) {
                        return;
                    }
                    if !right {
                        let frames = (step - rest.start) / PAGE_SIZE * group.len() as u64;
                        evidence.broken_at(frames, || missing(moment, root, rest.start));
                    }
                    rest.start = step;
                }
            }
        }
    }
}

/// Looks at the start of `rest`, the RAM that is still to be found: how far there is one answer, and
/// whether it is that the RAM is in its place.
fn look(pages: &mut std::iter::Peekable<Leaves<'_>>, rest: &std::ops::Range<u64>) -> (u64, bool) {
    let va = place_of(rest.start);
    while pages.next_if(|page| page.range().last < va).is_some() {}
    let Some(page) = pages.peek() else {
        return (rest.end, false);
    };
    let shown = |va: VirtAddr| va.get() - Region::DirectMap.start();
    if page.va > va {
        return (shown(page.va).min(rest.end), false);
    }
    let right = is_in_place(page);
    (
        shown(page.range().last).saturating_add(1).min(rest.end),
        right,
    )
}

fn missing(moment: &Moment<'_>, root: RootId, physical: u64) -> Finding {
    let va = place_of(physical);
    let (label, walk) = moment.walk(root, va);
    Finding {
        whose: Some(label),
        place: format!("frame {}", PhysAddr::new(physical).pfn()),
        address: Some(va),
        expected: "this frame of RAM".into(),
        found: super::shown_end(&walk),
        walks: vec![(label, walk)],
    }
}

/// The direct map shows RAM and nothing else, each frame at its own place.
pub(super) struct DirectMapExact;

impl Rule for DirectMapExact {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "direct-map-exact",
            statement: "the direct map maps RAM only, each address to its own frame, and nothing of it is executable",
            source: "lecture: direct map; Linux mm.rst: direct mapping of all physical memory",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        let area = crate::region::range_of_region(Region::DirectMap);
        let pages = moment.survey.kernel_pages.iter();
        for page in pages.filter(|page| area.contains(page.va)) {
            let own = place_of(page.pa.get()) == page.va;
            let ram = moment.world.truth().is_ram(page.pa, page.size.bytes());
            evidence.check(own && ram && !page.rights.execute, || Finding {
                whose: Some(moment.label(page.root)),
                place: format!("direct map at {}", page.va),
                address: Some(page.va),
                expected: match (own, ram) {
                    (true, true) => "no execute".into(),
                    (true, false) => "nothing: there is no RAM".into(),
                    (false, _) => "its own frame".into(),
                },
                found: format!("{} page at {}, {}", page.size, page.pa, page.rights),
                walks: vec![moment.walk(page.root, page.va)],
            });
        }
    }
}

/// Where the direct map shows physical address `physical`.
fn place_of(physical: u64) -> VirtAddr {
    VirtAddr::new(Region::DirectMap.start()).wrapping_add(physical)
}

fn is_in_place(page: &Mapping) -> bool {
    place_of(page.pa.get()) == page.va
}

/// The address spaces, those together that have the same entries for the direct map.
fn address_spaces_by_direct_map(moment: &Moment<'_>) -> Vec<Vec<RootId>> {
    let area = crate::region::range_of_region(Region::DirectMap);
    let is_direct_map = |subtree: &&Subtree| subtree.range.overlaps(&area);
    let subtrees = || moment.survey.kernel_half.iter().filter(is_direct_map);
    let roots = moment.snapshot.roots();
    if moment.world.expectation().sharing() == Sharing::EntryAreaOnly {
        // The kernel alone has a direct map; that nobody else has is another rule.
        let kernel = moment.snapshot.root_of(RootLabel::Kernel);
        return kernel.into_iter().map(|root| vec![root.id]).collect();
    }
    if subtrees().all(|subtree| subtree.roots.len() == roots.len()) {
        let all: Vec<RootId> = roots.iter().map(|root| root.id).collect();
        return if all.is_empty() {
            Vec::new()
        } else {
            vec![all]
        };
    }
    let mut keys: Vec<Vec<(u16, u64)>> = vec![Vec::new(); roots.len()];
    for subtree in subtrees() {
        for root in &subtree.roots {
            keys[root.0 as usize].push((subtree.index, subtree.entry.get()));
        }
    }
    let mut groups: HashMap<Vec<(u16, u64)>, Vec<RootId>> = HashMap::new();
    for (root, key) in roots.iter().zip(keys) {
        groups.entry(key).or_default().push(root.id);
    }
    let mut groups: Vec<Vec<RootId>> = groups.into_values().collect();
    groups.sort_unstable();
    groups
}
