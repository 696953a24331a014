//! Page tables as such: in memory, each in one place, without loops and reserved bits.

use std::collections::{HashMap, HashSet};

use super::Rule;
use crate::check::evidence::{Finding, Verdict};
use crate::check::exceptions::ESPFIX;
use crate::check::scene::{Scene, shown};
use crate::judge::RuleInfo;
use crate::layout::{Area, area_at};
use crate::sharing::Placement;
use crate::snapshot::RootId;
use heirloom_paging::addr::{Pfn, VirtAddr, VirtRange};
use heirloom_paging::entry::Decoded;
use heirloom_paging::level::{Half, Level, PageSize};

pub(super) const RESERVED_BITS_CLEAR: Rule = Rule {
    info: RuleInfo {
        name: "reserved-bits-clear",
        statement: "no present entry has a reserved bit set",
        source: "SDM vol. 3A, 4.5 and 4.7 (RSVD); APM vol. 2, 5.3",
    },
    judge: |scene, verdict| {
        let mut seen = HashSet::new();
        for placement in &scene.placements {
            let table = placement.table;
            let is_top = table.level() == scene.snapshot.mode().depth.top();
            let half = is_top.then_some(placement.half);
            if !seen.insert((table.pfn(), table.level(), half)) {
                continue;
            }
            for placed in placement.entries() {
                verdict.checked(1);
                if let Decoded::Reserved { bits } = placed.decoded {
                    verdict.broken(|| {
                        let found = format!("{}; reserved: {bits}", shown(placed.entry));
                        scene.finding_at(placement, placed.index, "reserved bits clear", found)
                    });
                }
            }
        }
    },
};

pub(super) const TABLES_IN_RAM: Rule = Rule {
    info: RuleInfo {
        name: "tables-in-ram",
        statement: "every table that an entry points to is in RAM",
        source: "SDM vol. 3A, 4.5: the CPU reads what the address decodes to",
    },
    judge: |scene, verdict| {
        let mut seen = HashSet::new();
        for placement in &scene.placements {
            for placed in placement.entries() {
                let Decoded::Table(target) = placed.decoded else {
                    continue;
                };
                if !seen.insert((placement.table.pfn(), placement.table.level(), placed.index)) {
                    continue;
                }
                verdict.checked(1);
                let why = if !scene.is_ram(target.base(), PageSize::Size4KiB) {
                    "is not RAM"
                } else if scene.snapshot.leads_nowhere(placement.table, placed.index) {
                    "cannot be read"
                } else {
                    continue;
                };
                verdict.broken(|| {
                    let found = format!("{}: frame {target} {why}", shown(placed.entry));
                    scene.finding_at(placement, placed.index, "a table in RAM", found)
                });
            }
        }
    },
};

pub(super) const NO_LOOP: Rule = Rule {
    info: RuleInfo {
        name: "no-loop",
        statement: "no entry points to its own table or to one above it",
        source: "recursive mappings let who writes one page table write all; Linux has none",
    },
    judge: no_loop,
};

/// Holds each entry against the frames that a walk passes on the way to it. Frames, not levels: a root
/// that is its own PDPT is a loop.
fn no_loop(scene: &Scene<'_>, verdict: &mut Verdict) {
    let mut seen = HashSet::new();
    for placement in &scene.placements {
        for placed in placement.entries() {
            let Decoded::Table(target) = placed.decoded else {
                continue;
            };
            let table = placement.table;
            if !seen.insert((table.pfn(), table.level(), placed.index)) {
                continue;
            }
            verdict.checked(1);
            let walk = scene.snapshot.translate(placement.root, placed.va);
            let above = walk
                .steps()
                .iter()
                .take_while(|step| step.level <= table.level())
                .find(|step| step.table == target);
            if let Some(above) = above {
                verdict.broken(|| {
                    let what = if target == table.pfn() {
                        format!("a self-map: frame {target} is the {} itself", table.level())
                    } else {
                        format!("a loop: frame {target} is the {} above", above.level)
                    };
                    scene.finding_at(
                        placement,
                        placed.index,
                        "a table below",
                        format!("{}; {what}", shown(placed.entry)),
                    )
                });
            }
        }
    }
}

pub(super) const ONE_LEVEL_PER_TABLE: Rule = Rule {
    info: RuleInfo {
        name: "one-level-per-table",
        statement: "no frame is a table of two levels",
        source: "an entry means something else at each level: SDM vol. 3A, tables 4-14 to 4-20",
    },
    judge: one_level_per_table,
};

fn one_level_per_table(scene: &Scene<'_>, verdict: &mut Verdict) {
    let use_of = |placement: &Placement<'_>| (placement.table.pfn(), placement.table.level());
    let mut levels: HashMap<Pfn, Level> = HashMap::new();
    let mut suspects = HashSet::new();
    for placement in &scene.placements {
        verdict.checked(1);
        let (pfn, level) = use_of(placement);
        if *levels.entry(pfn).or_insert(level) != level {
            suspects.insert(pfn);
        }
    }
    // A loop makes tables of every level out of those that are in it and below: that it is one is told.
    levels.clear();
    let mut told = HashSet::new();
    for placement in &scene.placements {
        let (pfn, level) = use_of(placement);
        if !suspects.contains(&pfn) || is_looped(scene, placement.root, placement.base) {
            continue;
        }
        let first = *levels.entry(pfn).or_insert(level);
        if first != level && told.insert(pfn) {
            verdict.broken(|| Finding {
                place: format!("frame {pfn}"),
                entry: None,
                range: VirtRange::new(placement.base, 1),
                area: scene.discovery.layout.area_of(placement.base),
                spaces: scene.only(placement.root),
                expected: format!("a {first}, as elsewhere"),
                found: format!("a {level}, too"),
                walks: vec![scene.walk(placement.root, placement.base)],
            });
        }
    }
}

/// Whether the walk to `va` passes a frame twice.
fn is_looped(scene: &Scene<'_>, root: RootId, va: VirtAddr) -> bool {
    let walk = scene.snapshot.translate(root, va);
    let mut frames = HashSet::new();
    walk.steps().iter().any(|step| !frames.insert(step.table))
}

pub(super) const KERNEL_TABLES_ONCE: Rule = Rule {
    info: RuleInfo {
        name: "kernel-tables-once",
        statement: "no table of the kernel half is used at two addresses of one address space",
        source: "a table in two places maps twice whatever is put into one of them",
    },
    judge: kernel_tables_once,
};

fn kernel_tables_once(scene: &Scene<'_>, verdict: &mut Verdict) {
    let top = scene.snapshot.mode().depth.top();
    // Where each table was met first.
    let mut places: HashMap<(Pfn, Level), (VirtAddr, RootId)> = HashMap::new();
    let mut seen = HashSet::new();
    for placement in &scene.placements {
        if placement.half != Half::Kernel {
            continue;
        }
        let level = placement.table.level();
        for placed in placement.entries() {
            let (Decoded::Table(target), Some(next)) = (placed.decoded, level.next()) else {
                continue;
            };
            // Roots have the same entries at the same addresses: that is sharing.
            let key = (level != top).then_some(placement.table.pfn());
            if !seen.insert((key, placed.va, target)) {
                continue;
            }
            verdict.checked(1);
            let (first, root) = *places
                .entry((target, next))
                .or_insert((placed.va, placement.root));
            if first == placed.va {
                continue;
            }
            let area = area_at(&scene.discovery.layout, scene.snapshot, placed.va);
            if area == Some(Area::EspFix) {
                verdict.excepted(ESPFIX);
            } else {
                verdict.broken(|| {
                    let mut finding = scene.finding_at(
                        placement,
                        placed.index,
                        "a table that is used here alone",
                        format!("table {target}, which is the {next} for {first}, too"),
                    );
                    finding.walks.push(scene.walk(root, first));
                    finding
                });
            }
        }
    }
}
