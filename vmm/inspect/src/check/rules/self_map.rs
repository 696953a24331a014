//! Recursive paging: the window through which a kernel sees its own tables.

use super::Rule;
use crate::check::evidence::{EntryPlace, Finding};
use crate::check::scene::{shown, top_place};
use crate::judge::RuleInfo;
use crate::layout::Area;
use heirloom_paging::addr::VirtRange;

pub(super) const SELF_MAP_SUPERVISOR: Rule = Rule {
    info: RuleInfo {
        name: "self-map-supervisor",
        statement: "an entry of a root that points to a root (recursive paging) is for ring 0 alone",
        source: "SDM vol. 3A, 4.6.1: with U/S set, ring 3 reads and writes every table whose entries have it, too",
    },
    judge: |scene, verdict| {
        for space in &scene.live {
            for map in &space.self_maps {
                verdict.checked(1);
                let Some(table) = scene.snapshot.root_table(space.root).filter(|_| map.user) else {
                    continue;
                };
                verdict.broken(|| {
                    let range = VirtRange::of_top_entry(map.index, scene.snapshot.mode().depth);
                    let entry = table.entry(map.index);
                    Finding {
                        place: top_place(table.level(), map.index),
                        entry: Some(EntryPlace {
                            level: table.level(),
                            table: table.pfn(),
                            index: map.index,
                            entry,
                        }),
                        range: Some(range),
                        area: Some(Area::SelfMap),
                        spaces: scene.only(space.root),
                        expected: "supervisor only: a self-map shows the page tables".into(),
                        found: shown(entry),
                        walks: vec![scene.walk(space.root, range.first)],
                    }
                });
            }
        }
    },
};
