//! "Direct map virtual address maps the whole physical memory": all of it, and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use heirloom_abi::layout::Region;

use crate::addr::{GuestPhys, GuestVirt, PAGE_SIZE, VirtRange};
use crate::judge::finding::{Evidence, Finding};
use crate::judge::rule::{Moment, Rule, RuleInfo};
use crate::leaves::Mapping;
use crate::sharing::Subtree;
use crate::snapshot::RootId;
use crate::table::Table;

/// Every frame of RAM is at its place in the direct map.
#[derive(Default)]
pub(super) struct DirectMapComplete {
    clean: Unchanged,
}

impl Rule for DirectMapComplete {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "direct-map-complete",
            statement: "every frame of RAM is mapped at direct map + its address, in every process",
            source: "lecture: every PFN has a direct mapped kernel virtual address; Linux mm.rst",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for group in address_spaces_by_direct_map(moment) {
            let frames = moment.world.truth().frames();
            evidence.checked(frames * group.len() as u64);
            let tables = tables_below(moment, group[0]);
            if self.clean.is(&tables) {
                continue;
            }
            let mut clean = true;
            let mut pages = moment
                .snapshot
                .leaves(group[0], VirtRange::of_region(Region::DirectMap))
                .peekable();
            for ram in &moment.world.truth().ram {
                let end = ram.start.get() + ram.bytes;
                let mut at = ram.start.get();
                while at < end {
                    let va = place_of(GuestPhys::new(at));
                    while pages.next_if(|page| page.range().last < va).is_some() {}
                    let page = pages.peek().filter(|page| page.range().contains(va));
                    let right = page.filter(|page| shows(page, va, at));
                    if let Some(page) = right {
                        at = page.range().last.get() - Region::DirectMap.start() + 1;
                        continue;
                    }
                    clean = false;
                    for root in &group {
                        evidence.broken(|| Finding {
                            whose: Some(moment.label(*root)),
                            place: format!("frame {:#x}", at / PAGE_SIZE),
                            address: Some(va),
                            expected: "this frame of RAM, readable".into(),
                            found: found(page),
                            walks: vec![(
                                moment.label(*root),
                                moment.snapshot.translate(*root, va),
                            )],
                        });
                    }
                    at += PAGE_SIZE;
                }
            }
            self.clean.note(tables, clean);
        }
    }
}

/// The direct map shows RAM and nothing else, each frame at its own place.
#[derive(Default)]
pub(super) struct DirectMapExact {
    clean: Unchanged,
}

impl Rule for DirectMapExact {
    fn info(&self) -> RuleInfo {
        RuleInfo {
            name: "direct-map-exact",
            statement: "the direct map maps RAM only, each address to its own frame, and nothing of it is executable",
            source: "lecture: direct map; Linux mm.rst: direct mapping of all physical memory",
        }
    }

    fn judge(&mut self, moment: &Moment<'_>, evidence: &mut Evidence) {
        for group in address_spaces_by_direct_map(moment) {
            let tables = tables_below(moment, group[0]);
            let present: u64 = tables
                .iter()
                .map(|table| table.present().len() as u64)
                .sum();
            evidence.checked(present * group.len() as u64);
            if self.clean.is(&tables) {
                continue;
            }
            let mut clean = true;
            let range = VirtRange::of_region(Region::DirectMap);
            for page in moment.snapshot.leaves(group[0], range) {
                let own = page.pa.get() == page.va.get() - Region::DirectMap.start();
                let ram = moment.world.truth().is_ram(page.pa, page.size.bytes());
                if own && ram && !page.rights.execute {
                    continue;
                }
                clean = false;
                for root in &group {
                    evidence.broken(|| Finding {
                        whose: Some(moment.label(*root)),
                        place: format!("direct map at {}", page.va),
                        address: Some(page.va),
                        expected: if own && ram {
                            "no execute".into()
                        } else if own {
                            "nothing: there is no RAM".into()
                        } else {
                            "its own frame".into()
                        },
                        found: found(Some(&page)),
                        walks: vec![(
                            moment.label(*root),
                            moment.snapshot.translate(*root, page.va),
                        )],
                    });
                }
            }
            self.clean.note(tables, clean);
        }
    }
}

fn place_of(physical: GuestPhys) -> GuestVirt {
    GuestVirt::new(Region::DirectMap.start() + physical.get())
}

/// Whether `page` shows physical address `physical` at `va`, to the kernel.
fn shows(page: &Mapping, va: GuestVirt, physical: u64) -> bool {
    page.pa.get() + (va.get() - page.va.get()) == physical && !page.rights.user
}

fn found(page: Option<&Mapping>) -> String {
    match page {
        Some(page) => format!("{} {} page, {}", page.pa, page.size, page.rights),
        None => "nothing".into(),
    }
}

/// The address spaces, those together that have the same entries for the direct map.
fn address_spaces_by_direct_map(moment: &Moment<'_>) -> Vec<Vec<RootId>> {
    let (first, last) = Region::DirectMap.pgd_entries();
    let is_direct_map = |subtree: &&Subtree| (first..=last).contains(&usize::from(subtree.index));
    let roots = moment.snapshot.roots();
    let mut keys: Vec<Vec<u64>> = vec![Vec::new(); roots.len()];
    for subtree in moment.kernel_half.iter().filter(is_direct_map) {
        for root in &subtree.roots {
            keys[root.0 as usize].push(subtree.entry.get());
        }
    }
    let mut groups: HashMap<Vec<u64>, Vec<RootId>> = HashMap::new();
    for (root, key) in roots.iter().zip(keys) {
        groups.entry(key).or_default().push(root.id);
    }
    let mut groups: Vec<Vec<RootId>> = groups.into_values().collect();
    groups.sort_unstable();
    groups
}

/// Every table below the direct map's entries in one address space.
fn tables_below(moment: &Moment<'_>, root: RootId) -> Vec<Arc<Table>> {
    let Some(top) = moment.snapshot.root_table(root) else {
        return Vec::new();
    };
    let (first, last) = Region::DirectMap.pgd_entries();
    let mut tables = Vec::new();
    let mut pending: Vec<&Arc<Table>> = (first..=last)
        .filter_map(|index| moment.snapshot.child(top, u16::try_from(index).ok()?))
        .collect();
    while let Some(table) = pending.pop() {
        tables.push(Arc::clone(table));
        let below = table
            .pointers()
            .iter()
            .filter_map(|index| moment.snapshot.child(table, index));
        pending.extend(below);
        if tables.len() > MOST_TABLES {
            break;
        }
    }
    tables
}

/// Enough for a direct map of 4 TiB in 2 MiB pages; beyond, nothing is remembered.
const MOST_TABLES: usize = 1 << 13;

/// Remembers the tables of a direct map that was found clean, so that the same tables need not be
/// looked through at the next event.
#[derive(Default)]
struct Unchanged(Vec<Arc<Table>>);

impl Unchanged {
    fn is(&self, tables: &[Arc<Table>]) -> bool {
        !tables.is_empty()
            && self.0.len() == tables.len()
            && self
                .0
                .iter()
                .zip(tables)
                .all(|(known, table)| Arc::ptr_eq(known, table))
    }

    fn note(&mut self, tables: Vec<Arc<Table>>, clean: bool) {
        self.0 = if clean && tables.len() <= MOST_TABLES {
            tables
        } else {
            Vec::new()
        };
    }
}
