//! Page tables as such: in memory, each in one place, without loops and reserved bits.

use std::collections::{HashMap, HashSet};

use super::context::{Context, shown};
use super::evidence::Evidence;
use super::exceptions::{ESPFIX, SHADOW};
use super::finding::{EntryPlace, Finding, Spaces};
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use crate::discover::Discovery;
use crate::layout::{Area, area_at};
use crate::shadow::Shadows;
use crate::sharing::Placement;
use crate::snapshot::RootId;
use crate::table::Table;
use heirloom_paging::addr::{Pfn, VirtAddr, VirtRange};
use heirloom_paging::bits::EntrySet;
use heirloom_paging::entry::{Decoded, Entry};
use heirloom_paging::level::{Half, Level, PageSize};

/// Entries that were looked at, by their tables: what several address spaces have is looked at once.
#[derive(Default)]
struct Seen(HashMap<(Pfn, Level), EntrySet>);

impl Seen {
    fn of(&mut self, table: &Table) -> &mut EntrySet {
        self.0.entry((table.pfn(), table.level())).or_default()
    }
}

const NO_TABLES: &str = "no table that an entry points to";

pub(super) const RESERVED_BITS_CLEAR: Rule = Rule {
    info: RuleInfo {
        name: "reserved-bits-clear",
        statement: "no present entry of any table has a reserved bit set",
        source: "SDM vol. 3A, 4.5 and 4.7 (RSVD); APM vol. 2, 5.3",
    },
    untried: "no table with a present entry",
    clauses: &[Clause {
        reads: Reads::TABLES.and(Reads::SPACES),
        judge: Judge::Tables(reserved_bits_clear),
    }],
};

fn reserved_bits_clear(context: &Context<'_>, evidence: &mut Evidence) {
    let tables = context.index.tables();
    evidence.checked(tables.present);
    for slot in &tables.unsound {
        let Some(table) = context.snapshot().table_at(*slot) else {
            continue;
        };
        let mut entries = table.entries().peekable();
        while let Some((index, entry)) = entries.next() {
            let Decoded::Reserved { bits } = table.decode(index) else {
                continue;
            };
            // What goes on in a line is one mistake: a map of more memory than the CPU has address lines for.
            let mut last = (index, entry);
            while let Some(&(next, also)) = entries.peek()
                && goes_on(table, last, (next, also))
            {
                last = (next, also);
                entries.next();
            }
            let count = u64::from(last.0 - index) + 1;
            evidence.broken_at(count, || {
                let at = EntryPlace {
                    level: table.level(),
                    table: table.pfn(),
                    index,
                    entry,
                };
                let place = context.index.place_of((at.table, at.level), index);
                let bytes = at.level.entry_span() * count;
                let found = match count {
                    1 => format!("{}; reserved: {bits}", shown(entry)),
                    _ => format!(
                        "{count} entries in a line, the first {}; reserved: {bits}",
                        shown(entry)
                    ),
                };
                Finding {
                    whose: place.map(|(root, _)| context.label(root)),
                    place: context.entry_name(at.level, index),
                    entry: Some(at),
                    address: place.map(|(_, va)| va),
                    range: place.and_then(|(_, va)| VirtRange::new(va, bytes)),
                    spaces: place.map_or_else(Spaces::default, |(root, va)| {
                        context.spaces_with(root, va, &at)
                    }),
                    expected: "reserved bits clear".into(),
                    found,
                    walks: context.walk_at(place),
                    what: "reserved bits",
                    ..Finding::default()
                }
            });
        }
    }
}

/// Whether the entry behind another one has reserved bits, too, and the address next to that one's.
fn goes_on(table: &Table, (index, entry): (u16, Entry), (next, also): (u16, Entry)) -> bool {
    next == index + 1
        && matches!(table.decode(next), Decoded::Reserved { .. })
        && also.get().wrapping_sub(entry.get()) == table.level().entry_span()
}

pub(super) const TABLES_IN_RAM: Rule = Rule {
    info: RuleInfo {
        name: "tables-in-ram",
        statement: "every table that an entry points to is in RAM",
        source: "SDM vol. 3A, 4.5: the CPU reads what the address decodes to",
    },
    untried: NO_TABLES,
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(tables_in_ram),
    }],
};

fn tables_in_ram(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    let placements = context.index.placements();
    let mut seen = Seen::default();
    for placement in &placements {
        let seen = seen.of(placement.table);
        for placed in placement.entries() {
            let Decoded::Table(target) = placed.decoded else {
                continue;
            };
            if seen.contains(placed.index) {
                continue;
            }
            seen.insert(placed.index);
            let is_ram = context.is_ram(target.base(), PageSize::Size4KiB.bytes());
            let why = if !is_ram {
                "is not RAM"
            } else if context
                .snapshot()
                .leads_nowhere(placement.table, placed.index)
            {
                "cannot be read"
            } else {
                evidence.checked(1);
                continue;
            };
            if is_ram && found.is_partial {
                evidence.unknown(1);
                continue;
            }
            evidence.checked(1);
            evidence.broken(|| {
                let found = format!("{}: frame {target} {why}", shown(placed.entry));
                context.entry_finding(placement, placed.index, "a table in RAM", found)
            });
        }
    }
}

pub(super) const NO_LOOP: Rule = Rule {
    info: RuleInfo {
        name: "no-loop",
        statement: "no entry points to its own table or to one above it",
        source: "recursive mappings let who writes one page table write all; Linux has none",
    },
    untried: NO_TABLES,
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(no_loop),
    }],
};

/// Holds each entry against the frames that a walk passes on the way to it. Frames, not levels: a root
/// that is its own PDPT is a loop.
fn no_loop(context: &Context<'_>, _: &Discovery, evidence: &mut Evidence) {
    let placements = context.index.placements();
    let mut seen = Seen::default();
    for placement in &placements {
        let table = placement.table;
        let seen = seen.of(table);
        for placed in placement.entries() {
            let Decoded::Table(target) = placed.decoded else {
                continue;
            };
            if seen.contains(placed.index) {
                continue;
            }
            seen.insert(placed.index);
            evidence.checked(1);
            let walk = context.snapshot().translate(placement.root, placed.va);
            let above = walk
                .steps()
                .iter()
                .take_while(|step| step.level <= table.level())
                .find(|step| step.table == target);
            if let Some(above) = above {
                evidence.broken(|| {
                    let what = if target == table.pfn() {
                        format!(
                            "a self-map: frame {target} is the {} itself",
                            context.level_name(table.level())
                        )
                    } else {
                        format!(
                            "a loop: frame {target} is the {} above",
                            context.level_name(above.level)
                        )
                    };
                    context.entry_finding(
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
    untried: NO_TABLES,
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(one_level_per_table),
    }],
};

fn one_level_per_table(context: &Context<'_>, _: &Discovery, evidence: &mut Evidence) {
    let placements = context.index.placements();
    let use_of = |placement: &Placement<'_>| (placement.table.pfn(), placement.table.level());
    let mut levels: HashMap<Pfn, Level> = HashMap::new();
    let mut suspects = HashSet::new();
    for placement in &placements {
        evidence.checked(1);
        let (pfn, level) = use_of(placement);
        if *levels.entry(pfn).or_insert(level) != level {
            suspects.insert(pfn);
        }
    }
    // A loop makes tables of every level out of those that are in it and below: that it is one is told.
    levels.clear();
    let mut told = HashSet::new();
    for placement in &placements {
        let (pfn, level) = use_of(placement);
        if !suspects.contains(&pfn) || is_looped(context, placement.root, placement.base) {
            continue;
        }
        let first = *levels.entry(pfn).or_insert(level);
        if first != level && told.insert(pfn) {
            evidence.broken(|| Finding {
                place: format!("frame {pfn}"),
                range: VirtRange::new(placement.base, 1),
                spaces: context.only(placement.root),
                expected: format!("a {}, as elsewhere", context.level_name(first)),
                found: format!("a {}, too", context.level_name(level)),
                walks: vec![context.walk(placement.root, placement.base)],
                ..Finding::default()
            });
        }
    }
}

/// Whether the walk to `va` passes a frame twice.
fn is_looped(context: &Context<'_>, root: RootId, va: VirtAddr) -> bool {
    let walk = context.snapshot().translate(root, va);
    let mut frames = HashSet::new();
    walk.steps().iter().any(|step| !frames.insert(step.table))
}

pub(super) const KERNEL_TABLES_ONCE: Rule = Rule {
    info: RuleInfo {
        name: "kernel-tables-once",
        statement: "no table of the kernel half is used at two addresses of one address space",
        source: "a table in two places maps twice whatever is put into one of them",
    },
    untried: NO_TABLES,
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(kernel_tables_once),
    }],
};

fn kernel_tables_once(context: &Context<'_>, found: &Discovery, evidence: &mut Evidence) {
    let placements = context.index.placements();
    let top = context.snapshot().mode().depth.top();
    // Where each table was met first.
    let mut places: HashMap<(Pfn, Level), (VirtAddr, RootId)> = HashMap::new();
    let mut seen = HashSet::new();
    let mut shadows = Shadows::new(context.snapshot());
    for placement in &placements {
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
            evidence.checked(1);
            let (first, root) = *places
                .entry((target, next))
                .or_insert((placed.va, placement.root));
            if first == placed.va {
                continue;
            }
            let area = area_at(&found.layout, placed.va);
            let below = placement.table.link(placed.index);
            let is_shadow = below.is_some_and(|below| shadows.show_one_page(below));
            if area == Some(Area::EspFix) && context.excepts(ESPFIX) {
                evidence.excepted(ESPFIX, placed.va);
            } else if is_shadow && context.excepts(SHADOW) {
                evidence.excepted(SHADOW, placed.va);
            } else {
                evidence.broken(|| {
                    let mut finding = context.entry_finding(
                        placement,
                        placed.index,
                        "a table that is used here alone",
                        format!("table {target}, which is the {next} for {first}, too"),
                    );
                    finding.walks.push(context.walk(root, first));
                    finding
                });
            }
        }
    }
}
