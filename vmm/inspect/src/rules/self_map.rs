//! Recursive paging: the window through which a kernel sees its own tables.

use super::context::{Context, shown};
use super::evidence::Evidence;
use super::finding::{EntryPlace, Finding};
use super::rule::{Clause, Judge, Reads, Rule, RuleInfo};
use crate::discover::Discovery;
use crate::layout::Area;
use heirloom_paging::addr::VirtRange;

pub(super) const SELF_MAP_SUPERVISOR: Rule = Rule {
    info: RuleInfo {
        name: "self-map-supervisor",
        statement: "an entry of a root that points to a root (recursive paging) is for ring 0 alone",
        source: "SDM vol. 3A, 4.6.1: with U/S set, ring 3 reads and writes every table whose entries have it, too",
    },
    untried: "no self-map",
    clauses: &[Clause {
        reads: Reads::EVENT,
        judge: Judge::Found(self_map_supervisor),
    }],
};

fn self_map_supervisor(context: &Context<'_>, _: &Discovery, evidence: &mut Evidence) {
    let snapshot = context.snapshot();
    for space in context.judged {
        for map in &space.self_maps {
            evidence.checked(1);
            let Some(table) = snapshot.root_table(space.root).filter(|_| map.user) else {
                continue;
            };
            evidence.broken(|| {
                let range = VirtRange::of_top_entry(map.index, snapshot.mode().depth);
                let entry = table.entry(map.index);
                Finding {
                    whose: Some(space.label),
                    place: context.entry_name(table.level(), map.index),
                    entry: Some(EntryPlace {
                        level: table.level(),
                        table: table.pfn(),
                        index: map.index,
                        entry,
                    }),
                    address: Some(range.first),
                    range: Some(range),
                    area: Some(Area::SelfMap),
                    spaces: context.only(space.root),
                    expected: "supervisor only: a self-map shows the page tables".into(),
                    found: shown(entry),
                    walks: vec![context.walk(space.root, range.first)],
                    ..Finding::default()
                }
            });
        }
    }
}
