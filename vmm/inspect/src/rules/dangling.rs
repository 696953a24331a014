//! A table is one thing in one place while it is a table.

use std::collections::HashMap;

use super::Place;
use super::context::{Context, PageAt};
use super::evidence::Evidence;
use super::finding::Finding;
use super::pages::finding;
use super::rule::{Broken, Clause, Judge, Reads, Rule, RuleInfo};
use crate::history::History;
use crate::index::{Page, PartId};
use crate::snapshot::MissingTable;
use crate::table::Table;
use heirloom_paging::level::Half;

/// No entry points to a table that is gone or is something else as well.
pub(super) const NO_DANGLING_TABLE: Rule = Rule {
    info: RuleInfo {
        name: "no-dangling-table",
        statement: "every entry above a leaf points to RAM that is a table of that one level, in that one place, and no page of a process or of vmalloc",
        source: "SDM vol. 3A, 4.5; Linux: freed page tables and their use after free",
    },
    untried: "no address space",
    clauses: &[
        Clause {
            reads: Reads::TABLES.and(Reads::SPACES),
            judge: Judge::History(tables_are_in_ram),
        },
        Clause {
            reads: Reads::TABLES,
            judge: Judge::History(tables_have_one_level),
        },
        Clause {
            reads: Reads::TABLES.and(Reads::SPACES),
            judge: Judge::History(tables_have_one_place),
        },
        Clause {
            reads: Reads::TABLES.and(Reads::USER).and(Reads::KERNEL),
            judge: Judge::History(tables_are_no_pages),
        },
        Clause {
            reads: Reads::TABLES,
            judge: Judge::History(tables_are_bounded),
        },
    ],
};

fn tables_are_in_ram(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    for missing in context.snapshot().missing() {
        evidence.broken(|| missing_table(context, missing));
    }
    let tables = context.index.tables();
    evidence.checked(tables.count);
    for slot in &tables.outside_ram {
        if let Some(table) = context.snapshot().table_at(*slot) {
            evidence.broken(|| Finding {
                place: format!(
                    "{} in frame {}",
                    context.level_name(table.level()),
                    table.pfn()
                ),
                expected: "a table in RAM".into(),
                found: "memory that the guest was not told of".into(),
                ..Finding::default()
            });
        }
    }
}

fn missing_table(context: &Context<'_>, missing: MissingTable) -> Finding {
    let snapshot = context.snapshot();
    let parent = snapshot.parents(missing.pfn, missing.level).first();
    let place = parent.and_then(|parent| {
        let table = (parent.table, parent.level);
        context.index.place_of(table, parent.index)
    });
    let root = snapshot
        .roots()
        .iter()
        .find(|root| root.address.pfn() == missing.pfn && snapshot.root_table(root.id).is_none());
    Finding {
        whose: place
            .map(|(root, _)| context.label(root))
            .or(root.map(|root| root.label)),
        place: match parent {
            Some(parent) => {
                let entry = context.entry_name(parent.level, parent.index);
                format!("{entry} in frame {}", parent.table)
            }
            None => format!("root in frame {}", missing.pfn),
        },
        address: place.map(|(_, at)| at),
        expected: format!("a {} in RAM", context.level_name(missing.level)),
        found: format!("frame {}, which is not in RAM", missing.pfn),
        walks: context.walk_at(place),
        what: "no RAM",
        ..Finding::default()
    }
}

fn tables_have_one_level(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    if context.index.tables().count == context.index.table_frames() {
        return;
    }
    let mut first_of: HashMap<_, &Table> = HashMap::new();
    for table in context.snapshot().tables() {
        let Some(other) = first_of.insert(table.pfn(), table) else {
            continue;
        };
        evidence.broken(|| {
            let place = context.index.place_of((table.pfn(), table.level()), 0);
            Finding {
                whose: place.map(|(root, _)| context.label(root)),
                place: format!("table in frame {}", table.pfn()),
                address: place.map(|(_, at)| at),
                expected: "a table of one level".into(),
                found: [other, table]
                    .map(|table| format!("a {}", context.level_name(table.level())))
                    .join(" and "),
                walks: context.walk_at(place),
                what: "two levels",
                ..Finding::default()
            }
        });
    }
}

fn tables_have_one_place(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    let index = context.index;
    evidence.checked(index.table_count(Half::Kernel) + index.table_count(Half::User));
    for twice in index.twice() {
        if twice.is_shared_user_table() {
            // That is the concern of `user-half-private`.
            continue;
        }
        evidence.broken(|| {
            let [(owner, first), (root, again)]: [Place; 2] = twice.places(index);
            Finding {
                whose: Some(context.label(root)),
                place: format!(
                    "{} in frame {}",
                    context.level_name(twice.level),
                    twice.table
                ),
                address: Some(again),
                expected: format!("a table for {first} and nothing else"),
                found: format!("what is at {first} is also at {again}"),
                walks: vec![context.walk(owner, first), context.walk(root, again)],
                what: "two places",
                ..Finding::default()
            }
        });
    }
}

fn tables_are_no_pages(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    let index = context.index;
    evidence.checked(index.page_count(Half::User) + index.dynamic_page_count());
    if index.frames().none_is_a_table() {
        return;
    }
    let hits: Vec<(PartId, &Page)> = index
        .dynamic_pages()
        .chain(index.user_pages_by_frame())
        .collect();
    for (part, page) in hits {
        let Some(frame) = index.table_in(page) else {
            continue;
        };
        evidence.broken(|| {
            let broken = Broken {
                found: Some(format!("also the page at {}", page.va)),
                ..Broken::new("page", "a table and nothing else")
            };
            Finding {
                place: format!("table in frame {frame}"),
                ..finding(context, PageAt { page, part }, broken)
            }
        });
    }
}

fn tables_are_bounded(context: &Context<'_>, _: &History, evidence: &mut Evidence) {
    let index = context.index;
    evidence.check(!index.is_cut(), || Finding {
        place: "all tables".into(),
        expected: "tables that can be looked through".into(),
        found: format!(
            "more than {} tables and {} pages: the rest was not judged",
            index.table_frames(),
            index.page_count(Half::User) + index.page_count(Half::Kernel)
        ),
        ..Finding::default()
    });
}
